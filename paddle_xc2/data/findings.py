"""What breaks rules of a data set: counted by rule, with the first examples; as check-data and a run tell it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from paddle_xc2.messages import and_more, shown

NUM_EXAMPLES = 1000  # kept for each rule; all are counted

_NUM_LISTED = 3  # examples of a rule
_NUM_CHARACTERS = 1000  # of one example

# What is remarkable but trains. Errors are DataErrors, under the rule that they name.
WARNINGS = {
    "left out": "too long, and truncation leave_out goes on without them",
    "shortened": "lose their oldest turns to fit max_length",
    "few trained tokens": "hardly anything of the sample is learned",
    "unused image tag": "a tag for an image that stays text",
    "unread image": "a key that is not read names an image",
    "asked otherwise": "the picture stands elsewhere than chat puts one",
    "large image": "slow to decode",
    "16-bit image": "grey of more than 8 bits, which is cut off at white",
    "image of floats": "values that are no brightness from 0 to 255",
    "transparent image": "transparency is dropped",
    "turned image": "EXIF says how it was held, which is ignored",
    "animated image": "only the first frame is shown",
    "emptied image": "nothing is left to see after it became RGB",
    "tiny image": "smaller than what the model looks at as one patch",
    "duplicate record": "the same texts and images as an earlier record",
    "near-duplicate record": "nearly the same texts, and the same images, as an earlier record",
    "duplicate image": "the same file content under another name",
}


@dataclass
class Finding:
    """What breaks one rule.

    Attributes:
        is_error: whether training would refuse the records, or go wrong.
        count: how often the rule is broken.
        examples: (record, message) of the first ones; the record is counted over all sources, -1 for a whole file.
        advice: what may mend all of them at once; "" if nothing is known.
    """

    is_error: bool
    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)
    advice: str = ""

    def add(self, record: int, message: str) -> None:
        self.count += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append((record, message))

    def merge(self, other: Finding) -> None:
        self.count += other.count
        self.examples += other.examples[: NUM_EXAMPLES - len(self.examples)]


def add_finding(findings: dict[str, Finding], rule: str, is_error: bool, record: int, message: str) -> None:
    findings.setdefault(rule, Finding(is_error)).add(record, message)


def merge_findings(findings: dict[str, Finding], others: dict[str, Finding]) -> None:
    """Adds `others` to `findings`."""
    for rule, finding in others.items():
        findings.setdefault(rule, Finding(finding.is_error)).merge(finding)


def by_frequency(findings: Iterable[tuple[str, Finding]]) -> dict[str, Finding]:
    return dict(sorted(findings, key=lambda item: -item[1].count))


def finding_lines(findings: dict[str, Finding]) -> list[str]:
    """Each rule, how often it is broken, the first examples, and what may mend them."""
    lines = []
    for rule, finding in findings.items():
        lines.append(f"{rule}: {finding.count:,}" + (f" ({WARNINGS[rule]})" if rule in WARNINGS else ""))
        examples = [shown(message, _NUM_CHARACTERS) for _, message in finding.examples[:_NUM_LISTED]]
        advice = [f"-> {shown(finding.advice, _NUM_CHARACTERS)}"] if finding.advice else []
        lines += [f"    {line}" for line in (*examples, *and_more(finding.count, _NUM_LISTED), *advice)]
    return lines

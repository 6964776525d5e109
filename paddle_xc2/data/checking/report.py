"""A DataReport shown: as lines for the terminal, and as JSON values."""

from __future__ import annotations

import os

import numpy as np

from paddle_xc2.data.checking.check import DataReport
from paddle_xc2.data.findings import Finding, finding_lines
from paddle_xc2.messages import counted, shown, sized

_NUM_LISTED = 3  # examples of a finding on the terminal
_NUM_LISTED_CHARACTERS = 1000  # of one of them
_NUM_BINS = 12
_BAR = 40  # characters


def summary_lines(report: DataReport) -> list[str]:
    """What was found, as text."""
    num_records, num_usable = len(report.usable), int(report.usable.sum())
    lines = [f"{source.path}: {counted(len(source.records), 'record')}" for source in report.sources]
    errors = num_records - num_usable
    lines += ["", f"{counted(num_records, 'record')}: {num_usable:,} can be trained on, {errors:,} can't"]
    for title, findings in (("errors", report.of(errors=True)), ("warnings", report.of(errors=False))):
        if findings:
            lines += ["", title]
        lines += [f"  {line}" for line in finding_lines(findings)]
    if len(report.notes):
        lines += ["", "notes: read in spite of", *(f"  {shown(note, _NUM_LISTED_CHARACTERS)}" for note in report.notes)]
    return [*lines, *_length_lines(report), *_image_lines(report)]


def _length_lines(report: DataReport) -> list[str]:
    numbers = length_numbers(report)
    if numbers is None:
        return []
    unit = numbers["unit"]
    lines = [
        "",
        f"{unit} a record: {numbers['smallest']:,} to {numbers['largest']:,}, mean {numbers['mean']:,.0f}, median "
        f"{numbers['median']:,.0f}; {numbers['trained_share']:.1%} of all are "
        f"{'trained' if unit == 'tokens' else 'answers'}",
    ]
    if unit == "tokens":
        lines[-1] += f", {numbers['image_share']:.1%} image slots"
    edges, counts = numbers["histogram"]["edges"], numbers["histogram"]["counts"]
    width = len(f"{edges[-1]:,}")
    for start, stop, count in zip(edges, edges[1:], counts, strict=False):
        bar = "█" * round(_BAR * count / max(counts)) or ("▏" if count else "")
        lines.append(f"  {start:>{width},} to {stop - 1:>{width},}  {f'{bar} {count:,}'.lstrip()}")
    if report.max_length is not None:
        longer = counted(numbers["num_longer"], "record is", "records are")
        lines.append(f"  max_length is {report.max_length:,}; {longer} longer")
    return lines


def _image_lines(report: DataReport) -> list[str]:
    if not report.images:
        return []
    numbers = image_numbers(report)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in numbers["kinds"].items())
    lines = [
        "",
        f"images: records name {numbers['references']:,}; {'read whole' if report.decoded else 'headers read'}: "
        f"{counted(numbers['files'], 'file')}, {sized(numbers['bytes'])}: {kinds}",
    ]
    if "width" in numbers:
        lines += [
            "  {name:<7} {smallest:>7,} to {largest:>7,}, median {median:,.0f} pixels".format(
                name=name, **numbers[name]
            )
            for name in ("width", "height")
        ]
    return lines


def length_numbers(report: DataReport) -> dict | None:
    """Lengths of the records, in tokens where a model was given and in characters elsewhere; None if none is known."""
    tokens, characters = report.lengths[report.lengths[:, 0] >= 0], report.characters[report.characters[:, 0] >= 0]
    in_tokens = report.max_length is not None
    lengths = (tokens if in_tokens else characters)[:, 0]
    if not len(lengths):
        return None
    if in_tokens:
        whole = tokens[tokens[:, 2] >= 0]  # of what is too long, only the length is known
        image_share, trained_share = (whole[:, [1, 2]].sum(axis=0) / max(1, whole[:, 0].sum())).tolist()
    else:
        image_share, trained_share = None, float(characters[:, 1].sum() / max(1, characters[:, 0].sum()))
    edges = _bin_edges(int(lengths.max()))
    counts, _ = np.histogram(lengths, edges)
    return {
        "unit": "tokens" if in_tokens else "characters",
        "smallest": int(lengths.min()),
        "largest": int(lengths.max()),
        "mean": float(lengths.mean()),
        "median": float(np.median(lengths)),
        "trained_share": trained_share,
        "image_share": image_share,
        "max_length": report.max_length,
        "num_longer": int((lengths > report.max_length).sum()) if in_tokens else None,
        "histogram": {"edges": edges, "counts": counts.tolist()},
    }


def _bin_edges(largest: int) -> list[int]:
    """Whole numbers from 0 to beyond `largest`, 1, 2 or 5 times a power of ten apart."""
    step = next(
        factor * 10**power for power in range(20) for factor in (1, 2, 5) if factor * 10**power * _NUM_BINS > largest
    )
    return list(range(0, largest + step + 1, step))


def image_numbers(report: DataReport) -> dict:
    """What kinds of image files there are, and how large."""
    kinds: dict[str, int] = {}
    for image in report.images:
        kind = os.path.splitext(image.path)[1].lower().lstrip(".")[:12] or "without suffix"
        kinds[kind] = kinds.get(kind, 0) + 1
    numbers = {
        "references": report.num_image_references,
        "files": len(report.images),
        "bytes": sum(image.num_bytes for image in report.images),
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
    }
    sizes = np.array([(image.width, image.height) for image in report.images if image.width])
    for name, values in zip(("width", "height"), sizes.T, strict=False):
        numbers[name] = {
            "smallest": int(values.min()),
            "largest": int(values.max()),
            "median": float(np.median(values)),
        }
    return numbers


def report_values(report: DataReport) -> dict:
    """What was found, as JSON values."""

    def listed(findings: dict[str, Finding]) -> dict:
        return {
            rule: {"count": finding.count, "examples": [message for _, message in finding.examples]}
            | ({"advice": finding.advice} if finding.advice else {})
            for rule, finding in findings.items()
        }

    return {
        "files": [{"path": str(source.path), "records": len(source.records)} for source in report.sources],
        "records": len(report.usable),
        "usable": int(report.usable.sum()),
        "errors": listed(report.of(errors=True)),
        "warnings": listed(report.of(errors=False)),
        "notes": [{"kind": note.kind, "count": note.count, "example": note.example} for note in report.notes],
        "lengths": length_numbers(report),
        "images": image_numbers(report),
        "images_decoded": report.decoded,
    }

"""How one key of the argument file is declared: default, help, bounds, other names, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Resume(Enum):
    """What a key means to a run that goes on from a checkpoint of another value.

    MUST_MATCH: training would not go on as it would have: it is refused.
    RESULT_MUST_MATCH: not the value itself must match, but what follows from it (`Plan.resume_settings`): the samples,
        the number of steps, the precision.
    MAY_CHANGE: training goes on as it would have, but for last digits.
    """

    MUST_MATCH = "must match"
    RESULT_MUST_MATCH = "its result must match"
    MAY_CHANGE = "may change"


MUST_MATCH, RESULT_MUST_MATCH, MAY_CHANGE = Resume


@dataclass(frozen=True)
class Key:
    """What is known of a key beside its type and its default, which dataclasses keep.

    Attributes:
        help: what it is, with its unit.
        resume: whether a checkpoint can be gone on from with another value. Every key says so: one that decides how
            training goes on and doesn't would be changed in silence.
        least, most, above, below: bounds of a number; null is not held against them.
        choices: all values of a text.
        also: other names of the same key, as other programs call it.
        lora_only: asks for nothing without LoRA: another value than the default is then an error.
    """

    help: str
    resume: Resume
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    lora_only: bool = False

    def complaint(self, value: Any) -> str | None:
        """What a value of the right type must be, if it is not: "at least 1"; else None."""
        if value is None:
            return None
        if self.choices and value not in self.choices:
            one, *others = self.choices
            return f"one of {', '.join(self.choices)}" if others else f"{one}, or null"
        if self.above is not None and not self.above < value <= self.most:
            return f"above {self.above} and at most {_number(self.most)}"
        if self.below is not None and not self.least <= value < self.below:
            return f"from {self.least} to below {self.below}"
        if self.least is not None and value < self.least:
            return f"at least {self.least}"
        if self.most is not None and value > self.most:
            return f"at most {_number(self.most)}"
        return None


def _number(bound: float | None) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def key(default: Any, help: str, *, resume: Resume, **settings: Any) -> Any:
    """Declares a field of the arguments. Args: as Key's attributes."""
    return field(default=default, metadata={"key": Key(help, resume, **settings)})

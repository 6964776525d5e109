"""A value of a file as Python would write it, for a message: short, in one line, and in bounded time."""

from __future__ import annotations

import reprlib

_MAX_CHARACTERS = 100


class _Short(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 4
        self.maxstring = self.maxlong = _MAX_CHARACTERS

    def repr_int(self, value, level) -> str:
        if value.bit_length() < 10_000:
            return super().repr_int(value, level)
        return f"<int of {value.bit_length()} bits>"  # Python refuses to write out the very long ones

    def repr_bytes(self, value, level) -> str:
        return repr(value) if len(value) <= _MAX_CHARACTERS else f"{value[:_MAX_CHARACTERS]!r}..."

    def repr_instance(self, value, level) -> str:
        plain = isinstance(value, (bool, float, type(None)))
        return repr(value) if plain else f"<{type(value).__name__}>"  # whose own repr may be without bound


def short_repr(value: object) -> str:
    """How Python would write `value`, with "..." for what is left out of the long and the deep.

    `repr` of a 100 KB text is 100 KB long; of a tuple that holds itself twice on each of 40 levels it never ends.
    """
    text = " ".join(_Short().repr(value).split())
    return text if len(text) <= 2 * _MAX_CHARACTERS else f"{text[: 2 * _MAX_CHARACTERS]}..."

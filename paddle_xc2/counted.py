"""Numbers of things, as messages write them."""

from __future__ import annotations


def counted(number: int, one: str, several: str = "") -> str:
    """ "1 record", "12,345 records".

    Args:
        one: what one of them is called.
        several: what more of them are called, and none; `one` with an s if it is left out.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"

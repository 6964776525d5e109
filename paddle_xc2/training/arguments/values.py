"""Types of values, and how messages call them."""

from __future__ import annotations

import sys
import types
from typing import Any

SPOKEN = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list[str]: "a list of texts",
    dict: "an object",
    types.NoneType: "null",
}


def is_of_type(value: Any, kind: Any) -> bool:
    if kind == list[str]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind in (int, float):
        kinds = (int, float) if kind is float else int
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)

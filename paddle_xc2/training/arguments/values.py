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
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
            return False
        return kind is float or value == int(value)  # JSON has one kind of number: 1e3 is a whole one
    return isinstance(value, kind)

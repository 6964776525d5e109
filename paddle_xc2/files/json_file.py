"""Reads a JSON file that any program may have written: what is in it is bounded before anything uses it.

Of models, adapters, indexes, arguments and states alike; records of training data have readers of their own.
"""

from __future__ import annotations

import json
from pathlib import Path

from paddle_xc2.messages import sized

MAX_BYTES = 16 * 2**20  # the index of a 7B model has 0.1 MB
# Settings nest 3 or 4 levels; what copies, compares and writes them is recursive and breaks at some hundreds.
MAX_DEPTH = 50
_MAX_VALUE = 100  # characters of a key or a value that a message shows


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> dict:
    """The object that a file holds.

    Raises: FileNotFoundError; ValueError naming the file, and the place in it, if it is no regular file, too large, not
        UTF-8, no JSON, nested too deep, no object, or has a key twice with different values.
    """
    return parse_json(read_bytes(path, max_bytes), str(path))


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a small file. Raises: as `read_json`."""
    if not path.is_file():  # a pipe would never end
        if path.exists():
            raise ValueError(f"{path}: is no file, but a directory, a pipe or a device; copy the file itself there")
        raise FileNotFoundError(f"{path}: there is no such file")
    with open(path, "rb") as file:
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"{path}: has more than {sized(max_bytes)}, which no file of its kind needs; copy it again")
    return raw


def parse_json(raw: bytes, source: str) -> dict:
    """The object that `raw` holds.

    Args:
        source: the file, for messages.
    Raises: ValueError as `read_json`.
    """
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")  # which some editors begin a file with
        content = json.loads(text, object_pairs_hook=_keys_once)
        if isinstance(content, (dict, list)):
            _check_depth(content)
        if "\\ud" in text.lower():  # only an escape can be half a character in sound UTF-8
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: this is not UTF-8 text ({error})") from None
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"{source}: holds {half!r}, half of a surrogate pair, which is no character") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{source}: is nested too deep: objects and lists within each other without end") from None
    except ValueError as error:  # a key that stands twice, a number of thousands of digits
        raise ValueError(f"{source}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{source}: expected a JSON object, found a {type(content).__name__}")
    return content


def _keys_once(pairs: list[tuple[str, object]]) -> dict:
    """For json.loads, which else keeps the last of two values in silence."""
    content = dict(pairs)
    if len(content) < len(pairs):
        for name, value in pairs:
            if content[name] is not value and content[name] != value:  # NaN differs from itself
                one, other = (json.dumps(each)[:_MAX_VALUE] for each in (value, content[name]))
                raise ValueError(f'"{name[:_MAX_VALUE]}" stands there twice, as {one} and as {other}; keep one of them')
    return content


def _check_depth(content: object) -> None:
    """Raises: RecursionError. Level by level, so that the check itself has no depth."""
    level: list = [content]
    for _ in range(MAX_DEPTH):
        inner = (value for outer in level for value in (outer.values() if isinstance(outer, dict) else outer))
        level = [value for value in inner if isinstance(value, (dict, list))]
        if not level:
            return
    raise RecursionError


def write_json(path: Path, content: dict) -> None:
    """Writes UTF-8, indented, the keys in their order."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

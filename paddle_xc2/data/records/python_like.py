"""Data files that look like JSON but are Python, or a page of documentation: read without evaluating anything.

The documents of XComposer2, XComposer-2.5 and XTuner print their samples with single quotes, with `#` comments, with a
comma behind the last element or without one before the next key, and users copy them. Each of these has one meaning
only; whatever has several, such as two strings side by side, stays an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_DEPTH = 100  # of lists and objects in each other; a record of any format has 5

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<name>[A-Za-z]+(?!\w))
    |(?P<mark>[\[\]{},:，])""",
    re.VERBOSE,
)
_NAMES = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_ESCAPE = re.compile(r'\\(x[0-9A-Fa-f]{2}|.)|"', re.DOTALL)
_CLOSES = {"]": "[", "}": "{"}
_OPENS = tuple(_CLOSES.values())


class NotPythonLike(ValueError):
    """A text that is neither JSON nor one of the known ways to miss it. `position`: the character where that shows."""

    def __init__(self, message: str, position: int):
        super().__init__(message)
        self.position = position


class _Token(NamedTuple):
    json: str  # as JSON writes it
    start: int
    end: int
    ends_value: bool = False


def read_value(text: str, decode):
    """The value that `text` writes.

    Args:
        decode: reads JSON text, raising json.JSONDecodeError.
    Raises: NotPythonLike; whatever else `decode` raises.
    """
    tokens = list(_mended(text))
    try:
        return decode(" ".join(token.json for token in tokens))
    except json.JSONDecodeError as error:
        place = 0
        for token in tokens:
            place += len(token.json) + 1
            if error.pos < place:
                raise NotPythonLike(error.msg, token.start) from error
        raise NotPythonLike(error.msg, len(text)) from error


def list_elements(text: str) -> Iterator[tuple[int, int]]:
    """Where the elements of a list stand in its text: (start, end) in characters, one after the other.

    Raises: NotPythonLike if the text is no list, or goes on after it.
    """
    depth, start, end, closed = 0, None, 0, False
    for token in _mended(text):
        if closed or not depth and token.json != "[":
            raise NotPythonLike("Extra data" if closed else "Expecting a list", token.start)
        if depth == 1 and token.json in (",", "]"):
            if start is not None:
                yield start, end
            elif token.json == ",":
                raise NotPythonLike("Expecting value", token.start)
            start = None
        elif depth >= 1 and start is None:
            start = token.start
        depth += (token.json in _OPENS) - (token.json in _CLOSES)
        end, closed = token.end, depth == 0
    if not closed:
        raise NotPythonLike("the list has no end", len(text))


def _mended(text: str):
    """The tokens of `text`, with the comma that is missing and without the one too many."""
    waiting = None  # a comma, until it is seen whether something follows it
    open_marks = []
    tokens = _tokens(text)
    last, token, following = None, next(tokens, None), next(tokens, None)
    while token is not None:
        if token.json in _CLOSES:
            if not open_marks or _CLOSES[token.json] != open_marks.pop():
                raise NotPythonLike(f"{token.json} closes what is not open", token.start)
        elif token.json in _OPENS:
            open_marks.append(token.json)
            if len(open_marks) > MAX_DEPTH:
                raise NotPythonLike(f"more than {MAX_DEPTH} lists and objects in each other", token.start)
        if waiting is not None and token.json not in _CLOSES:
            yield waiting
        elif waiting is None and last is not None and last.ends_value and _is_next(last, token, following):
            yield _Token(",", token.start, token.start)
        waiting = None
        if token.json == "," and last is not None and last.ends_value:
            waiting = token
        else:
            yield token
        last, token, following = token, following, next(tokens, None)
    if waiting is not None:
        yield waiting


def _is_next(last: _Token, token: _Token, following: _Token | None) -> bool:
    """Whether a comma is missing before `token`: it is a key, or a record right after a record."""
    is_key = token.json.startswith('"') and following is not None and following.json == ":"
    return is_key or (last.json == "}" and token.json == "{")


def _tokens(text: str):
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise NotPythonLike("Expecting value", position)
        token, start, position = match.group(), position, match.end()
        if match.lastgroup == "space":
            continue
        if match.lastgroup == "string":
            yield _Token(token if token[0] == '"' else _double_quoted(token, start), start, position, True)
        elif match.lastgroup == "number":
            yield _Token(token, start, position, True)
        elif match.lastgroup == "mark":
            yield _Token(token.replace("，", ","), start, position, token in _CLOSES)
        elif token in _NAMES:
            yield _Token(_NAMES[token], start, position, True)
        else:
            raise NotPythonLike(f"{token[:40]} is no value", start)


def _double_quoted(token: str, start: int) -> str:
    """A string in single quotes as JSON writes it."""

    def escape(match) -> str:
        what = match.group(1)
        if match.group() == '"':
            return r"\""
        if what == "'":
            return "'"
        if what[0] == "x" and len(what) == 3:
            return r"\u00" + what[1:]
        if what not in tuple('"\\/bfnrtu'):
            raise NotPythonLike(f"JSON has no {match.group()}", start + 1 + match.start())
        return match.group()

    return f'"{_ESCAPE.sub(escape, token[1:-1])}"'

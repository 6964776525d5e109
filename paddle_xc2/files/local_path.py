"""Paths as people and other programs write them: file:// addresses, ~ for the home, the back slashes of Windows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote

from paddle_xc2.messages import shown

_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_FILE_ADDRESS = re.compile(r"file:(?://(?:localhost(?=/))?)?", re.IGNORECASE)


def local_path(name: str | os.PathLike) -> Path:
    """What a name written by a user stands for: the first of `spellings` that is there, else the first of all.

    A path that is written plainly comes back as it is.

    Raises: ValueError for an address of a network, of which the file system would make folders.
    """
    if _ADDRESS.match(os.fspath(name)):
        raise ValueError(f"{shown(name)}: is an address, where a path on this machine is expected; fetch it first")
    first, *others = spellings(name)
    return Path(next(filter(os.path.lexists, (first, *others)), first) if others else first)


def find_path(
    name: str | os.PathLike, folders: Iterable, is_right: Callable[[Path], bool] = os.path.isfile
) -> Path | None:
    """The first of `folders` joined with one of the name's `spellings` that is right; None if none is.

    Args:
        folders: where a relative name is looked for, in this order; an absolute one stays what it is.
    """
    spelled = spellings(name)
    return next((path for folder in folders for one in spelled if is_right(path := Path(folder, one))), None)


def spellings(name: str | os.PathLike) -> list[str]:
    """The paths that a name can stand for, the likeliest first.

    A file:// address is decoded (%20) or not; of a name with back slashes, only one that is nowhere is Windows'.
    """
    text = os.fspath(name)
    if address := _FILE_ADDRESS.match(text):
        text = text[address.end() :]
    spelled = [unquote(text), text] if address else [text]
    if os.sep == "/":
        spelled += [one.replace("\\", "/") for one in spelled]
    return list(dict.fromkeys(one for text in spelled for one in (os.path.expanduser(text), text)))

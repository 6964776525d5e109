"""Where images that are not found may lie: a folder beside the data in which they are found."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from paddle_xc2.files.local_path import find_path, spellings

NUM_LOOKED_FOR = 20  # images; enough to tell which folder is meant

_NUM_FOLDERS = 500
_DEPTH = 3


def where_they_lie(missing: Iterable[tuple[str, Path]]) -> str:
    """What to do about images that are not found: a sentence, or "" if none of them is anywhere near.

    Args:
        missing: (what the record names, folder that it was looked for in) of some of them.
    """
    looked_for = list(dict.fromkeys(missing))[:NUM_LOOKED_FOR]
    names = [name for name, _ in looked_for]
    best, found = _best_folder(_near(folder for _, folder in looked_for), names)
    if found:
        return f"{found} of the {len(names)} looked for are in {best}: set image_folder to it (--image_folder {best})"
    last_parts = [Path(spellings(name)[-1]).name for name in names]
    best, found = _best_folder(_near(folder for _, folder in looked_for), last_parts)
    if found:
        return (
            f"{found} of the {len(names)} looked for are in {best}, under the last part of their paths; correct the "
            "paths in the data"
        )
    return ""


def _best_folder(folders: Iterable[Path], names: list[str]) -> tuple[Path | None, int]:
    """The folder in which the most of `names` are, and how many."""
    counts = ((folder, sum(find_path(name, [folder]) is not None for name in names if name)) for folder in folders)
    return max(counts, key=lambda pair: pair[1], default=(None, 0))


def _near(folders: Iterable[Path]) -> Iterator[Path]:
    """Each folder, those in it a few levels down, and the one above it with those in it. The nearest come first."""
    seen: set[str] = set()
    for folder in dict.fromkeys(Path(folder) for folder in folders):
        for start, depth in ((folder, _DEPTH), (folder.absolute().parent, 1)):
            for path in _below(start, depth):
                if len(seen) < _NUM_FOLDERS and (real := os.path.realpath(path)) not in seen:
                    seen.add(real)
                    yield path


def _below(start: Path, depth: int) -> Iterator[Path]:
    level = [start]
    for _ in range(depth + 1):
        yield from level
        level = [Path(entry.path) for folder in level[:_NUM_FOLDERS] for entry in _folders_in(folder)]


def _folders_in(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            found = (entry for entry in entries if not entry.name.startswith(".") and entry.is_dir())
            return sorted(found, key=lambda entry: entry.name)[:_NUM_FOLDERS]
    except OSError:
        return []

"""New files in the place of old ones, in a folder that others may use too.

1. The new files lie whole in a folder of their own.
2. A JOURNAL among them says which old ones they replace. Killed before, nothing has happened to the old ones; killed
   afterwards, `finish` brings it to its end.
3. The files that readers know the folder by go first and come last: in between there is nothing to read, rather than a
   mixture. The others are replaced one by one; what is left of the old ones is deleted.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from paddle_xc2.files.durable import (
    SCRATCH,
    NotOurs,
    is_as_written,
    is_file_table,
    is_within,
    replace_file,
    sha256,
    sync,
)
from paddle_xc2.files.json_file import read_json
from paddle_xc2.messages import listed

JOURNAL = f"{SCRATCH}replaces.json"


def replace_files(
    new: Path, destination: Path, old: dict[str, dict | None], known_by: tuple[str, ...], since: int | None = None
) -> None:
    """Moves all files of `new` into `destination` in the place of `old`; `new` is gone then.

    Args:
        old: files of ours in `destination`, by path in it, with their entries of a `file_table`; None is a file that is
            ours whatever it holds by now.
        known_by: names of files that make a folder what it is to a reader.
        since: as `is_as_written`.
    Raises: NotOurs if a file that we did not write is in the way. `destination` is as it was then.
    """
    names = [path.relative_to(new).as_posix() for path in sorted(new.rglob("*")) if not path.is_dir()]
    names.sort(key=lambda name: name in known_by)
    journal = {"new": names, "old": old, "known_by": known_by, "since": since}
    replace_file(new / JOURNAL, json.dumps(journal).encode())
    finish(new, destination)


def finish(new: Path, destination: Path) -> bool:
    """Goes on with what was interrupted, if JOURNAL says so. Returns: whether it did. Raises: as `replace_files`."""
    if not (new / JOURNAL).is_file():
        _remove_folders(new)  # the last thing to do
        return False
    journal = _read_journal(new / JOURNAL)
    old, since = journal["old"], journal["since"]
    waiting = [name for name in journal["new"] if (new / name).exists()]
    leaving = [name for name in old if name not in journal["new"] and (destination / name).exists()]
    foreign = [name for name in leaving if not _is_ours(destination / name, old, name, since)]
    foreign += [
        name
        for name in waiting
        if not _is_ours(destination / name, old, name, since) and differs(destination / name, new / name)
    ]
    check_none_foreign(destination, foreign, f"; the new files lie whole in {new}, and take their places then")
    if waiting:  # else the new ones are all there already
        for name in journal["known_by"]:
            if name in leaving or name in waiting:
                (destination / name).unlink(missing_ok=True)
    for name in leaving:
        (destination / name).unlink(missing_ok=True)
    for name in waiting:
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).replace(destination / name)
    for folder in sorted({(destination / name).parent for name in [*journal["new"], *old]}, reverse=True):
        if folder.is_dir():
            sync(folder)
        if folder != destination:
            with suppress(OSError):  # what others have in it keeps it
                folder.rmdir()
    (new / JOURNAL).unlink()
    _remove_folders(new)
    return True


def _read_journal(path: Path) -> dict:
    """Raises: ValueError if it is not as `replace_files` writes it."""
    match read_json(path):
        case {"new": list(new), "old": dict(old), "known_by": list(), "since": int() | None} as journal:
            listed_files = {name: entry for name, entry in old.items() if entry is not None}
            if is_file_table(listed_files) and all(isinstance(name, str) and is_within(name) for name in [*new, *old]):
                return journal
    raise ValueError(f"{path}: is damaged; delete its folder, which holds what was to be written beside it")


def _remove_folders(folder: Path) -> None:
    """Deletes a folder that holds nothing but folders."""
    inside = list(folder.rglob("*"))
    if folder.is_dir() and all(path.is_dir() and not path.is_symlink() for path in inside):
        for path in sorted(inside, reverse=True):
            path.rmdir()
        folder.rmdir()


def check_none_foreign(destination: Path, names: list[str], what_then: str = "") -> None:
    """Raises: NotOurs if there are `names`, of files in `destination` that are in the way and not ours."""
    if names:
        raise NotOurs(
            f"{destination}: {listed(names)}: not written by paddle_xc2, or changed since; move that away, or give "
            f"another directory{what_then}"
        )


def _is_ours(path: Path, old: dict, name: str, since: int | None) -> bool:
    return name in old and (old[name] is None or is_as_written(path, old[name], since))


def differs(path: Path, new: Path) -> bool:
    """Whether there is something at `path`, and it is not what is in the file `new`."""
    if not path.is_file():
        return path.exists() or path.is_symlink()
    return path.stat().st_size != new.stat().st_size or sha256(path) != sha256(new)

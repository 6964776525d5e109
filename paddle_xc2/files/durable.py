"""Files that a kill can't harm: written aside, brought to the disk, renamed; and the one way to know our own again.

A name that begins with SCRATCH is of something of ours that is not whole yet, or of a lock. Whatever else is deleted
or replaced was written by us: a table says which files these are, with their sizes and SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from paddle_xc2.messages import sized, writing

SCRATCH = ".paddle_xc2-"
# Errors that say nothing against what is written so far: Ctrl-C, a full disk, a disk that went away.
INTERRUPTIONS = (KeyboardInterrupt, OSError)
_BLOCK_BYTES = 16 * 2**20
_ABANDONED_SECONDS = 3600.0  # that nothing was written for, of a file that takes seconds to write
_MAX_NAME_BYTES = 200  # of a name that is put into another one: file systems end at 255


class NoRoom(ValueError):
    """What is to be written does not fit on the disk; found out before the first byte."""


class NotOurs(ValueError):
    """What is to be written has the name of a file that we did not write, or that was changed since."""


def scratch(path: Path, what: str) -> Path:
    """A path beside `path` for something of ours: "writing", "lock"."""
    name, raw = path.name, os.fsencode(path.name)
    if len(raw) > _MAX_NAME_BYTES:
        name = hashlib.sha256(raw).hexdigest()
    return path.with_name(f"{SCRATCH}{what}-{name}")


@contextmanager
def written_aside(path: Path, by_several: bool = False) -> Iterator[Path]:
    """A path to write to, whose file takes the place of `path` in one step when the block ends without an error.

    Args:
        by_several: other processes may be writing `path` too. Each has a file of its own, and the last one's stays;
            what a killed one leaves is nobody's, and for `delete_abandoned`.
    """
    aside = scratch(path, f"writing-{uuid.uuid4().hex[:8]}" if by_several else "writing")
    try:
        with writing(path):
            yield aside
            sync(aside)
            aside.replace(path)
            sync(path.parent)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def delete_abandoned(folder: Path) -> None:
    """Deletes what killed processes left half-written in a folder that several write into; nothing that is in work."""
    for path in folder.glob(f"{SCRATCH}writing-*"):
        with suppress(FileNotFoundError):  # another process is faster
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old or the new content, never a part."""
    with written_aside(path) as aside:
        aside.write_bytes(content)


@contextmanager
def written_once(path: Path, taken: str, replace: bool = False) -> Iterator[BinaryIO | SameContent]:
    """A file to write to, which appears at `path` in one step.

    A file that is there already may hold the same content, and stays: so a command that was killed after its last step
    succeeds when it is given again.

    Args:
        taken: what is wrong if it holds another content.
        replace: it may hold anything, and is replaced.
    Raises: ValueError(taken), at the first piece that differs.
    """
    if replace or not path.exists():
        with written_aside(path) as aside, open(aside, "wb") as file:
            yield file
        return
    with open(path, "rb") as there:
        yield SameContent(there, taken)
        if there.read(1):
            raise ValueError(taken)


class SameContent:
    """Takes what a file should hold, and finds it in a file that is there. Raises: ValueError(taken) if it differs."""

    def __init__(self, there: BinaryIO, taken: str):
        self._there = there
        self._taken = taken

    def write(self, content: bytes) -> None:
        if self._there.read(len(content)) != content:
            raise ValueError(self._taken)

    def flush(self) -> None:
        """Nothing is written."""


def sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leave_cache(path: Path) -> None:
    """Lets the system forget what it holds of a file that is on the disk: who reads it next, reads the disk."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def check_free_space(directory: Path, num_bytes: int) -> None:
    """Raises: NoRoom if `num_bytes` more don't fit on the disk of `directory`."""
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        raise NoRoom(
            f"{directory.parent}: {sized(num_bytes)} are needed there, but its disk has {sized(free)} "
            f"free; free {sized(num_bytes - free)}, or give a directory on another disk"
        )


def sha256(path: Path, on_bytes: Callable[[int], object] = lambda count: None) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()


def file_table(directory: Path, known: dict[str, str] | None = None) -> dict[str, dict]:
    """{path within the directory: {"bytes", "sha256"}} of every file in it.

    Args:
        known: SHA-256 of the files for which it is known already.
    """
    known = known or {}
    paths = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}
    with ThreadPoolExecutor() as pool:
        sums = pool.map(lambda name: known.get(name) or sha256(paths[name]), paths)
        return {
            name: {"bytes": paths[name].stat().st_size, "sha256": digest}
            for name, digest in zip(paths, sums, strict=True)
        }


def table_entry(content: bytes) -> dict:
    """What `file_table` lists of a file that holds `content`."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def differences(
    directory: Path,
    files: dict[str, dict],
    contents: dict[str, bytes] | None = None,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> Iterator[str]:
    """Yields a sentence for every file that is not the one which a table lists; what needs no reading first.

    Args:
        files: of `file_table`, for `directory`.
        contents: of files that were read already, by path in it, which are not read again.
        on_bytes: gets the number of bytes of every piece that is read.
    """
    contents, whole = contents or {}, []
    for name, entry in files.items():
        path, content = directory / name, contents.get(name)
        if content is None and not path.is_file():
            yield f"{name} is missing"
        elif (size := path.stat().st_size if content is None else len(content)) != entry["bytes"]:
            yield f"{name} has {size} bytes instead of {entry['bytes']}"
        else:
            whole.append(name)

    def digest_of(name: str) -> str:
        if name in contents:
            return hashlib.sha256(contents[name]).hexdigest()
        return sha256(directory / name, on_bytes)

    with ThreadPoolExecutor() as pool:
        for name, digest in zip(whole, pool.map(digest_of, whole), strict=True):
            if digest != files[name]["sha256"]:
                yield f"{name} has changed (its SHA-256 is another)"


def is_file_table(content) -> bool:
    """Whether JSON values are a table as `file_table` makes it, of files within a directory."""
    match content:
        case dict(entries):
            return all(_is_entry(name, entry) for name, entry in entries.items())
    return False


def _is_entry(name: str, entry) -> bool:
    match entry:
        case {"bytes": int(), "sha256": str()}:
            return is_within(name)
    return False


def is_within(name: str) -> bool:
    """Whether a relative path leads to what is below the directory that it begins in."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def is_as_written(path: Path, entry: dict | None, since: int | None = None) -> bool:
    """Whether a file is the one that a table lists.

    Args:
        entry: of `file_table`; None is not listed.
        since: when the table was written, in nanoseconds since 1970: a file of the right size that was not changed
            since then is not read.
    """
    if entry is None or not path.is_file():
        return False
    status = path.stat()
    if status.st_size != entry["bytes"]:
        return False
    return since is not None and status.st_mtime_ns <= since or sha256(path) == entry["sha256"]

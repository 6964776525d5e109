"""Writes a checkpoint's directory whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddle_xc2.checkpoint_config import CONFIG_FILE
from paddle_xc2.weights.checkpoint_files import find_shards, sync
from paddle_xc2.weights.manifest import MANIFEST_FILE, manifest_files

# Errors that say nothing against what is written so far: Ctrl-C, a full disk, a disk that went away.
INTERRUPTIONS = (KeyboardInterrupt, OSError)
_UNFINISHED = ".unfinished"


class NoRoom(ValueError):
    """What is to be written does not fit on the disk; found out before the first byte."""


@contextmanager
def whole_directory(destination: str | Path, overwrite: bool = False, resumable: bool = False) -> Iterator[Path]:
    """A directory to write into, whose files appear at `destination` when the block ends without an error.

    Until then they lie in a directory of their own: beside `destination`, which then appears in one rename, or, where
    it exists already, within it. In that case config.json goes first and comes last: in between, `destination` is no
    checkpoint rather than a mixed one.

    Args:
        overwrite: allows a `destination` that is not empty. A checkpoint of ours in it is replaced, other files stay.
        resumable: the directory may hold what an earlier block left when it was killed or ended with one of
            INTERRUPTIONS, and whatever this block leaves in that case stays. Else it is empty, and nothing stays.
    Raises: ValueError if `destination` is a file, is not empty, or holds a checkpoint that we did not write, or if
        another process is writing it.
    """
    destination = Path(destination).resolve()
    check_destination(destination, overwrite)
    exists = destination.exists()
    partial = destination / _UNFINISHED if exists else destination.with_name(f".{destination.name}{_UNFINISHED}")
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial, destination):
        if not resumable:
            _empty(partial)  # left by a process that was killed
        try:
            yield partial
            for path in partial.rglob("*"):
                sync(path)
            if not exists:
                partial.rename(destination)
                sync(destination.parent)
        except BaseException as error:
            if not (resumable and isinstance(error, INTERRUPTIONS) and any(partial.iterdir())):
                shutil.rmtree(partial, ignore_errors=True)
            raise
        if exists:
            _replace_files(partial, destination)


@contextmanager
def _locked(directory: Path, destination: Path) -> Iterator[None]:
    """Keeps other processes out of `directory`. The system forgets the lock when the process ends, however it ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{destination}: another process is writing it; wait for its end, or give another directory"
            ) from None
        except OSError:
            pass  # network file systems without locks
        yield
    finally:
        os.close(descriptor)


def check_free_space(directory: Path, num_bytes: int) -> None:
    """Raises: NoRoom if `num_bytes` more don't fit on the disk of `directory`."""
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        raise NoRoom(
            f"{directory.parent}: {num_bytes / 1e9:.3g} GB are needed there, but its disk has {free / 1e9:.3g} GB "
            f"free; free {(num_bytes - free) / 1e9:.3g} GB, or give a directory on another disk"
        )


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_destination(destination: Path, overwrite: bool) -> None:
    """Raises: as `whole_directory`."""
    if destination.exists() and not destination.is_dir():
        raise ValueError(f"{destination} is a file; give a directory to write to")
    if not destination.exists() or not any(path.name != _UNFINISHED for path in destination.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{destination} is not empty; give another directory, or --overwrite (overwrite=True)")
    holds_checkpoint = (destination / CONFIG_FILE).exists() or find_shards(destination)
    if holds_checkpoint and not (destination / MANIFEST_FILE).exists():
        raise ValueError(
            f"{destination} holds a checkpoint that paddle_xc2 did not write (it has no {MANIFEST_FILE}) and does not "
            "overwrite; give another directory"
        )


def _replace_files(partial: Path, destination: Path) -> None:
    old = [CONFIG_FILE, *manifest_files(destination), MANIFEST_FILE]
    for name in old:
        (destination / name).unlink(missing_ok=True)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == CONFIG_FILE):
        path.replace(destination / path.name)
    partial.rmdir()
    sync(destination)

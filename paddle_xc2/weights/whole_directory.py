"""Writes a checkpoint's directory whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddle_xc2.checkpoint_config import CONFIG_FILE
from paddle_xc2.weights.checkpoint_files import find_shards
from paddle_xc2.weights.manifest import MANIFEST_FILE, manifest_files


@contextmanager
def whole_directory(destination: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A directory to write into, whose files appear at `destination` when the block ends without an error.

    Until then they lie in a directory of their own: beside `destination`, which then appears in one rename, or, where
    it exists already, within it. In that case config.json goes first and comes last: in between, `destination` is no
    checkpoint rather than a mixed one.

    Args:
        overwrite: allows a `destination` that is not empty. A checkpoint of ours in it is replaced, other files stay.
    Raises: ValueError if `destination` is a file, is not empty, or holds a checkpoint that we did not write.
    """
    destination = Path(destination).resolve()
    check_destination(destination, overwrite)
    exists = destination.exists()
    partial = destination / ".unfinished" if exists else destination.with_name(f".{destination.name}.unfinished")
    if partial.exists():
        shutil.rmtree(partial)  # left by a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.iterdir():
            _sync(path)
        if not exists:
            partial.rename(destination)
            _sync(destination.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if exists:
        _replace_files(partial, destination)


def check_destination(destination: Path, overwrite: bool) -> None:
    """Raises: as `whole_directory`."""
    if destination.exists() and not destination.is_dir():
        raise ValueError(f"{destination} is a file; give a directory to write to")
    if not destination.exists() or not any(path.name != ".unfinished" for path in destination.iterdir()):
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
    _sync(destination)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

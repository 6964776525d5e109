"""Writes a checkpoint's directory whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from paddle_xc2.checkpoint.manifest import MANIFEST_FILE, manifest_files
from paddle_xc2.files.directory_lock import locked
from paddle_xc2.files.durable import INTERRUPTIONS, SCRATCH, is_as_written, scratch, sync
from paddle_xc2.files.local_path import local_path
from paddle_xc2.files.replacement import check_none_foreign, differs, finish, replace_files
from paddle_xc2.hub.directory import ADAPTER_CONFIG_FILE, CONFIG_FILE
from paddle_xc2.hub.weight_files import find_shards

_KNOWN_BY = (CONFIG_FILE, ADAPTER_CONFIG_FILE)  # what readers know a model, or an adapter, by


@contextmanager
def whole_directory(
    destination: str | Path, overwrite: bool = False, resumable: bool = False, brings: Iterable[Path] = ()
) -> Iterator[Path]:
    """A directory to write into, whose files appear at `destination` when the block ends without an error.

    Until then they lie in a directory of their own: beside `destination`, which then appears in one rename, or, where
    it exists already, within it. In that case config.json goes first and comes last: in between, `destination` is no
    checkpoint rather than a mixed one. Killed in between, it is brought to its end by the next block for it.

    Args:
        overwrite: allows a `destination` that is not empty. A checkpoint of ours in it is replaced, other files stay.
        resumable: the directory may hold what an earlier block left when it was killed or ended with one of
            INTERRUPTIONS, and whatever this block leaves in that case stays. Else it is empty, and nothing stays.
        brings: files that will be copied into it, as far as they are known before.
    Raises: ValueError if `destination` is a file, is not empty, or holds a checkpoint that we did not write, if files
        that are not ours stand in the way, or if another process is writing it.
    """
    destination = local_path(destination).resolve()
    with locked(destination):
        finish_interrupted(destination)
        check_destination(destination, overwrite, brings)
        exists = destination.exists()
        within, beside = _unfinished(destination)
        partial, stale = (within, beside) if exists else (beside, within)
        if stale.exists():
            shutil.rmtree(stale)
        partial.mkdir(parents=True, exist_ok=True)
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
            replace_files(partial, destination, _our_files(destination), _KNOWN_BY, _written_at(destination))


def finish_interrupted(destination: Path) -> None:
    """Brings a replacement to its end in which the process was killed. Raises: NotOurs as `replace_files`."""
    for partial in _unfinished(destination):
        finish(partial, destination)


def _unfinished(destination: Path) -> tuple[Path, Path]:
    """Where the files are before they are whole: within `destination`, or beside it."""
    return destination / f"{SCRATCH}unfinished", scratch(destination, "unfinished")


def _our_files(destination: Path) -> dict[str, dict]:
    """Those that the manifest lists, and itself."""
    manifest = destination / MANIFEST_FILE
    if not manifest.is_file():
        return {}
    return {**manifest_files(destination), MANIFEST_FILE: None}


def _written_at(destination: Path) -> int | None:
    manifest = destination / MANIFEST_FILE
    return manifest.stat().st_mtime_ns if manifest.is_file() else None


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_destination(destination: Path, overwrite: bool, brings: Iterable[Path] = ()) -> None:
    """Raises: as `whole_directory`."""
    if destination.exists() and not destination.is_dir():
        raise ValueError(f"{destination} is a file; give a directory to write to")
    if not destination.exists() or not any(not path.name.startswith(SCRATCH) for path in destination.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{destination} is not empty; give another directory, or --overwrite (overwrite=True)")
    ours, since = _our_files(destination), _written_at(destination)
    if not ours and ((destination / CONFIG_FILE).exists() or find_shards(destination)):
        raise ValueError(
            f"{destination} holds a checkpoint that paddle_xc2 did not write (it has no {MANIFEST_FILE}) and does not "
            "overwrite; give another directory"
        )
    listed = [(name, destination / name, entry) for name, entry in ours.items() if entry is not None]
    foreign = [name for name, path, entry in listed if path.exists() and not is_as_written(path, entry, since)]
    foreign += [path.name for path in brings if path.name not in ours and differs(destination / path.name, path)]
    check_none_foreign(destination, foreign)

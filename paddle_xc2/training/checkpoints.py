"""Checkpoints of a run: whole or not at all.

A checkpoint is written under another name and renamed when everything in it has reached the disk; its last file says
how large each file is and what its SHA-256 is. So a directory named `checkpoint-N` is whole unless it was damaged
afterwards, and `check_whole` finds that out.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paddle_xc2.weights.checkpoint_files import sync
from paddle_xc2.weights.manifest import sha256
from paddle_xc2.weights.whole_directory import NoRoom

MARKER = "checkpoint.json"
_WRITING = ".writing-"  # in front of the name of what is not whole yet
_DELETED = ".deleted-"  # ... and of what is being deleted


def write_checkpoint(
    output_dir: Path,
    step: int,
    write: Callable[[Path], None],
    marker: dict,
    keep: int | None = None,
    best: int | None = None,
) -> Path:
    """Writes `checkpoint-{step}` and then deletes the checkpoints that it makes superfluous.

    Args:
        write: fills the directory that it is given.
        marker: what to remember beside the files: JSON values, "started" (of the run) among them.
        keep: how many checkpoints of this run stay, this one included; None is all. Those of earlier runs go.
        best: step of a checkpoint that is one of them, whatever its age; needs a `keep` of at least 2.
    Returns: its path.
    Raises: OSError if the disk is full or can't be written to. Nothing is deleted then, but what was half-written,
        which gives its room back.
    """
    final = output_dir / f"checkpoint-{step}"
    aside = output_dir / f"{_WRITING}{final.name}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write_aside(aside, step, write, marker)
    except (OSError, NoRoom):
        shutil.rmtree(aside, ignore_errors=True)
        raise
    replaced = _set_aside(final) if final.exists() else None  # damaged, or an earlier run's
    aside.rename(final)
    sync(output_dir)
    if replaced:
        shutil.rmtree(replaced)
    _delete_superfluous(output_dir, step, marker["started"], keep, best)
    return final


def _write_aside(aside: Path, step: int, write: Callable[[Path], None], marker: dict) -> None:
    """Everything of a checkpoint, and on the disk, but for its name."""
    aside.mkdir(parents=True)
    write(aside)
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:
        sums = list(pool.map(_sum_and_sync, files))
    names = [path.relative_to(aside).as_posix() for path in files]
    content = {
        "step": step,
        **marker,
        "files": {
            name: {"bytes": path.stat().st_size, "sha256": digest}
            for name, path, digest in zip(names, files, sums, strict=True)
        },
    }
    replace_file(aside / MARKER, json.dumps(content, indent=2).encode())
    for directory in {path.parent for path in files}:
        sync(directory)


def newest_whole(output_dir: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from.

    The latest run's come before an earlier run's, then later steps before earlier ones.

    Returns: its path, or None; and for each better one why it was passed over.
    """
    passed_over, candidates = [], []
    for path in _checkpoint_dirs(output_dir):
        try:
            candidates.append((read_marker(path), path))
        except (ValueError, FileNotFoundError) as error:
            passed_over.append(str(error))
    for path in sorted(output_dir.glob(f"{_WRITING}checkpoint-*")):
        passed_over.append(f"{path}: the run was interrupted while this was written")
    for _, path in sorted(candidates, key=lambda found: (found[0]["started"], found[0]["step"]), reverse=True):
        try:
            check_whole(path)
            return path, passed_over
        except ValueError as error:
            passed_over.append(str(error))
    return None, passed_over


def newest_named(output_dir: Path) -> Path | None:
    """The directory that is named after the latest step, whole or not."""
    return max(_checkpoint_dirs(output_dir), key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def read_marker(path: Path) -> dict:
    """What `write_checkpoint` remembered. Raises: FileNotFoundError; ValueError if it is no checkpoint of ours."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    if not (path / MARKER).is_file():
        raise ValueError(f"{path}: it has no {MARKER}, so it is unfinished or no checkpoint of this program")
    try:
        marker = json.loads((path / MARKER).read_bytes())
        marker["step"], marker["started"], marker["files"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: {MARKER} is damaged") from None
    return marker


def check_whole(path: Path) -> None:
    """Raises: ValueError naming the first file that is missing or differs from what was written."""
    files = read_marker(path)["files"]
    for name, expected in files.items():
        if not (path / name).is_file():
            raise ValueError(f"{path}: {name} is missing")
        size = (path / name).stat().st_size
        if size != expected["bytes"]:
            raise ValueError(f"{path}: {name} has {size} bytes instead of {expected['bytes']}")
    with ThreadPoolExecutor() as pool:
        for name, digest in zip(files, pool.map(lambda name: sha256(path / name), files), strict=True):
            if digest != files[name]["sha256"]:
                raise ValueError(f"{path}: {name} is damaged (its SHA-256 is not what was written)")


def delete_unfinished(output_dir: Path) -> None:
    """Removes what interrupted runs left half-written."""
    for path in [*output_dir.glob(f"{_WRITING}*"), *output_dir.glob(f"{_DELETED}*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old or the new content, never a part."""
    aside = path.with_name(f"{_WRITING}{path.name}")
    aside.write_bytes(content)
    sync(aside)
    aside.replace(path)


def _delete_superfluous(output_dir: Path, newest: int, started: int, keep: int | None, best: int | None) -> None:
    ours = {}
    for path in _checkpoint_dirs(output_dir):
        try:
            marker = read_marker(path)
        except ValueError:
            continue  # not ours, or damaged beyond recognition: never deleted
        # A later step is of a course that was given up: the run went on from before it.
        if marker["started"] == started and marker["step"] <= newest:
            ours[marker["step"]] = path
        else:
            _delete(path)
    # The newest is to go on from, the best is what the run may end with; then the later the better.
    by_worth = sorted(ours, key=lambda step: (step == newest, step == best, step), reverse=True)
    for step in by_worth[keep or len(ours) :]:
        _delete(ours[step])


def _delete(path: Path) -> None:
    """Under another name first, so that an interrupted deletion leaves nothing that looks like a checkpoint."""
    shutil.rmtree(_set_aside(path))


def _set_aside(path: Path) -> Path:
    doomed = path.with_name(f"{_DELETED}{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    return doomed


def _checkpoint_dirs(output_dir: Path) -> list[Path]:
    return [
        path for path in output_dir.glob("checkpoint-*") if path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)
    ]


def _sum_and_sync(path: Path) -> str:
    sync(path)
    return sha256(path)

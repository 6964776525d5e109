"""Checkpoints of a run: whole or not at all.

A checkpoint is written under another name and renamed when everything in it has reached the disk; its last file says
how large each file is and what its SHA-256 is. So a directory named `checkpoint-N` is whole unless it was damaged
afterwards, and `check_whole` finds that out.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paddle_xc2.files.durable import (
    SCRATCH,
    NoRoom,
    differences,
    file_table,
    is_as_written,
    is_file_table,
    replace_file,
    scratch,
    sync,
)
from paddle_xc2.files.json_file import read_json
from paddle_xc2.files.replacement import finish, replace_files
from paddle_xc2.messages import listed

MARKER = "checkpoint.json"
# What stands in it, under the names that it has always had: settings that must match on resume, and what happened since
# the last logged step.
SETTINGS, INTERVAL = "course", "window"
_SEAL = "sha256"  # in it, of the rest of it
_WRITING = f"{SCRATCH}writing-"  # in front of the name of what is not whole yet


def save_checkpoint(
    output_dir: Path,
    step: int,
    write: Callable[[Path], dict[str, str]],
    marker: dict,
    keep: int | None = None,
    best: int | None = None,
) -> Path:
    """Writes `checkpoint-{step}` and then deletes the checkpoints that it makes superfluous.

    Args:
        write: fills the directory that it is given. Returns: SHA-256 of the files of which it has taken it, by path.
        marker: what to remember beside the files: JSON values, "started" (of the run) among them.
        keep: how many checkpoints of this run stay, this one included; None is all. Those of earlier runs go.
        best: step of a checkpoint that is one of them, whatever its age; needs a `keep` of at least 2.
    Returns: its path.
    Raises: OSError if the disk is full or can't be written to. Nothing is deleted then, but what was half-written,
        which gives its room back.
    """
    final = output_dir / f"checkpoint-{step}"
    aside = scratch(final, "writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write_aside(aside, step, write, marker)
    except (OSError, NoRoom):
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if final.exists():  # damaged, or an earlier run's
        replace_files(aside, final, dict.fromkeys(_our_files(final)), (MARKER,))
    else:
        aside.rename(final)
    sync(output_dir)
    delete_superfluous(output_dir, step, marker["started"], keep, best)
    return final


def _write_aside(aside: Path, step: int, write: Callable[[Path], dict[str, str]], marker: dict) -> None:
    """Everything of a checkpoint, and on the disk, but for its name."""
    aside.mkdir(parents=True)
    known = write(aside)
    paths = list(aside.rglob("*"))
    with ThreadPoolExecutor() as pool:
        list(pool.map(sync, paths))
    content = json.loads(json.dumps({"step": step, **marker, "files": file_table(aside, known)}))  # as it will be read
    replace_file(aside / MARKER, json.dumps({**content, _SEAL: _seal_of(content)}, indent=2).encode())


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
    """The directory of ours that is named after the latest step, whole or not."""
    return max((path for path in _checkpoint_dirs(output_dir) if _our_files(path)), key=_step_of, default=None)


def read_marker(path: Path) -> dict:
    """What `save_checkpoint` remembered. Raises: FileNotFoundError; ValueError if it is no checkpoint of ours."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    if not (path / MARKER).is_file():
        raise ValueError(f"{path}: it has no {MARKER}, so it is unfinished or no checkpoint of this program")
    try:
        marker = read_json(path / MARKER)
    except ValueError:
        marker = {}
    seal = marker.pop(_SEAL, None)  # checkpoints of before it was there have none
    sound = (
        type(marker.get("step")) is int and type(marker.get("started")) is int and is_file_table(marker.get("files"))
    )
    kinds = isinstance(marker.get(SETTINGS, {}), dict) and isinstance(marker.get(INTERVAL), (dict, type(None)))
    if not (sound and kinds) or seal not in (None, _seal_of(marker)):
        raise ValueError(f"{path}: {MARKER} is damaged")
    return marker


def _seal_of(marker: dict) -> str:
    """SHA-256 of what a marker says: it decides how a run goes on, and no other file holds sums of it."""
    return hashlib.sha256(json.dumps(marker, sort_keys=True).encode()).hexdigest()


def check_whole(path: Path) -> None:
    """Raises: ValueError naming the first file that is missing or differs from what was written."""
    if difference := next(differences(path, read_marker(path)["files"]), None):
        raise ValueError(f"{path}: {difference}")


def check_none_in_the_way(output_dir: Path, first: int, last: int) -> None:
    """Raises: ValueError if a checkpoint of the steps `first` to `last` would take the place of what is not ours."""
    foreign = [
        path.name
        for path in sorted(_checkpoint_dirs(output_dir), key=_step_of)
        if first <= _step_of(path) <= last and not _our_files(path) and any(path.iterdir())
    ]
    if foreign:
        raise ValueError(
            f"output_dir {output_dir} holds {listed(foreign)} without a sound {MARKER}: not written by paddle-xc2 "
            "finetune, but named as this run's checkpoints will be; move that away, or choose another folder"
        )


def finish_interrupted(output_dir: Path) -> None:
    """Brings replacements to their end in which a run was killed."""
    for aside in output_dir.glob(f"{_WRITING}checkpoint-*"):
        finish(aside, output_dir / aside.name.removeprefix(_WRITING))


def delete_unfinished(output_dir: Path) -> None:
    """Removes what interrupted runs left half-written, or half-deleted."""
    for path in output_dir.glob(f"{SCRATCH}*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name.startswith(_WRITING):
            path.unlink()


def delete_superfluous(
    output_dir: Path, newest: int, started: int, keep: int | None, best: int | None, given_up: bool = True
) -> None:
    """Deletes the checkpoints that `newest` of the run `started` makes superfluous; others' directories stay.

    Args:
        keep, best: as `save_checkpoint`.
        given_up: later steps, and later runs, are given up: the run went on from before them.
    """
    ours = {}
    for path in _checkpoint_dirs(output_dir):
        try:
            marker = read_marker(path)
        except ValueError:
            continue  # not ours, or damaged beyond recognition: never deleted
        if marker["started"] == started and marker["step"] <= newest:
            ours[marker["step"]] = path
        elif given_up or marker["started"] < started:
            _delete(path)
    # The newest is to go on from, the best is what the run may end with; then the later the better.
    by_worth = sorted(ours, key=lambda step: (step == newest, step == best, step), reverse=True)
    for step in by_worth[keep or len(ours) :]:
        _delete(ours[step])


def _delete(path: Path) -> None:
    """What its MARKER lists, and no other file: with one in it, the directory stays.

    Under another name first, so that an interrupted deletion leaves nothing that looks like a checkpoint; with others'
    files in it the MARKER goes last, so that the next deletion finds the rest.
    """
    files, since = read_marker(path)["files"], (path / MARKER).stat().st_mtime_ns
    ours = [path / name for name, entry in files.items() if is_as_written(path / name, entry, since)]
    ours.append(path / MARKER)
    if {found for found in path.rglob("*") if not found.is_dir()} <= set(ours):
        doomed = scratch(path, "deleting")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)
        return
    for file in ours:
        file.unlink()


def _our_files(path: Path) -> list[str]:
    """What a checkpoint's MARKER lists, and itself; nothing if there is no sound one."""
    try:
        return [*read_marker(path)["files"], MARKER]
    except (FileNotFoundError, ValueError):
        return []


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _checkpoint_dirs(output_dir: Path) -> list[Path]:
    return [
        path for path in output_dir.glob("checkpoint-*") if path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)
    ]

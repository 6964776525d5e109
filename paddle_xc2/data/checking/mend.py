"""What `check-data --fix` mends: only what can't be meant otherwise, and every change is listed.

Writing the records anew already makes JSON of a file that was Python-like, and drops its byte order mark. A record that
nothing here helps is written as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images.downloads import is_data_url, is_url
from paddle_xc2.data.judge import Judge
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.conversations import ConversationFile
from paddle_xc2.data.records.record_keys import RECORD_KEYS, TURN_KEYS, misspelt_keys, nearest
from paddle_xc2.data.records.tables import SUFFIXES as TABLE_SUFFIXES
from paddle_xc2.data.records.turns import SPEAKERS
from paddle_xc2.files.directory_lock import locked
from paddle_xc2.files.durable import written_once

# Kinds of change that say the same in another form.
FORM_ALONE = (
    *("file written as JSON", "record written as JSON", "id written as a text", "image named twice"),
    *("empty image removed", "image written as a list"),
)


@dataclass
class Mended:
    """What was changed.

    Attributes:
        num_records: written.
        kinds: by kind of change: how often, and the first.
        num_dropped: records that are left out.
    """

    num_records: int = 0
    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)
    num_dropped: int = 0

    @property
    def num_changes(self) -> int:
        return sum(count for count, _ in self.kinds.values())

    def add(self, kind: str, change: str) -> None:
        count, first = self.kinds.get(kind, (0, change))
        self.kinds[kind] = count + 1, first


def write_mended(
    source: ConversationFile, out: Path, changes: Path, why_drop: Callable[[int, object], str | None] = lambda *_: None
) -> Mended:
    """Writes the records of `source`, mended, as a JSON list, or as JSON lines if `out` ends in .jsonl.

    Both files are written aside and then renamed, the list of changes first; the source stays as it is.

    Args:
        changes: text file that gets a line for each change.
        why_drop: (number of a record, the record mended, or the DataError of one that can't be read) -> why it is left
            out; None if it is not.
    Raises: DataError if a record can't be read at all, and is not left out; ValueError if there is a file with another
        content at `out` or `changes`, or another process writes there.
    """
    lines, mended = out.suffix.lower() == ".jsonl", Mended()
    folders = source.folders
    # The list of changes is in its place first: with it, what is at `out` may be ours.
    with locked(out), written_once(out, taken(out)) as file, written_once(changes, taken(changes)) as log:
        for note in source.records.notes:
            mended.add("file written as JSON", f"{source.path}: {note.kind}")
            log.write(_encoded(f"{source.path}: written as JSON: {note.kind}\n"))
        for index in range(len(source.records)):
            notes = Notes()
            record, found = _read_mended(source, index, folders, notes)
            if (reason := why_drop(index, record)) is not None:
                mended.num_dropped += 1
                log.write(
                    _encoded(f"{source.name(index)}: left out: {reason.removeprefix(f'{source.name(index)}: ')}\n")
                )
                continue
            if isinstance(record, DataError):
                raise record
            found += [("record written as JSON", str(note.kind)) for note in notes]
            for kind, change in found:
                mended.add(kind, f"{source.name(index)}: {change}")
                log.write(_encoded(f"{source.name(index)}: {change}\n"))
            between = "" if lines else (",\n" if mended.num_records else "[\n")
            file.write((between + _json(record) + ("\n" if lines else "")).encode())
            mended.num_records += 1
        file.write(b"" if lines else b"\n]\n" if mended.num_records else b"[]\n")
        file.flush()  # a full disk is seen before the first of them is in its place
    return mended


def _read_mended(source: ConversationFile, index: int, folders: list[Path], notes: Notes) -> tuple[object, list]:
    """As `mend_record`; (DataError, []) for a record that can't be read."""
    try:
        return mend_record(source.records.read(index, notes), folders)
    except DataError as error:
        return error, []


def changes_of(out: Path) -> Path:
    """The list of changes beside a mended file."""
    return out.with_name(f"{out.name}.changes.txt")


def taken(path: Path) -> str:
    """What is wrong if there is another file."""
    return f"--fix: {path} exists; remove it, or give another name"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def plan_mends(out: Path | None, sources: list[ConversationFile]) -> list[tuple[ConversationFile, Path]]:
    """(source, file to write) of --fix. Raises: ValueError if it can't be written, or would overwrite something."""
    if out is None or not sources:  # of files that can't be read, nothing can be mended
        return []
    if len(sources) == 1 and not out.is_dir():
        if out.suffix.lower() not in (".json", ".jsonl"):
            raise ValueError(f"--fix {out}: give a name that ends in .json or .jsonl, or a folder that exists")
        planned = [(sources[0], out)]
    else:
        names = [source.path.name for source in sources]
        names = [f"{name}.json" if name.lower().endswith(TABLE_SUFFIXES) else name for name in names]
        planned = [(source, out / name) for source, name in zip(sources, names, strict=True)]
        if not out.is_dir():
            raise ValueError(f"--fix {out}: several files are mended into a folder, and there is none; make it first")
    names = [target for _, target in planned]
    for target in names:
        if names.count(target) > 1:
            raise ValueError(f"--fix {out}: two of the files would be written to {target}; mend them one by one")
        if target.exists() and not changes_of(target).exists():  # else it may be what is going to be written
            raise ValueError(taken(target))
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--fix {out}: there is no folder {out.parent}; make it first")
    return planned


def still_unusable(source: ConversationFile, usable: np.ndarray, judge: Judge) -> Callable[[int, object], str | None]:
    """`write_mended`'s why_drop: a record is left out if it still can't be trained on after it was mended.

    Args:
        usable: bool [records of the source]: which could be trained on before.
    """

    def why_drop(index: int, record) -> str | None:
        if usable[index]:
            return None
        if isinstance(record, DataError):
            return str(record)
        reasons = judge.reasons(judge.of_record(record, source, index, Notes()))
        return reasons[0][1] if reasons else None

    return why_drop


def mend_record(record, folders: list[Path]) -> tuple[object, list[tuple[str, str]]]:
    """A record, mended, and its changes as (kind, what was done). The record that is given stays as it is.

    Args:
        folders: where relative image paths start.
    """
    if not isinstance(record, dict):
        return record, []
    found: list[tuple[str, str]] = []
    mended = _rename_keys(record, RECORD_KEYS, "", found)
    if isinstance(mended.get("id"), int) and not isinstance(mended["id"], bool):
        mended["id"] = str(mended["id"])
        found.append(("id written as a text", f'"id" is written "{mended["id"]}"'))
    if {"image", "images"} <= mended.keys() and mended["image"] == mended["images"]:
        del mended["images"]
        found.append(("image named twice", '"images", which says the same as "image", is removed'))
    for key in ("image", "images", "video", "videos"):
        if key in mended and mended[key] in (None, "", []):
            del mended[key]
            found.append(("empty image removed", f'"{key}", which names none, is removed'))
        elif isinstance(mended.get(key), str):
            mended[key] = [mended[key]]
            found.append(("image written as a list", f'"{key}" is written as a list of one path'))
        if isinstance(mended.get(key), list):
            mended[key] = [_mend_path(path, folders, found) for path in mended[key]]
    for key in ("conversations", "conversation", "messages"):
        if isinstance(mended.get(key), list):
            mended[key] = [_mend_turn(turn, f"message {index}: ", found) for index, turn in enumerate(mended[key])]
    return mended, found


def _rename_keys(values: dict, groups, where: str, found: list[tuple[str, str]]) -> dict:
    renamed = misspelt_keys(values, groups)
    if len(set(renamed.values())) < len(renamed):
        return dict(values)  # two keys for one thing: which of them is meant?
    # What is misspelt may stand beside the right key with nothing in it, which it then replaces.
    values = {key: value for key, value in values.items() if key not in renamed.values()}
    for key, right in renamed.items():
        found.append(("misspelt key", f'{where}key "{key}" is written "{right}"'))
    return {renamed.get(key, key): value for key, value in values.items()}


def _mend_turn(turn, where: str, found: list[tuple[str, str]]):
    if not isinstance(turn, dict):
        return turn
    mended = _rename_keys(turn, TURN_KEYS, where, found)
    for key in ("from", "role"):
        speaker = mended.get(key)
        if isinstance(speaker, str) and speaker.lower() not in SPEAKERS and (near := nearest(speaker, tuple(SPEAKERS))):
            mended[key] = near
            found.append(("misspelt speaker", f'{where}"{speaker}" is written "{near}"'))
    return mended


def _mend_path(path, folders: list[Path], found: list[tuple[str, str]]):
    """White space around a path, and backslashes, are mended where there is a file only then."""
    if not isinstance(path, str) or is_url(path) or is_data_url(path) or _exists(path, folders):
        return path
    forms: tuple[Callable[[str], str], ...] = (
        str.strip,
        lambda text: text.replace("\\", "/"),
        lambda text: text.strip().replace("\\", "/"),
    )
    for form in forms:
        if _exists(form(path), folders):
            found.append(("path of an image", f'"{path}" is written "{form(path)}"'))
            return form(path)
    return path


def _exists(path: str, folders: list[Path]) -> bool:
    try:
        return bool(path) and any((folder / path).is_file() for folder in folders)
    except (OSError, ValueError):  # what can't be a path
        return False


def _json(record) -> str:
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair can only be written as an escape
        return json.dumps(record)
    return text

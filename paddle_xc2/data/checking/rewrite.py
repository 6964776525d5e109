"""Data files of any dialect -> one file of a chosen one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from paddle_xc2.data.conversation import Conversation, DataError, check_trainable
from paddle_xc2.data.images.downloads import is_data_url, is_url
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.conversations import find_image, image_folders, sizes_in
from paddle_xc2.data.records.dialects import read_as_written, without_marks_of
from paddle_xc2.data.records.record_files import RecordFile
from paddle_xc2.data.records.record_keys import NEUTRAL_KEYS
from paddle_xc2.data.records.tables import TableFile, open_records
from paddle_xc2.data.records.writers import write_record
from paddle_xc2.files.directory_lock import locked
from paddle_xc2.files.durable import written_once
from paddle_xc2.files.local_path import local_path
from paddle_xc2.messages import NUM_LINES, listed_lines

OTHER_KEY = "key that no format has, left out"


@dataclass(frozen=True)
class ConversionReport:
    """What was written: records, images named in them, and oddities of the sources or of the way they were written."""

    num_records: int
    num_images: int
    notes: Notes


def convert_data(
    sources,
    destination,
    dialect: str,
    image_folder=None,
    overwrite: bool = False,
    progress: bool = False,
    columns: dict[str, str] | None = None,
) -> ConversionReport:
    """Writes every record of `sources`, in order, into one file. It appears when it is whole.

    Args:
        sources: data files of any dialect.
        destination: a .json file (a list) or a .jsonl file (a record a line).
        dialect: one of `format_writers.DIALECTS`.
        image_folder: where relative image paths start; they stay as they are. None: they are looked for as in training,
            and written so that they are found from the destination's folder.
        overwrite: replace a file that is there; without it, the file may only be the same already.
        progress: show a bar.
        columns: of CSV and TSV files, as of `open_records`.
    Raises: FileNotFoundError; ValueError if `destination` can't be written; DataError that lists the records that
        can't be used, or that the dialect can't say, the first 20 of them in full. Nothing is written then.
    """
    sources, destination = [local_path(source) for source in sources], local_path(destination)
    _check_destination(destination, sources)
    files = [open_records(source, columns) for source in sources]
    notes = Notes()
    for file in files:
        notes.update(file.notes)
    as_lines = destination.suffix.lower() == ".jsonl"
    errors, num_errors, num_written, num_images = [], 0, 0, 0
    taken = f"{destination} exists; give another name, or --overwrite to replace it"
    with locked(destination), written_once(destination, taken, replace=overwrite) as out:
        out.write(b"" if as_lines else b"[")
        for file, index in _all_records(files, progress):
            try:
                record, images = _converted(file, index, num_written, destination, dialect, image_folder, notes)
            except DataError as error:
                num_errors += 1
                if num_errors <= NUM_LINES:
                    errors.append(str(error))
                continue
            separator = b"" if as_lines else b",\n" if num_written else b"\n"
            out.write(separator + _encoded(record) + (b"\n" if as_lines else b""))
            num_written, num_images = num_written + 1, num_images + images
        out.write(b"" if as_lines else b"\n]\n")
        if num_errors:
            title = f"{num_errors} of {sum(map(len, files))} records can't be written as {dialect}; nothing is written:"
            raise DataError(listed_lines(title, errors, total=num_errors))
    return ConversionReport(num_written, num_images, notes)


def _check_destination(destination: Path, sources: list[Path]) -> None:
    if destination.suffix.lower() not in (".json", ".jsonl"):
        raise ValueError(f"{destination}: the name must end with .json (a list) or .jsonl (a record a line)")
    if not destination.parent.is_dir():
        raise FileNotFoundError(f"{destination.parent}: there is no such folder; make it first")
    if destination.is_dir():
        raise ValueError(f"{destination} is a folder; give the name of a file")
    if destination.exists():
        if any(source.exists() and destination.samefile(source) for source in sources):
            raise ValueError(f"{destination} is read from, too; give another name to write to")


def _all_records(files: list[RecordFile | TableFile], progress: bool):
    from tqdm import tqdm

    with tqdm(total=sum(map(len, files)), desc="converting", unit=" records", disable=not progress) as bar:
        for file in files:
            for index in range(len(file)):
                yield file, index
                bar.update()


def _converted(
    file: RecordFile | TableFile, index: int, number: int, destination: Path, dialect: str, image_folder, notes: Notes
) -> tuple[dict, int]:
    """(the record as `dialect` writes it, how many images it names)."""
    source = file.source(index)
    record = file.read(index, notes)
    folders = image_folders(image_folder, file.path.parent)
    as_written, references, reader = read_as_written(record, source, notes, sizes_in(folders, source))
    messages = without_marks_of(as_written, references, reader)
    check_trainable(Conversation(messages, tuple(references), source))
    for key in NEUTRAL_KEYS & record.keys():
        notes.add(OTHER_KEY, f'{source}: "{key}"')
    written = [_reference(one, source, folders, None if image_folder else destination.parent) for one in references]
    name = record.get("id")
    # As text: XTuner joins ids to texts.
    record_id = str(name) if isinstance(name, str | int) and not isinstance(name, bool) else str(number)
    marked = as_written, reader
    return write_record(messages, written, dialect, record_id, source, notes, marked), len(references)


def _reference(reference: str, source: str, folders: list[Path], new_folder: Path | None) -> str:
    """How an image is named in the new file. An address stays one, and is not fetched.

    Args:
        new_folder: where relative paths will start; None if that stays as it was.
    """
    if is_url(reference) or is_data_url(reference):
        return reference
    found = find_image(reference, source, folders)
    if new_folder is None or Path(reference).is_absolute():
        return reference
    moved = os.path.relpath(found, new_folder)
    # Across links, `..` may lead elsewhere.
    return moved if os.path.exists(new_folder / moved) and found.samefile(new_folder / moved) else str(found.absolute())


def _encoded(record: dict) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, in an id or a path
        return json.dumps(record).encode()

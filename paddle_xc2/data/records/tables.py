"""Tables of pictures, questions and answers (CSV, TSV) -> records, as a file of records gives them.

A row becomes {"image": [path], "conversations": [question, answer]}. Which column is which is said by the user, or seen
from the names in the first row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.data_file import MAX_RECORD_BYTES, DataFile
from paddle_xc2.data.records.record_files import RecordFile
from paddle_xc2.data.records.record_keys import names_image
from paddle_xc2.files.local_path import local_path
from paddle_xc2.messages import did_you_mean, listed, shown

MAX_TABLE_BYTES = 256 * 1024 * 1024  # it is read into memory

TABLE = "table with the columns {}"
NO_IMAGE = 'row with nothing in the column "{}", read as text without an image'
UNREAD_COLUMN = 'column "{}" of tables, which is not read'

SUFFIXES = (".csv", ".tsv")
_SEPARATORS = (",", ";", "\t", "|")

# What a column may hold, and the names by which it is known, in lower case; the first that is there wins.
_KNOWN_NAMES = {
    "image": (
        *("image", "images", "image_path", "image path", "image_file", "picture", "photo", "img", "image_url", "file"),
        *("filename", "file_name", "file name", "path", "url", "video", "图片", "图像", "照片"),
    ),
    "question": (
        *("question", "questions", "query", "prompt", "instruction", "input", "user", "human", "q", "问题", "提问"),
    ),
    "answer": (
        *("answer", "answers", "response", "output", "caption", "target", "description", "assistant", "gpt", "a"),
        *("label", "答案", "回答", "描述"),
    ),
    "system": ("system",),
    "id": ("id",),
}
_NEEDED = ("question", "answer")
_NUM_LOOKED_AT = 20  # rows, to see what a column holds
_EXAMPLE = "image=photo,question=q,answer=a"

# Files of other programs, by how they begin, and what to do with them.
_FOREIGN = (
    (b"PAR1", "a Parquet file", 'pandas.read_parquet(name).to_csv("data.csv", index=False)'),
    (b"ARROW1", "an Arrow file", 'pandas.read_feather(name).to_csv("data.csv", index=False)'),
    (b"PK\x03\x04", "an Excel workbook, or an archive", "save the sheet as CSV (UTF-8), or unpack the archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as CSV (UTF-8)"),
    (b"SQLite format 3", "an SQLite database", "write the table as CSV"),
    (b"\x1f\x8b", "a gzip archive", "unpack it (gunzip)"),
)


def open_records(path, columns: Mapping[str, str] | None = None) -> RecordFile | TableFile:
    """The records of a data file: of JSON, JSON lines, CSV or TSV.

    Args:
        columns: of a table: what it holds -> name of the column; what is left out is seen from the names.
    Raises: FileNotFoundError; DataError if the file can't be read, with what to do where it is of another program.
    """
    path = local_path(path)
    if path.suffix.lower() in SUFFIXES:
        return TableFile(path, columns)
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(16)
        for beginning, what, advice in _FOREIGN:
            if start.startswith(beginning):
                raise DataError(f"{path}: this is {what}, which is not read; {advice}: CSV, JSON and JSONL are read")
    return RecordFile(path)


def parse_columns(columns: str | Mapping | None) -> dict[str, str] | None:
    """ "image=photo,question=q,answer=a", or the same as an object -> what a table holds -> name of the column.

    Raises: ValueError saying what is wrong.
    """
    if columns is None:
        return None
    if isinstance(columns, str):
        pairs = [part.partition("=") for part in columns.split(",")]
        if not all(equals and column.strip() for _, equals, column in pairs):
            raise ValueError(f'columns are "{shown(columns)}"; write {_EXAMPLE}')
        columns = {what.strip(): column.strip() for what, _, column in pairs}
    for what, column in columns.items():
        if what not in _KNOWN_NAMES:
            near = did_you_mean(what, _KNOWN_NAMES)
            raise ValueError(f'columns name "{shown(what)}", but a table holds {", ".join(_KNOWN_NAMES)}{near}')
        if not isinstance(column, str):
            raise ValueError(f'the column of "{what}" must be a name; write {_EXAMPLE}')
    return dict(columns)


class TableFile(DataFile):
    """The rows of a CSV or TSV file as records; the first row names the columns.

    Attributes:
        path: of the file.
        notes: how the columns were read.

    Raises: FileNotFoundError; DataError if the file is no table in UTF-8, or a column is missing.
    """

    def __init__(self, path, columns: Mapping[str, str] | None = None):
        super().__init__(path)
        self._header, self._rows = self._read(self._text())
        self._places = self._columns(columns or {})
        used = ", ".join(f"{what} = {shown(self._header[place], 40)}" for what, place in self._places.items())
        self.notes.add(TABLE.format(used), str(self.path))
        for place, name in enumerate(self._header):
            if place not in self._places.values():
                self.notes.add(UNREAD_COLUMN.format(shown(name, 40)), str(self.path))

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int, notes: Notes | None = None) -> dict:
        """Row `index` as a record, counted from 0 behind the first. Raises: DataError if it has another length."""
        line, cells = self._rows[index]
        if len(cells) != len(self._header):
            raise DataError(
                f"{self.source(index)}: line {line} has {len(cells)} cells, and the first row has {len(self._header)}; "
                "put texts that hold the separator in double quotes"
            )
        held = {what: cells[place] for what, place in self._places.items()}
        if not held["question"].strip():
            raise DataError(
                f"{self.source(index)}: the question is empty; write it, or remove the row", "empty question"
            )
        if notes is not None and "image" in held and not held["image"].strip():
            notes.add(NO_IMAGE.format(shown(self._header[self._places["image"]], 40)), self.source(index))
        turns = [{"from": "user", "value": held["question"]}, {"from": "assistant", "value": held["answer"]}]
        record = {"id": held["id"]} if held.get("id") else {}
        record |= {"image": [held["image"].strip()]} if held.get("image", "").strip() else {}
        record |= {"system": held["system"]} if held.get("system") else {}
        return record | {"conversations": turns}

    def _text(self) -> str:
        if self.path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(
                f"{self.path}: a table may have {MAX_TABLE_BYTES // 2**20} MiB; split it, or use JSON lines"
            )
        content = self.path.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            raise DataError(
                f'{self.path}: byte {error.start} is not UTF-8; save it as "CSV UTF-8", as Excel calls it'
            ) from error

    def _read(self, text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
        """(names of the columns, (number of the last line, cells) of each row that is not empty)."""
        csv.field_size_limit(MAX_RECORD_BYTES)
        start = text[: text.find("\n") + 1] or text
        separators = "\t" if self.path.suffix.lower() == ".tsv" else _SEPARATORS
        separator = max(separators, key=start.count)  # the first of those that are there equally often
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        try:
            rows = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
        except csv.Error as error:
            raise DataError(
                f"{self.path}: line {reader.line_num} can't be read ({error}); put texts with quotes, commas or line "
                "breaks in double quotes, and double the quotes in them"
            ) from error
        if not rows:
            raise DataError(f"{self.path}: the file is empty; it should hold a row of names, and a row per record")
        return [name.strip() for name in rows[0][1]], rows[1:]

    def _check_places(self, places: dict[str, int], named: Mapping[str, str]) -> None:
        """Raises: DataError for two columns of one name, and for pictures that nothing would show."""
        for what, place in places.items():
            names = self._header if what in named else [name.lower() for name in self._header]
            if (number := names.count(names[place])) > 1:
                raise DataError(f'{self.path}: {number} columns are called "{shown(names[place])}"; rename all but one')
        if "image" in places:
            return
        for place, name in enumerate(self._header):
            cells = [cells[place] for _, cells in self._rows[:_NUM_LOOKED_AT] if len(cells) > place]
            files = [cell.rpartition("/")[2] for cell in cells if cell.strip()]  # an address may be any page's
            if place not in places.values() and files and all(map(names_image, files)):
                raise DataError(
                    f'{self.path}: column "{shown(name)}" names pictures, but none is read as image; say it by '
                    f"columns, as in image={shown(name)}, or remove the column"
                )

    def _columns(self, named: Mapping[str, str]) -> dict[str, int]:
        """What the table holds -> number of the column."""
        there = f"the columns are {listed(self._header, 20)}"
        places = {}
        for what, name in named.items():
            if name not in self._header:
                raise DataError(f'{self.path}: there is no column "{shown(name)}" for {what}; {there}')
            places[what] = self._header.index(name)
        lower = [name.lower() for name in self._header]
        for what, names in _KNOWN_NAMES.items():
            known = next((name for name in names if name in lower), None)
            if what not in places and known is not None and lower.index(known) not in places.values():
                places[what] = lower.index(known)
        if missing := [what for what in _NEEDED if what not in places]:
            raise DataError(
                f"{self.path}: which column holds the {' and the '.join(missing)}? {there}; say it by columns, as in "
                f"{_EXAMPLE}"
            )
        self._check_places(places, named)
        return {what: places[what] for what in _KNOWN_NAMES if what in places}

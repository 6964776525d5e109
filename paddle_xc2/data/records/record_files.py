"""Records of a data file by their number, without holding the file: only where each begins and ends is kept."""

from __future__ import annotations

import codecs
import json
import os
from array import array

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.data_file import MAX_RECORD_BYTES, DataFile
from paddle_xc2.data.records.python_like import NotPythonLike, list_elements, read_value
from paddle_xc2.data.records.text_window import CHUNK_BYTES, NotAList, TextWindow
from paddle_xc2.messages import shown

MAX_PYTHON_LIKE_BYTES = 32 * 1024 * 1024  # of a whole file that is not JSON: it is taken apart in memory
MAX_PYTHON_LIKE_CHARACTERS = 4 * 1024 * 1024  # of one such record

PYTHON_LIKE = (
    "not JSON (single quotes, comments, missing or spare commas), read all the same; check-data --fix mends it"
)

_TOO_DEEP = "lists or objects stand in each other too deeply; that is no record of a format"
_BYTE_ORDER_MARK = codecs.BOM_UTF8
_FOLLOWING_BYTES = bytes(range(0x80, 0xC0))  # of a character in UTF-8, all but its first


class RecordFile(DataFile):
    """The records of a JSON list, of JSON lines or of one JSON object, whatever the file is called.

    Opening goes through the file once. A list is parsed then, record by record; of JSON lines only the line ends are
    looked for, so that a damaged line shows when it is read. Nothing stays open: a RecordFile may be pickled, or used
    after a fork.

    Attributes:
        notes: what is odd about the file as a whole; what is odd about a record, `read` tells.

    Raises: FileNotFoundError; DataError if the file is empty, not UTF-8 or not JSON, with line and column.
    """

    def __init__(self, path):
        super().__init__(path)
        self._starts, self._sizes = array("Q"), array("Q")  # in bytes
        self._lines = array("Q")  # of JSON lines: the number of each record's line
        with self._opened() as file:
            self._state = _state_of(file)
            self._index(file)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, index: int, notes: Notes | None = None):
        """Record `index`.

        Args:
            notes: where it is counted if the record is not JSON, but could be understood.
        Raises: DataError if it is damaged, larger than MAX_RECORD_BYTES, or the file is no longer what was opened.
        """
        start, size = self._starts[index], self._sizes[index]
        self._check_size(size, index)
        with self._opened() as file:
            if _state_of(file) != self._state:
                raise DataError(f"{self.path}: the file was changed while it was in use; start again")
            content = os.pread(file.fileno(), size, start)
        text = self._decoded(content, start)
        try:
            return self._parsed(text, index)
        except json.JSONDecodeError as error:
            message, position = error.msg, error.pos
        try:
            if len(text) > MAX_PYTHON_LIKE_CHARACTERS:
                raise NotPythonLike(message, position)
            value = read_value(text, lambda json_text: self._parsed(json_text, index))
        except NotPythonLike as error:
            if error.position > position:
                message, position = str(error), error.position
            line, column = (self._lines[index], position + 1) if self._lines else self._place(start, text, position)
            raise self._syntax_error(message, line, column) from error
        if notes is not None:
            notes.add(PYTHON_LIKE, self.source(index))
        return value

    def _opened(self):
        try:
            return open(self.path, "rb", buffering=0)
        except FileNotFoundError as error:
            raise DataError(f"{self.path}: the file was removed while it was in use; start again") from error

    def _parsed(self, text: str, index: int):
        """Raises: json.JSONDecodeError if it isn't JSON; DataError for what JSON allows and we don't."""
        try:
            return _DECODER.decode(text)
        except json.JSONDecodeError:
            raise
        except RecursionError as error:
            raise DataError(f"{self.source(index)}: {_TOO_DEEP}") from error
        except ValueError as error:  # a key that stands there twice, a number of thousands of digits
            raise DataError(f"{self.source(index)}: {error}") from error

    # Finding the records

    def _index(self, file) -> None:
        start = _text_start(file)
        first, line_start, number = _first_line(file, start)
        if not first:
            raise DataError(
                f"{self.path}: the file is empty; it should hold a JSON list of records, or one record per line"
            )
        if first == "[":
            try:
                self._index_list(file, start)
            except NotAList as error:
                self._index_python_like(file, start, error)
        elif first == "#":  # a comment
            self._index_python_like(file, start, NotAList("Expecting value", line_start))
        elif first == "{":
            self._index_lines_or_object(file, start, line_start, number)
        else:
            self._index_object(start)

    def _index_lines_or_object(self, file, start: int, line_start: int, number: int) -> None:
        file.seek(line_start)
        with open(file.fileno(), "rb", closefd=False) as lines:
            line = lines.readline(MAX_RECORD_BYTES + 1)
        size = self._state[0]
        if not self._is_record(line) and size <= MAX_RECORD_BYTES:
            try:
                return self._index_object(start)
            except DataError:
                # Nothing as a whole. Perhaps lines of which the first is damaged: whoever reads it will say how.
                if not line.rstrip().endswith(b"}") or line_start + len(line) == size:
                    raise
                del self._starts[:], self._sizes[:]
        self._index_lines(file, line_start, number)

    def _is_record(self, line: bytes) -> bool:
        """Whether a line holds a whole value."""
        try:
            text = line.decode("utf-8")
            try:
                self._parsed(text, 0)
            except json.JSONDecodeError:
                read_value(text[:MAX_PYTHON_LIKE_CHARACTERS], lambda json_text: self._parsed(json_text, 0))
        except NotPythonLike:
            return False
        except (UnicodeDecodeError, DataError):  # what else is wrong with it, reading it will say
            return line.rstrip().endswith(b"}")
        return True

    def _index_lines(self, file, position: int, number: int) -> None:
        file.seek(position)
        # Not `splitlines`: it also splits at characters that may stand inside a JSON text.
        with open(file.fileno(), "rb", closefd=False) as lines:
            while line := lines.readline(MAX_RECORD_BYTES + 1):
                if len(line) > MAX_RECORD_BYTES:
                    self._check_size(len(line), len(self))
                if not line.isspace():
                    self._add(position, len(line))
                    self._lines.append(number)
                position, number = position + len(line), number + 1

    def _index_object(self, start: int) -> None:
        """The whole file as one record."""
        size = self._state[0] - start
        self._check_size(size, 0)
        self._add(start, size)
        self.read(0)

    def _index_list(self, file, start: int) -> None:
        window = TextWindow(file, start, self._decoded)
        window.skip_space()
        window.skip("[")
        if window.skip_space() == "]":
            window.skip("]")
        else:
            while True:
                self._index_element(window)
                mark = window.skip_space()
                if mark not in (",", "]"):
                    raise window.error("Expecting ',' delimiter")
                window.skip(mark)
                if mark == "]":
                    break
                window.skip_space()
        if window.skip_space():
            raise window.error("Extra data")

    def _index_element(self, window: TextWindow) -> None:
        while True:
            # Not the error itself: it would keep the text, and itself, alive until garbage is collected.
            message, position = "", len(window.text)
            try:
                _, end = _PLAIN_DECODER.raw_decode(window.text, window.at)
                if end < len(window.text) or window.at_end:  # else it may go on: 12 of 123
                    break
            except json.JSONDecodeError as error:
                message, position = error.msg, error.pos
            except RecursionError as error:
                raise DataError(f"{self.source(len(self))}: {_TOO_DEEP}") from error
            except ValueError as error:
                raise DataError(f"{self.source(len(self))}: {error}") from error
            if window.at_end:
                raise window.error(message, position)
            if window.num_waiting > MAX_RECORD_BYTES:
                # An error well before the end of what was read is not for want of the rest.
                if not message.startswith("Unterminated") and position < len(window.text) - 8:
                    raise window.error(message, position)
                self._check_size(window.num_waiting, len(self))
            window.extend()
        start = window.byte
        window.advance(end)
        self._add(start, window.byte - start)
        self._check_size(window.byte - start, len(self) - 1)

    def _index_python_like(self, file, start: int, error: NotAList) -> None:
        """A list that is not JSON: taken apart as Python-like text, else `error` stands."""
        del self._starts[:], self._sizes[:]
        message, byte = str(error), error.byte
        if self._state[0] <= MAX_PYTHON_LIKE_BYTES:
            text = self._decoded(os.pread(file.fileno(), self._state[0] - start, start), start)
            try:
                return self._add_elements(text, start)
            except NotPythonLike as other:
                del self._starts[:], self._sizes[:]
                # Whoever came farther has understood more.
                if start + len(text[: other.position].encode()) > byte:
                    message, byte = str(other), start + len(text[: other.position].encode())
        raise self._syntax_error(message, *self._place(byte)) from error

    def _add_elements(self, text: str, byte: int) -> None:
        """The elements of a Python-like list that begins at `byte`. Each is read, as those of a JSON list are."""
        character = 0
        for first, last in list_elements(text):
            byte += len(text[character:first].encode())
            self._add(byte, len(text[first:last].encode()))
            byte, character = byte + self._sizes[-1], last
        odd = Notes()
        for index in range(len(self)):
            self.read(index, odd)
        if not odd:  # the records are JSON, so it is what stands between them
            self.notes.add(PYTHON_LIKE, str(self.path))

    def _add(self, start: int, size: int) -> None:
        self._starts.append(start)
        self._sizes.append(size)

    def _check_size(self, size: int, index: int) -> None:
        if size > MAX_RECORD_BYTES:
            raise DataError(
                f"{self.source(index)}: the record is larger than {MAX_RECORD_BYTES // 2**20} MiB; split it, and give "
                "large images as files"
            )

    # Saying where

    def _decoded(self, content: bytes, start: int) -> str:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: byte {start + error.start} is not UTF-8; save the file in UTF-8") from error

    def _place(self, byte: int, text: str = "", position: int = 0) -> tuple[int, int]:
        """(line, column), from 1, of the character `position` characters into the `text` that begins at `byte`."""
        byte += len(text[:position].encode())
        line, column = 1, 1
        with self._opened() as file:
            for start in range(_text_start(file), byte, CHUNK_BYTES):
                content = os.pread(file.fileno(), min(CHUNK_BYTES, byte - start), start)
                line += content.count(b"\n")
                in_line = content[content.rfind(b"\n") + 1 :]
                column = (1 if b"\n" in content else column) + len(in_line.translate(None, _FOLLOWING_BYTES))
        return line, column

    def _syntax_error(self, message: str, line: int, column: int) -> DataError:
        return DataError(f"{self.path}: this is not valid JSON at line {line}, column {column}: {message}")


def _text_start(file) -> int:
    """The first byte behind the byte order mark."""
    return len(_BYTE_ORDER_MARK) if os.pread(file.fileno(), 3, 0) == _BYTE_ORDER_MARK else 0


def _first_line(file, start: int) -> tuple[str, int, int]:
    """(first character that is no space, or ""; first byte of its line; number of its line)."""
    position, line_start, number = start, start, 1
    while content := os.pread(file.fileno(), CHUNK_BYTES, position):
        text = content.lstrip()
        space = content[: len(content) - len(text)]
        if b"\n" in space:
            line_start, number = position + space.rindex(b"\n") + 1, number + space.count(b"\n")
        if text:
            return chr(text[0]), line_start, number
        position += len(content)
    return "", line_start, number


def _unrepeated(pairs: list[tuple[str, object]]) -> dict:
    """An object. Raises: ValueError if a key stands there twice: the last would win in silence."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the key "{shown(repeated)}" stands there more than once; keep one')
    return values


def _state_of(file) -> tuple[int, int]:
    """(bytes, time of the last change): tell whether a file is still the same."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


_DECODER = json.JSONDecoder(object_pairs_hook=_unrepeated)
_PLAIN_DECODER = json.JSONDecoder()

"""A file that is read through as text, of which no more is in memory than is looked at."""

from __future__ import annotations

import codecs
import os

CHUNK_BYTES = 1024 * 1024

_SPACE = " \t\r\n"


class NotAList(Exception):
    """A list that is not JSON. `byte`: where that shows."""

    def __init__(self, message: str, byte: int):
        super().__init__(message)
        self.byte = byte


class TextWindow:
    """The part of a file that is looked at, as text, and a place in it that moves on.

    Attributes:
        text, at: the text, and the place as an index into it.
        byte: the same place in the file.
        at_end: whether the text goes to the end of the file.
    """

    def __init__(self, file, start: int, decoded):
        self._file, self._decoded = file, decoded
        self._read_to = start
        self._rest = b""  # the beginning of a character whose end is not read yet
        self.text, self.at, self.byte, self.at_end = "", 0, start, False

    @property
    def num_waiting(self) -> int:
        """Characters from the place on."""
        return len(self.text) - self.at

    def extend(self) -> None:
        """Reads on, and forgets what lies before the place. Twice as much each time, so that a long record is not
        parsed again for every chunk of it."""
        content = os.pread(self._file.fileno(), max(CHUNK_BYTES, self.num_waiting), self._read_to)
        start = self._read_to - len(self._rest)
        self._read_to += len(content)
        self.at_end = not content
        content = self._rest + content
        try:
            more, used = codecs.utf_8_decode(content, "strict", self.at_end)
        except UnicodeDecodeError:
            self._decoded(content, start)  # says where
            raise
        self._rest = content[used:]
        self.text, self.at = self.text[self.at :] + more, 0

    def advance(self, at: int) -> None:
        self.byte += len(self.text[self.at : at].encode())
        self.at = at

    def skip_space(self) -> str:
        """Goes to the next character that is no space. Returns: it, "" at the end of the file."""
        while True:
            at = self.at
            while at < len(self.text) and self.text[at] in _SPACE:
                at += 1
            self.advance(at)
            if at < len(self.text) or self.at_end:
                return self.text[at : at + 1]
            self.extend()

    def skip(self, mark: str) -> None:
        self.advance(self.at + len(mark))

    def error(self, message: str, at: int | None = None) -> NotAList:
        at = self.at if at is None else at
        return NotAList(message, self.byte + len(self.text[self.at : at].encode()))

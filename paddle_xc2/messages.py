"""How we speak: numbers of things, sizes, lists, near names, what a terminal may be shown, and a disk that fails."""

from __future__ import annotations

import difflib
import errno
import json
import math
import os
import re
import reprlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

NUM_LISTED = 5  # names in a sentence
NUM_LINES = 20  # entries below one another
LONGEST_VALUE = 120  # characters of a value that a message quotes
LONGEST_PIECE = 100  # characters of each text in a Python value that a message quotes
LONGEST_LINE = 2000  # characters of one line of a message
SIMILARITY = 0.7  # of a name to be proposed, as difflib.SequenceMatcher measures it


# --- Numbers and lists ---


def counted(number: int, one: str, several: str = "") -> str:
    """ "1 record", "12,345 records".

    Args:
        one: what one of them is called.
        several: what more of them are called, and none; `one` with an s if it is left out.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def sized(num_bytes: float) -> str:
    """ "17.6 GB", "512 MB", "90 bytes": three digits."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= 0.9995 * size:
            return f"{num_bytes / size:.3g} {unit}"
    return counted(round(num_bytes), "byte")


def listed(names: Sequence, limit: int = NUM_LISTED, separator: str = ", ") -> str:
    """ "a, b and 3 more"."""
    return " ".join([separator.join(map(str, names[:limit])), *and_more(len(names), limit)])


def listed_lines(title: str, lines: Sequence, limit: int = NUM_LINES, total: int | None = None) -> str:
    """The title and below it the lines, indented, the last of which is "and 3 more".

    Args:
        total: how many there are, if not all of them are in `lines`.
    """
    return "\n  ".join([title, *map(str, lines[:limit]), *and_more(len(lines) if total is None else total, limit)])


def and_more(total: int, limit: int) -> list[str]:
    """The end of a list of which `limit` are shown: ["and 3 more"], or nothing."""
    return [f"and {total - limit:,} more"] if total > limit else []


# --- Near names ---


def nearest(name: str, known: Iterable[str], cutoff: float = SIMILARITY) -> str | None:
    """The name in `known` that `name` was most likely meant to be; None if none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str], cutoff: float = SIMILARITY) -> str:
    """'; did you mean "lora_rank"?', or nothing if no known name is near: a sentence's end."""
    near = nearest(name, known, cutoff)
    return "" if near is None else f'; did you mean "{near}"?'


# --- What a terminal may be shown ---

# What moves the cursor, rings, renames the window (C0, C1), changes the direction of the text that follows, or ends
# lines unseen. Line feeds and tabs are told apart: text has them, a value in a sentence has not.
_STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_IN_TEXT = re.compile(f"[{_STEERING}]")
_IN_VALUE = re.compile(f"[\t\n\ud800-\udfff{_STEERING}]")
# What tqdm writes to move from bar to bar.
_CURSOR_MOVES = re.compile(r"(?:\n|\x1b\[A)*")


def shown(value: object, limit: int = LONGEST_VALUE) -> str:
    """A value as a message quotes it: its beginning, on one line, what could steer a terminal written out."""
    text = str(value)
    return _IN_VALUE.sub(_written_out, text if len(text) <= limit else f"{text[:limit]}...")


def in_json(value: object, limit: int = LONGEST_VALUE) -> str:
    """A value of a JSON file as a message quotes it: as it stands there, but not all of a long one."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    try:
        return shown(json.dumps(value, ensure_ascii=False), limit)
    except (TypeError, ValueError, RecursionError):  # no JSON value, or a number of thousands of digits
        return f"of type {type(value).__name__}"


class _Short(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 4
        self.maxstring = self.maxlong = LONGEST_PIECE

    def repr_int(self, value, level) -> str:
        if value.bit_length() < 10_000:
            return super().repr_int(value, level)
        return f"<int of {value.bit_length()} bits>"  # Python refuses to write out the very long ones

    def repr_bytes(self, value, level) -> str:
        return repr(value) if len(value) <= LONGEST_PIECE else f"{value[:LONGEST_PIECE]!r}..."

    def repr_instance(self, value, level) -> str:
        plain = isinstance(value, (bool, float, type(None)))
        return repr(value) if plain else f"<{type(value).__name__}>"  # whose own repr may be without bound


def short_repr(value: object) -> str:
    """How Python would write `value`, with "..." for what is left out of the long and the deep.

    `repr` of a 100 KB text is 100 KB long; of a tuple that holds itself twice on each of 40 levels it never ends.
    """
    text = " ".join(_Short().repr(value).split())
    return text if len(text) <= 2 * LONGEST_PIECE else f"{text[: 2 * LONGEST_PIECE]}..."


def shortened(line: str, limit: int) -> str:
    """The beginning and the end of a line of more than `limit` characters, and how many are left out between them."""
    if len(line) <= limit:
        return line
    end = limit // 4
    return f"{line[: limit - end]} ...({len(line) - limit:,} characters)... {line[-end:]}"


def _written_out(found: re.Match) -> str:
    return repr(found.group())[1:-1]


class Colour(str):
    """What changes the colour of a terminal. Of ours: written by itself, it is passed on as it is."""


GREEN, PLAIN = Colour("\x1b[32m"), Colour("\x1b[0m")


class PrintableOutput:
    """A text stream that writes out what could steer the terminal, wherever it comes from: data, configs, file names.

    Everything else is the stream's. Text is passed on as text: bytes that go into its `buffer` are not looked at.
    """

    def __init__(self, stream, longest_line: int | None = None):
        """Args:
        longest_line: the middle of longer ones is left out. It is set for messages: such a stream also lets tqdm
            redraw its bars.
        """
        self._stream = stream
        self._longest_line = longest_line
        self.in_a_line = False  # whether the last line has not ended yet, as a bar's has not

    def write(self, text: str) -> int:
        self._stream.write(self._printable(text))
        self.in_a_line = not text.endswith("\n") if text else self.in_a_line
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def _printable(self, text: str) -> str:
        if isinstance(text, Colour) or text.isprintable() and len(text) <= LONGEST_LINE:  # nearly all
            return text
        redrawn = ""
        if self._longest_line is not None:
            if _CURSOR_MOVES.fullmatch(text):
                return text
            redrawn = "\r" if text.startswith("\r") else ""
            lines = text[len(redrawn) :].split("\n")
            text = "\n".join(shortened(line, self._longest_line) for line in lines)
        return redrawn + _IN_TEXT.sub(_written_out, text)


def guard_output() -> None:
    """From here on, nothing that is printed can steer the terminal, or end the program because the terminal or log
    file has another encoding than UTF-8: what it lacks is written as \\u4f60."""
    for name, longest_line in (("stdout", None), ("stderr", LONGEST_LINE)):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, PrintableOutput):  # None: it was closed before we began
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, PrintableOutput(stream, longest_line))


def on_its_own_line(message: str) -> str:
    """The message as it is written to standard error: below a bar that has not ended, and below a terminal's ^C."""
    shows_control_c = sys.stderr.isatty() and isinstance(sys.exc_info()[1], KeyboardInterrupt)
    return "\n" + message if shows_control_c or getattr(sys.stderr, "in_a_line", False) else message


class Failure(RuntimeError):
    """What ended a command through no mistake of the user's; its message says all, and a traceback would not help."""


# --- A disk that is full, can't be written to, or has gone away ---

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What it says, through no fault of what was to be written.
DISK_ERRORS = {*_NO_ROOM, *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)}
# A path that is none, or leads to nothing that could be read or written.
_PATH_ERRORS = {
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links lead in a circle",
    errno.EEXIST: "something else is there, a file or a link that leads nowhere",
    errno.ENOENT: "there is no such file or folder",
    errno.ENOTDIR: "what stands above it is no folder",
    errno.EISDIR: "is a folder",
    errno.ENXIO: "can't be opened as a file",
    errno.EINVAL: "can't be used as a path",
    errno.EACCES: "permission denied",
}


@contextmanager
def writing(path) -> Iterator[None]:
    """A block that writes `path`: if there is no room, the error names it. What goes through a buffer names no file."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


def disk_message(error: OSError) -> str:
    """One of DISK_ERRORS as a message: where, what, and what to do."""
    where = _path_of(error)
    if error.errno in _NO_ROOM:
        # Every file that a command writes is named: what is not is what it prints.
        return f"{where or 'the output'}: {error.strerror}; make room there, or write to another disk"
    return f"{where or 'the disk'}: {error.strerror}; mend the disk, or use another one"


def path_message(error: Exception) -> str | None:
    """The message of an error of the system that is about a path; None for any other error."""
    if isinstance(error, OSError) and error.errno in _PATH_ERRORS and (path := _path_of(error)) is not None:
        return f"{shown(path)}: {_PATH_ERRORS[error.errno]}; give another path"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from "):  # pathlib's, before 3.13
        return f"{shown(str(error).removeprefix('Symlink loop from '))}: {_PATH_ERRORS[errno.ELOOP]}; give another path"
    if isinstance(error, ValueError) and str(error) == "embedded null byte":
        return "a path holds a NUL character, which no file's name can; correct it"
    return None


def _path_of(error: OSError) -> str | None:
    path = error.filename2 or error.filename  # of two, the second one is written
    return path if path is None else os.fsdecode(path)

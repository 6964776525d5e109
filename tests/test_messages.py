import errno
import io
import sys
import time
from collections import OrderedDict
from typing import NamedTuple

import pytest

from paddle_xc2 import messages
from paddle_xc2.messages import (
    GREEN,
    PLAIN,
    PrintableOutput,
    counted,
    did_you_mean,
    listed,
    listed_lines,
    nearest,
    short_repr,
    shortened,
    shown,
    sized,
)


def test_one_and_several():
    assert [counted(number, "record") for number in (0, 1, 2, 1000)] == [
        *("0 records", "1 record", "2 records", "1,000 records"),
    ]  # fmt: skip
    assert [counted(number, "record is", "records are") for number in (1, 2)] == ["1 record is", "2 records are"]


def test_sizes_have_three_digits():
    assert [sized(number) for number in (0, 1, 999, 1000, 16_700_000, 999_499_999, 999_600_000, 17.3e9, 2e12)] == [
        *("0 bytes", "1 byte", "999 bytes", "1 kB", "16.7 MB", "999 MB", "1 GB", "17.3 GB", "2 TB"),
    ]  # fmt: skip


def test_lists_end_with_how_many_are_left_out():
    assert [listed("ab"), listed("abc", limit=2), listed([])] == ["a, b", "a, b and 1 more", ""]
    assert listed("abcd", limit=3, separator="; ") == "a; b; c and 1 more"
    assert listed_lines("wrong:", ["a", "b"]) == "wrong:\n  a\n  b"
    assert listed_lines("wrong:", ["a", "b"], limit=1) == "wrong:\n  a\n  and 1 more"
    assert listed_lines("wrong:", ["a"], total=1234) == "wrong:\n  a\n  and 1,214 more"


def test_only_a_near_name_is_proposed():
    known = ["lora_rank", "learning_rate", "lora"]
    assert nearest("lora_rnak", known) == "lora_rank" and nearest("deepspeed", known) is None
    assert did_you_mean("lora_rnak", known) == '; did you mean "lora_rank"?' and did_you_mean("nproc", known) == ""


# What a title, a clear-screen, a hidden cursor, the C1 form of it, a bidirectional override and a bell look like.
HOSTILE = "\x1b]0;mine\x07 \x1b[2J \x9b31m a\u202eb\u2066c \x7f \b \u2028"


def test_what_could_steer_a_terminal_is_written_out():
    assert shown(HOSTILE) == (
        r"\x1b]0;mine\x07 \x1b[2J \x9b31m a\u202eb\u2066c \x7f \x08 \u2028"
    )  # fmt: skip
    assert shown("two\nlines\tand \ud800") == r"two\nlines\tand \ud800"
    assert shown("a" * 100_000) == "a" * messages.LONGEST_VALUE + "..."
    assert shown("图 é 👩‍👩‍👧 \u3000\xa0") == "图 é 👩‍👩‍👧 \u3000\xa0"  # joined emoji and wide spaces are text


def test_the_middle_of_a_long_line_is_left_out():
    assert shortened("a" * 10, 10) == "a" * 10
    assert shortened("a" * 8 + "b" * 8, 8) == "aaaaaa ...(8 characters)... bb"


def written(*texts, **settings):
    stream = io.StringIO()
    output = PrintableOutput(stream, **settings)
    for text in texts:
        assert output.write(text) == len(text)
    return stream.getvalue()


def test_printed_text_keeps_its_lines_and_our_colours():
    assert written("a\n\tb") == "a\n\tb"
    assert written(GREEN, "trained", PLAIN, f" {HOSTILE}\n") == f"\x1b[32mtrained\x1b[0m {shown(HOSTILE)}\n"
    assert written("\x1b[31mred\x1b[0m") == r"\x1b[31mred\x1b[0m"  # somebody else's would outlast the line
    assert written("all is well\rno") == "all is well\\rno"
    assert written("\x1b[A\x1b[A", "\rgone") == "\\x1b[A\\x1b[A\\rgone"
    assert written("a" * 100_000) == "a" * 100_000  # an answer, or data, is whole


def test_messages_are_cut_and_bars_can_be_redrawn():
    assert written("\x1b[A\n", "\r 10%|#", longest_line=50) == "\x1b[A\n\r 10%|#"
    assert written("\r a\rb\x1b[A", longest_line=50) == "\r a\\rb\\x1b[A"
    told = written(f"wrong: {'a' * 100_000}\nand b\n", longest_line=50)
    assert len(told) < 150 and told.startswith("wrong: aaa") and told.endswith("aaa\nand b\n")


def test_writelines_and_the_rest_of_a_stream():
    stream = io.StringIO()
    output = PrintableOutput(stream)
    output.writelines(["a\x1b", "b"])
    assert stream.getvalue() == "a\\x1bb" and output.isatty() is False


@pytest.mark.parametrize(
    "encoding, told", [("ascii", b"\\u597d \\U0001f600\n"), ("gbk", b"\xba\xc3 \\U0001f600\n"), ("utf-8", None)]
)
def test_a_terminal_of_another_encoding(monkeypatch, encoding, told):
    text = "好 😀\n"
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    messages.guard_output()
    guards = sys.stdout, sys.stderr
    messages.guard_output()  # once is enough
    assert (sys.stdout, sys.stderr) == guards
    for stream in guards:
        stream.write(text)
        stream.flush()
        assert stream.buffer.getvalue() == (text.encode() if told is None else told)


def test_output_that_is_closed_stays_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    messages.guard_output()
    assert sys.stdout is None and isinstance(sys.stderr, PrintableOutput)


def test_what_is_no_path():
    too_long = OSError(errno.ENAMETOOLONG, "File name too long", "a" * 1000)
    assert messages.path_message(too_long) == f"{'a' * 120}...: the name is too long; give another path"
    circle = OSError(errno.ELOOP, "Too many levels", b"\x1b")
    assert messages.path_message(circle) == r"\x1b: its links lead in a circle; give another path"
    there = FileExistsError(errno.EEXIST, "File exists", "out")
    assert messages.path_message(there).startswith("out: something else is there, a file or a link that leads nowhere;")
    assert messages.path_message(RuntimeError("Symlink loop from 'a'")).startswith("'a': its links lead in a circle;")
    assert messages.path_message(ValueError("embedded null byte")).startswith("a path holds a NUL character")
    others = OSError(errno.EIO, "gone"), OSError(errno.ENOENT, "no name"), ValueError("a"), RuntimeError("b")
    assert list(map(messages.path_message, others)) == [None] * 4


class Pair(NamedTuple):
    one: object
    other: object


def test_small_values_are_shown_as_they_are():
    for value in ("a", "a 'b'", b"a", 1, 1.5, True, None, [1, None], {"a": (1,)}, ()):
        assert short_repr(value) == repr(value)


def test_what_is_long_deep_or_shared_is_short_and_takes_no_time():
    shared = ("x",)
    for _ in range(60):
        shared = (shared, shared)
    started = time.perf_counter()
    values = ["x" * 10**6, b"x" * 10**6, "a \n b", [[[[[[1] * 99] * 99] * 99]]], {str(i): i for i in range(10**5)}]
    values += [shared, Pair(shared, shared), OrderedDict(a=shared), 10**4000, 10**10_000, float("nan"), object()]
    for value in values:
        assert len(short_repr(value)) <= 203 and "\n" not in short_repr(value)
    assert time.perf_counter() - started < 1

"""JSON files that somebody else wrote."""

import os
import tracemalloc

import pytest

from paddle_xc2.files.json_file import MAX_BYTES, MAX_DEPTH, parse_json, read_json, write_json


def nested(levels: int, innermost: str = "1") -> str:
    return '{"a": ' * levels + innermost + "}" * levels


def test_what_is_written_is_read(tmp_path):
    content = {"b": [1, 2.5, None, True], "a": {"é": "😀"}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content and list(read_json(tmp_path / "x.json")) == ["b", "a"]


def test_a_byte_order_mark_is_none(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1,\n "b" 2}', "invalid JSON at line 2, column 6: Expecting ':' delimiter"),
        ("", "invalid JSON at line 1, column 1: Expecting value"),
        ("[1, 2]", "expected a JSON object, found a list"),
        ("null", "expected a JSON object, found a NoneType"),
        (
            b"\xff\xfe{}",
            "this is not UTF-8 text ('utf-8' codec can't decode byte 0xff in position 0",
        ),
        (nested(MAX_DEPTH + 1), "is nested too deep: objects and lists within each other without end"),
        (nested(100_000), "is nested too deep: objects and lists within each other without end"),
        ("[" * 100_000, "is nested too deep: objects and lists within each other without end"),
        ('{"a": 1, "b": 2, "a": 3}', '"a" stands there twice, as 1 and as 3; keep one of them'),
        ('{"b": {"a": "x", "a": null}}', '"a" stands there twice, as "x" and as null; keep one of them'),
        ('{"a": "\\ud800"}', "holds '\\ud800', half of a surrogate pair, which is no character"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit (4300 digits) for integer string conversion"),
    ],
)
def test_what_is_no_sound_json(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_as_deep_as_is_allowed_and_characters_of_two_escapes():
    assert parse_json(nested(MAX_DEPTH).encode(), "x") and parse_json(b'{"a": "\\ud83d\\ude00"}', "x") == {"a": "😀"}


def test_a_key_that_stands_twice_with_one_value():
    assert parse_json(b'{"a": 1, "a": 1, "b": NaN, "b": NaN}', "x")["a"] == 1


def test_long_values_are_not_shown_whole():
    with pytest.raises(ValueError) as caught:
        parse_json(b'{"a": "%s", "a": 1}' % (b"x" * 10**5), "x")
    assert len(str(caught.value)) < 300


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="x.json: there is no such file"):
        read_json(tmp_path / "x.json")
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path, tmp_path / "pipe.json"):
        with pytest.raises(ValueError, match="is no file, but a directory, a pipe or a device; copy the file itself"):
            read_json(path)


def test_a_file_without_end_is_not_read(tmp_path):
    path = tmp_path / "x.json"
    with open(path, "wb") as file:
        file.truncate(2**40)
    tracemalloc.start()
    with pytest.raises(ValueError, match="x.json: has more than 16.8 MB, which no file of its kind needs"):
        read_json(path)
    assert tracemalloc.get_traced_memory()[1] < 4 * MAX_BYTES
    tracemalloc.stop()

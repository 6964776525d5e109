import json
import multiprocessing
import os
import pickle
import tracemalloc

import pytest

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records import record_files, text_window
from paddle_xc2.data.records.record_files import RecordFile

LONG = {"a": "é你" * 700, "b": ["x" * 900, {"c": '"]}[{\\'}]}


def read_in_chunks(monkeypatch, size):
    for module in (record_files, text_window):
        monkeypatch.setattr(module, "CHUNK_BYTES", size)


def written(tmp_path, content):
    path = tmp_path / "train.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_all(path):
    """Records, and how many of them (or of their files) are not JSON."""
    records, notes = RecordFile(path), Notes()
    notes.update(records.notes)
    return [records.read(index, notes) for index in range(len(records))], sum(note.count for note in notes)


@pytest.fixture
def small_chunks(monkeypatch):
    """Characters and records across the ends of what is read at once."""
    read_in_chunks(monkeypatch, 7)


@pytest.mark.parametrize(
    "content",
    [
        '[{"a": 1}, {"b": "\u2028"}]',
        '{"a": 1}\n{"b": "\u2028"}\n',
        '\n{"a": 1}\r\n\r\n{"b": "\u2028"}',
        '\ufeff[\n{"a": 1},\n{"b": "\u2028"}\n]',
        '\ufeff  {"a": 1}\n  {"b": "\u2028"}',
    ],
)
def test_json_list_and_json_lines_whatever_the_file_is_called(tmp_path, content):
    path = written(tmp_path, content)
    assert read_all(path) == ([{"a": 1}, {"b": "\u2028"}], 0)
    assert RecordFile(path).source(1) == f"{path}[1]"


def test_small_chunks(tmp_path, small_chunks):
    test_json_list_and_json_lines_whatever_the_file_is_called(tmp_path, '  [{"a": 1}\n ,{"b": "\u2028"}]  \n')
    values = [LONG, 123456789, -1.5e10, True, None, "é你" * 20, [], {}, LONG]
    for text in (json.dumps(values), json.dumps(values, ensure_ascii=False, indent=2)):
        assert read_all(written(tmp_path, text)) == (values, 0)
    lines = "\n".join(json.dumps(LONG | {"index": index}, ensure_ascii=False) for index in range(5))
    assert [record["index"] for record in RecordFile(written(tmp_path, lines))] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("content", ['{\n  "a": 1\n}', '{"a":\n1}', '\n\n{"a": 1}', "{\n'a': 1,\n}"])
def test_one_object_is_one_record(tmp_path, content):
    assert read_all(written(tmp_path, content))[0] == [{"a": 1}]


@pytest.mark.parametrize("content", ['{"a": {"b": 1}\n, "c": 2}', '{"a": {}\n}', '{"a": "}"\n}'])
def test_object_whose_first_line_ends_like_a_record(tmp_path, content):
    assert read_all(written(tmp_path, content))[0] == [json.loads(content)]


def test_no_record(tmp_path):
    assert list(RecordFile(written(tmp_path, " [ ] "))) == []


def test_as_a_sequence(tmp_path):
    records = RecordFile(written(tmp_path, json.dumps([{"a": index} for index in range(5)])))
    assert len(records) == 5 and records[-1] == {"a": 4} and records[1:4:2] == [{"a": 1}, {"a": 3}]
    with pytest.raises(IndexError):
        records[5]
    assert pickle.loads(pickle.dumps(records))[3] == {"a": 3}


def test_used_by_forked_processes(tmp_path):
    records = RecordFile(written(tmp_path, "\n".join(json.dumps({"a": index}) for index in range(200))))
    assert records[7] == {"a": 7}
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(records.__getitem__, range(200), chunksize=7) == list(records)


@pytest.mark.parametrize("layout", ["lines", "list", "list on one line"])
def test_memory_does_not_grow_with_the_file(tmp_path, layout):
    line = json.dumps({"conversations": [["Q" * 1000, "A" * 1000]]}) + "," * (layout != "lines")
    text = ("" if "line" == layout[-4:] else "\n").join([line] * 4000)
    path = written(tmp_path, text if layout == "lines" else f"[{text[:-1]}]")
    tracemalloc.start()
    records = RecordFile(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 8 MB. Lines take 24 bytes each; of a list, 1 MiB at a time is text and twice copied.
    assert len(records) == 4000 and peak < (2e6 if layout == "lines" else 6e6)
    assert len(pickle.dumps(records)) < 120_000


# Python-like


@pytest.mark.parametrize(
    ("content", "records", "count"),
    [
        ("[{'a': 'it''s'}]".replace("''", "\\'"), [{"a": "it's"}], 1),
        ("{'a': True, 'b': None}\n{\"a\": false}", [{"a": True, "b": None}, {"a": False}], 1),
        # The README of XComposer2: no comma behind "image".
        (
            '[\n{\n"image": [\'é.jpg\', \'b.jpg\']\n"c": []\n},\n{"c": 1}]',
            [{"image": ["é.jpg", "b.jpg"], "c": []}, {"c": 1}],
            1,
        ),
        # The schema of XTuner's tutorial: comments and commas behind the last element.
        ('[\n{"a": [1, 2, # ...\n],},\n# 下面\n\n{"a": "# no"}\n]', [{"a": [1, 2]}, {"a": "# no"}], 1),
        ('# first\n[{"a": 1},]', [{"a": 1}], 1),  # the records are JSON, the file is not
        ('[{"a": 1},\n{"b": 2}\n{"c": 3}]', [{"a": 1}, {"b": 2}, {"c": 3}], 1),
        # The document of XComposer-2.5: a full-width comma.
        ("[{'a': 'Q，A'}，\n{'a': 2}]", [{"a": "Q，A"}, {"a": 2}], 2),
        (r"""{'a': 'say "x" \n \\ \x41 \u4f60 \ud83d\ude00 \"'}""", [{"a": 'say "x" \n \\ A 你 😀 "'}], 1),
    ],
)
def test_python_like(tmp_path, content, records, count):
    assert read_all(written(tmp_path, content)) == (records, count)


@pytest.mark.parametrize(
    "content",
    [
        "[{'a': 'b' 'c'}]",  # Python joins them; a forgotten comma would not
        "[{'a': ['b'\n'c']}]",
        "[{'a': (1, 2)}]",
        "[{'a': __import__('os').getcwd()}]",
        "[{'a': 1 + 1}]",
        "[{'a': 1},, {'a': 2}]",
        "[, {'a': 2}]",
        "[{'a': 1}] [{'a': 1}]",
        "[{'a': '\\N{BULLET}'}]",
        "[{'a': '''b'''}]",
        "[{'a': b'b'}]",
        "[{'a': 0x10}]",
        "[{'a': 007}]",
        "[{'a': 'b]",
        "[{'a'; 1}]",
        "[{'a': {1, 2}}]",
        "[{'a': 1]}",
    ],
)
def test_what_has_several_meanings_or_none_is_an_error(tmp_path, content):
    with pytest.raises(DataError, match=r"train.json: this is not valid JSON at line [12], column \d+: \S"):
        RecordFile(written(tmp_path, content))


def test_python_like_file_too_large_to_take_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(record_files, "MAX_PYTHON_LIKE_BYTES", 9)
    with pytest.raises(DataError, match="line 1, column 3: Expecting property name"):
        RecordFile(written(tmp_path, "[{'a': 1}]"))


# Damaged


@pytest.mark.parametrize("chunk", [1024, 7])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n {"a": 1},\n {"b": }\n]', "not valid JSON at line 3, column 8: Expecting value$"),
        ('[{"a": 1}', "not valid JSON at line 1, column 10: Expecting ',' delimiter$"),
        ('\ufeff[{"é": }]', "not valid JSON at line 1, column 8: Expecting value$"),
        ('[{"a": 1}] x', "not valid JSON at line 1, column 12: Extra data$"),
        ('[{"a": "é', "not valid JSON at line 1, column 8: Unterminated string starting at$"),
        ('{"a": 1}\n{"b": }\n{"c": 2}', "not valid JSON at line 2, column 7: Expecting value$"),
        ('{"a": 1}\n\n {"b" 1}', "not valid JSON at line 3, column 7: Expecting ':' delimiter$"),
        ('{"a": }\n{"b": 1}', "not valid JSON at line 1, column 7: Expecting value$"),
        ("hello", "not valid JSON at line 1, column 1: Expecting value$"),
        # Of a file that looks like Python, what Python would refuse too.
        ("[{'a': 1},\n{'b': }]", "not valid JSON at line 2, column 7: Expecting value$"),
        ("{'a': 1}\n{'b': }", "not valid JSON at line 2, column 7: Expecting value$"),
        ("", "the file is empty; it should hold a JSON list of records, or one record per line$"),
        (" \n", "the file is empty"),
        ('[{"a": "é"}]'.encode("latin-1"), "byte 8 is not UTF-8; save the file in UTF-8$"),
        ('{"a": 1}\n{"a": "é"}'.encode("latin-1"), "byte 16 is not UTF-8; save the file in UTF-8$"),
        ('[{"a": "你"}]'.encode()[:-4], "byte 8 is not UTF-8"),
        ('[{"a": 1}]'.encode("utf-16"), "byte 0 is not UTF-8"),
        ('[{"a": 1, "b": {"c": 1, "c": 2}}]', r'\[0\]: the key "c" stands there more than once; keep one$'),
        ('[{"a": %s}]' % ("9" * 5000), r"\[0\]: Exceeds the limit .* for integer string conversion"),
        ("[" * 100_000, r"\[0\]: lists or objects stand in each other too deeply; that is no record"),
        ('{"a":' * 100_000, r"\[0\]: lists or objects stand in each other too deeply; that is no record"),
        (f"[{{'a': {'[' * 200}1{']' * 200}}}]", "more than 100 lists and objects in each other"),
    ],
)
def test_bad_file(tmp_path, content, message, chunk, monkeypatch):
    read_in_chunks(monkeypatch, chunk)
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        list(RecordFile(path))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["[%s]", "%s\n%s\n"])
def test_record_too_large(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(record_files, "MAX_RECORD_BYTES", 1000)
    read_in_chunks(monkeypatch, 64)
    record = json.dumps({"a": "x" * 1000})
    path = written(tmp_path, layout % ((record,) * layout.count("s")))
    with pytest.raises(DataError, match=r"\[0\]: the record is larger than 0 MiB; split it, and give large images as"):
        list(RecordFile(path))


def test_damage_in_a_large_list_is_found_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(record_files, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(record_files, "MAX_PYTHON_LIKE_BYTES", 0)
    read_in_chunks(monkeypatch, 64)
    path = written(tmp_path, "[\n" + '{"a": 1},\n' * 50 + '{"b" 2},\n' + '{"a": 1},\n' * 500 + '{"a": 1}]')
    with pytest.raises(DataError, match="not valid JSON at line 52, column 6: Expecting ':' delimiter"):
        RecordFile(path)


def test_file_that_changes(tmp_path):
    path = written(tmp_path, '[{"a": 1}, {"a": 2}]')
    records = RecordFile(path)
    written(tmp_path, '[{"a": 1, "b": 3}]')
    with pytest.raises(DataError, match="train.json: the file was changed while it was in use; start again"):
        records[0]
    path.unlink()
    with pytest.raises(DataError, match="train.json: the file was removed while it was in use; start again"):
        records[0]


def test_missing_file(tmp_path):
    for path, told in (
        (tmp_path / "gone.json", "there is no such data file"),
        (tmp_path, "this is a folder, not a data f"),
    ):
        with pytest.raises(FileNotFoundError, match=f"^{path}: {told}.*; correct the path$"):
            RecordFile(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = written(tmp_path, "[]")
    path.chmod(0)
    with pytest.raises(PermissionError, match="train.json"):
        RecordFile(path)

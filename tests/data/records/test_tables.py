"""CSV and TSV files as files of records; files of other programs are named."""

import contextlib
import random

import pytest

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.record_files import RecordFile
from paddle_xc2.data.records.tables import NO_IMAGE, TABLE, UNREAD_COLUMN, TableFile, open_records, parse_columns


def record(question, answer, **others):
    turns = [{"from": "user", "value": question}, {"from": "assistant", "value": answer}]
    return others | {"conversations": turns}


def table(tmp_path, content, name="data.csv", columns=None):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_records(tmp_path / name, columns)


@pytest.mark.parametrize(
    "content",
    [
        "image,question,answer\na.png,Q,A\n",
        "Photo;Prompt;Response\r\na.png;Q;A\r\n",
        "\ufeffpicture\tquery\tcaption\na.png\tQ\tA",
        "file_name|q|a\n\n a.png |Q|A\n||\n",
        "图片,问题,答案\na.png,Q,A\n",
        "image,question,answer\na.png,Q,A\n".encode("utf-16"),
    ],
)
def test_columns_are_known_by_their_names(tmp_path, content):
    found = table(tmp_path, content)
    assert list(found) == [record("Q", "A", image=["a.png"])]
    assert found.source(0) == f"{tmp_path}/data.csv[0]"
    assert found[-1:] == [found[0]]
    with pytest.raises(IndexError):
        found[1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            "bild,question,answer\np/a.png,Q,A\n,Q,A\n",
            'column "bild" names pictures, but none is read as im',
        ),
        ("link,q,a\nhttps://x.org/a.JPG,Q,A\n", 'column "link" names pictures'),
        ("question,answer,answer\nQ,A,B\n", '2 columns are called "answer"; rename all but one'),
        ("question,Question,answer\nQ,A,B\n", '2 columns are called "question"; rename all but one'),
    ],
)
def test_columns_that_would_be_passed_over(tmp_path, content, told):
    with pytest.raises(DataError, match=f"data.csv: {told}"):
        table(tmp_path, content)


def test_a_column_that_names_no_pictures_is_left_out(tmp_path):
    content = "link,image2,image,question,answer\nhttps://x.org/page,b.png,a.png,Q,A\nc.png,,,Q,A\n"
    assert table(tmp_path, content)[0] == record("Q", "A", image=["a.png"])
    assert table(tmp_path, "link,question,answer\nhttps://x.org/page,Q,A\nc.png,Q,A\n")[0] == record("Q", "A")
    named = table(tmp_path, "q,Q,a\nQ1,Q2,A\n", columns={"question": "Q"})
    assert named[0] == record("Q2", "A")
    named = table(tmp_path, "bild,question,answer\na.png,Q,A\n", columns={"image": "bild"})
    assert named[0] == record("Q", "A", image=["a.png"])


def test_texts_with_commas_quotes_and_line_breaks(tmp_path):
    content = 'image,question,answer,score\n,"What, or ""who""?","Line\nbreak",3\n'
    found = table(tmp_path, content)
    assert found[0] == record('What, or "who"?', "Line\nbreak")
    kinds = [note.kind for note in found.notes]
    used = "image = image, question = question, answer = answer"
    assert kinds == [TABLE.format(used), UNREAD_COLUMN.format("score")]
    long = "x" * 300_000  # more than the reader allows by default
    assert table(tmp_path, f"question,answer\nQ,{long}\n")[0] == record("Q", long)
    assert len(table(tmp_path, "question\tanswer\nQ, or not\tA\n", "data.tsv")) == 1


def test_columns_that_are_named(tmp_path):
    content = "photo,text1,text2,who,system\na.png,Q,A,7,S\n"
    found = table(tmp_path, content, columns={"question": "text1", "answer": "text2", "id": "who"})
    assert list(found) == [record("Q", "A", id="7", image=["a.png"], system="S")]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (
            "image,text\na.png,Q\n",
            None,
            r"which column holds the question and the answer\? the columns are image, text; say it by columns, as in i",
        ),
        ("image,question\n", {"answer": "an"}, 'there is no column "an" for answer; the columns are image, question$'),
        ("", None, "the file is empty; it should hold a row of names, and a row per record"),
        ('question,answer\n"Q"x,A\n', None, "line 2 can't be read .*; put texts with quotes, commas or line breaks in"),
        ('question,answer\n"Q,A\n', None, "line 2 can't be read .unexpected end of data.; put texts"),
        (b"question,answer\n\xe4,A\n", None, 'byte 16 is not UTF-8; save it as "CSV UTF-8", as Excel calls it'),
    ],
)
def test_tables_that_cant_be_read(tmp_path, content, columns, message):
    with pytest.raises(DataError, match=message) as caught:
        table(tmp_path, content, columns=columns)
    assert str(caught.value).startswith(f"{tmp_path}/data.csv: ") and "\n" not in str(caught.value)


def test_rows_of_another_length_and_files_that_are_none(tmp_path, monkeypatch):
    found = table(tmp_path, "question,answer\nQ,A\nQ, or not,A\n")
    assert found[0] == record("Q", "A")
    with pytest.raises(DataError, match=r"data.csv\[1\]: line 3 has 3 cells, and the first row has 2; put texts that"):
        found[1]
    with pytest.raises(FileNotFoundError, match="none.csv: there is no such data file; correct the path"):
        TableFile(tmp_path / "none.csv")
    monkeypatch.setattr("paddle_xc2.data.records.tables.MAX_TABLE_BYTES", 5)
    with pytest.raises(DataError, match="a table may have 0 MiB; split it, or use JSON lines"):
        table(tmp_path, "question,answer\nQ,A\n")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            b"PK\x03\x04",
            "this is an Excel workbook, or an archive, which is not read; save the sheet as CSV .UTF-8., or",
        ),
        (b"PAR1", "this is a Parquet file, which is not read; pandas.read_parquet.name..to_csv"),
        (b"ARROW1", "this is an Arrow file"),
        (b"\xd0\xcf\x11\xe0", "this is an old Excel workbook"),
        (b"\x1f\x8b", "this is a gzip archive, which is not read; unpack it"),
        (b"SQLite format 3\0", "this is an SQLite database"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, start, message):
    with pytest.raises(DataError, match=message):
        table(tmp_path, start + b"...", "data.xlsx")


def test_other_files_are_records(tmp_path):
    assert isinstance(table(tmp_path, "[]", "data.json"), RecordFile)
    with pytest.raises(FileNotFoundError):
        open_records(tmp_path / "none.json")


def test_columns_as_they_are_said():
    said = {"image": "photo", "question": "q", "answer": "a"}
    assert parse_columns("image=photo, question=q,answer=a") == parse_columns(said) == said
    assert parse_columns(None) is None
    for columns, message in (
        ("photo,q", 'columns are "photo,q"; write image=photo,question=q,answer=a'),
        ("imge=photo", 'columns name "imge", but a table holds image, question, .*; did you mean "image"'),
        ({"image": 7}, 'the column of "image" must be a name'),
    ):
        with pytest.raises(ValueError, match=message):
            parse_columns(columns)


def test_damaged_tables_end_in_one_kind_of_error(tmp_path):
    chance = random.Random(3)
    for _ in range(300):
        content = bytearray(b'image,question,answer\n"a, b.png",Q,"A ""x""\nB"\nb.png,Q,A\n')
        for _ in range(chance.choice((1, 3, 10))):
            content[chance.randrange(len(content))] = chance.choice(b'",\n\r\0\xff;x\t')
        with contextlib.suppress(DataError):
            found = table(tmp_path, bytes(content))
            for index in range(len(found)):
                with contextlib.suppress(DataError):
                    found.read(index)


def test_rows_where_a_cell_is_empty(tmp_path):
    found, notes = table(tmp_path, "image,question,answer\na.png, ,A\n ,Q,A\n"), Notes()
    with pytest.raises(DataError, match=r"data.csv\[0\]: the question is empty; write it, or remove the row") as error:
        found.read(0)
    assert error.value.rule == "empty question"
    assert found.read(1, notes) == record("Q", "A")
    assert [str(note) for note in notes] == [f"1 x {NO_IMAGE.format('image')} (first: {tmp_path}/data.csv[1])"]

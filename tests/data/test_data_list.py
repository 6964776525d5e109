from pathlib import Path

import pytest

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.data_list import read_data_list
from paddle_xc2.data.mixture import load_datasets
from tests.data.conftest import write_records


def quotas(specs):
    return [(spec.name, spec.num_samples, spec.ratio) for spec in specs]


def test_data_list_in_every_spelling(files):
    (files / "two words").mkdir()
    write_records(files / "two words" / "d.json")
    path = files / "data.txt"
    path.write_bytes(
        b"\xef\xbb\xbf# all of it\r\na.json   0.02\r\n\r\n  'two words/d.json'\t1e0 # a thousand\r\n"
        + f"{files}/b.json 10\r\nc.json\r\n\r\n".encode()
    )
    assert quotas(read_data_list(path, given_num=True)) == [
        ("a", 20, 1.0),
        ("d", 1000, 1.0),
        ("b", 10000, 1.0),
        ("c", None, 1.0),
    ]
    assert quotas(read_data_list(path, given_num=False)) == [
        ("a", None, 0.02),
        ("d", None, 1.0),
        ("b", None, 10.0),
        ("c", None, 1.0),
    ]


def test_thousands_are_cut_as_upstream_cuts_them(files):
    path = files / "data.txt"
    for number in ("1.001", "0.0015", "0.29", "7"):
        path.write_text(f"a.json {number}")
        assert read_data_list(path, given_num=True)[0].num_samples == int(float(number) * 1000)


def test_paths_start_from_the_list_or_the_working_directory(files):
    write_records(files / "elsewhere" / "a.json", 7)
    write_records(files / "elsewhere" / "d.json", 8)
    (files / "data.txt").write_text("a.json\nd.json\n")
    specs = read_data_list(files / "data.txt", given_num=True, image_folder=Path("pictures"))
    assert [dataset.num_records for dataset in load_datasets(specs).datasets] == [1, 8]
    assert all(spec.image_folder == Path("pictures") for spec in specs)


def test_one_file_on_several_lines_is_summed(files):
    path = files / "data.txt"
    path.write_text(f"a.json 1\nb.json 2\n{files}/a.json 0.5\n")
    assert quotas(read_data_list(path, given_num=True)) == [("a", 1500, 1.0), ("b", 2000, 1.0)]
    assert quotas(read_data_list(path, given_num=False)) == [("a", None, 1.5), ("b", None, 2.0)]
    path.write_text("a.json\na.json\n")
    assert quotas(read_data_list(path, given_num=True)) == [("a", None, 2.0)]
    path.write_text("a.json 1\na.json\n")
    with pytest.raises(DataError, match="line 2: a.json stands both with and without a number"):
        read_data_list(path, given_num=True)


def test_files_of_one_name_keep_their_folders(files):
    write_records(files / "elsewhere" / "a.json")
    (files / "data.txt").write_text("a.json\nelsewhere/a.json\nb.json")
    specs = read_data_list(files / "data.txt", given_num=True)
    assert [spec.name for spec in specs] == ["a.json", "elsewhere/a.json", "b"]


def test_lines_that_cannot_be_used_are_told_together(files):
    path = files / "data.txt"
    path.write_text("a.json ten\nmy file.json 3\n'a.json 3\na.json -1\na.json nan\na.json 0\nb.json inf")
    with pytest.raises(DataError) as caught:
        read_data_list(path, given_num=True)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 7 lines can't be used:"
    assert lines[1] == '  line 1: "ten" is no number; write `path number`, quotes around spaces'
    assert lines[2] == '  line 2: "my file.json 3" has 3 words; write `path number`, quotes around spaces'
    assert lines[3] == "  line 3: No closing quotation"
    assert lines[4] == "  line 4: the number -1 must be above 0; put a # before a file to leave out"
    assert len(lines) == 8
    path.write_text("a.json ten\n" * 25)
    with pytest.raises(DataError, match="and 5 more$"):
        read_data_list(path, given_num=True)


def test_data_list_that_is_none(files):
    with pytest.raises(FileNotFoundError, match="no.txt: there is no such data list"):
        read_data_list(files / "no.txt", given_num=True)
    path = files / "data.txt"
    for raw, said in (
        (b"# nothing\n\n", "the list names no file; write lines like"),
        (b"a.json \xff", "byte 7 is not UTF-8"),
        (b"#" * (2**20 + 1), "1,048,577 bytes are too many for a list of files"),
    ):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=said):
            read_data_list(path, given_num=True)
    path.write_text("a.json\nx.json 3\ny.json\n")
    with pytest.raises(
        FileNotFoundError, match=r"files are missing: x.json \(line 2\), y.json \(line 3\) \(looked for f"
    ):
        read_data_list(path, given_num=True)


# Drawing


def test_a_list_made_on_windows(files, monkeypatch):
    (files / "sub dir").mkdir()
    (files / "sub dir" / "a.json").write_bytes((files / "a.json").read_bytes())
    (files / "data.txt").write_text('"sub dir\\a.json" 2\nsub\\ dir/a.json\n', encoding="utf-8")
    specs = read_data_list(files / "data.txt", given_num=False)
    assert [spec.files for spec in specs] == [(files / "sub dir" / "a.json",)]
    (files / "data.txt").write_text("sub\\b.json 2\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"subb.json \(line 1\)"):
        read_data_list(files / "data.txt", given_num=False)

"""Names of files as other programs write them."""

from pathlib import Path

import pytest

from paddle_xc2.files.local_path import find_path, local_path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a few files, which is the working directory and the home."""
    (tmp_path / "images").mkdir()
    for name in ("a b.png", "c%20d.png", "plain.png"):
        (tmp_path / "images" / name).write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("images/plain.png", "plain.png"),
        ("file://{folder}/images/a%20b.png", "a b.png"),
        ("file://localhost{folder}/images/a%20b.png", "a b.png"),
        ("FILE:{folder}/images/plain.png", "plain.png"),
        ("file://images/plain.png", "plain.png"),
        ("file://{folder}/images/c%20d.png", "c%20d.png"),
        ("file://{folder}/images/c%2520d.png", "c%20d.png"),
        ("~/images/plain.png", "plain.png"),
        (r"images\a b.png", "a b.png"),
        (r"~\images\plain.png", "plain.png"),
        (r".\images\plain.png", "plain.png"),
    ],
)
def test_where_a_name_leads(folder, name, file):
    name = name.format(folder=folder)
    assert local_path(name).samefile(folder / "images" / file)
    assert find_path(name, [folder / "elsewhere", folder]).samefile(folder / "images" / file)


@pytest.mark.parametrize(
    "name", ["images/none.png", "owner/model", "a\\b", "a\0b", "~nobody-of-this-name/a", "x" * 5000]
)
def test_what_is_nowhere_stays_as_it_is_written(folder, name):
    assert local_path(name) == Path(name)
    assert find_path(name, [folder, "."]) is None


def test_a_file_whose_name_holds_back_slashes_is_that_file(folder):
    (folder / r"images\plain.png").write_text("")
    assert local_path(r"images\plain.png").name == r"images\plain.png"
    assert local_path(Path("~") / "new") == folder / "new"


@pytest.mark.parametrize("name", ["http://a..b", "https://a/b.json", "s3://a/b", "hf://a"])
def test_addresses_of_a_network_are_no_paths(name):
    with pytest.raises(ValueError, match=f"{name}: is an address, where a path on this machine is expected; fetch it"):
        local_path(name)

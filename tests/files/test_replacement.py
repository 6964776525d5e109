import json
import shutil

import pytest

from paddle_xc2.files.durable import SCRATCH, NotOurs, file_table
from paddle_xc2.files.replacement import JOURNAL, finish, replace_files
from tests.kills import killed_everywhere


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def fill(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


OLD = {"config.json": "old", "a": "old", "part/x": "old", "gone/y": "old"}
NEW = {"config.json": "new", "a": "new", "b": "new", "part/x": "new", "part/z": "new"}
THEIRS = {"notes.txt": "mine", "part/mine": "mine"}


@pytest.fixture
def folders(tmp_path):
    """(new, destination); the table of the old files."""
    new, destination = tmp_path / "new", tmp_path / "out"
    fill(destination, OLD)
    table = file_table(destination)
    fill(destination, THEIRS)
    fill(new, NEW)
    return new, destination, table


def content(folder):
    return {name: (folder / name).read_text() for name in names(folder)}


def test_others_files_stay(folders):
    new, destination, table = folders
    replace_files(new, destination, table, ("config.json",))
    assert content(destination) == NEW | THEIRS
    assert not new.exists() and not (destination / "gone").exists()


@pytest.mark.parametrize("name", ["b", "a", "gone/y"])
def test_what_is_not_ours_is_in_the_way(folders, name):
    """A file that we did not write, one that was changed since, and one that would be deleted."""
    new, destination, table = folders
    (destination / name).write_text("mine")
    before = content(destination)
    with pytest.raises(NotOurs) as caught:
        replace_files(new, destination, table, ("config.json",))
    assert str(caught.value) == (
        f"{destination}: {name}: not written by paddle_xc2, or changed since; move that away, or give another "
        f"directory; the new files lie whole in {new}, and take their places then"
    )
    assert content(destination) == before and names(new) == sorted([*NEW, JOURNAL])
    (destination / name).unlink()
    assert finish(new, destination) and content(destination) == NEW | THEIRS


def test_the_same_content_is_in_nobodys_way(folders):
    new, destination, table = folders
    fill(destination, {"b": "new"})
    replace_files(new, destination, table, ("config.json",))
    assert content(destination) == NEW | THEIRS


@pytest.mark.parametrize(
    "change",
    [
        {"new": ["../b"]},
        {"old": {"/etc/hosts": None}},
        {"old": {"a": 1}},
        {"new": "a"},
        {"since": "then"},
        {"new": [1]},
    ],
)
def test_a_damaged_journal_moves_nothing(folders, change):
    new, destination, _ = folders
    journal = {"new": ["a"], "old": {}, "known_by": [], "since": None}
    (new / JOURNAL).write_text(json.dumps(journal | change))
    before = content(destination)
    with pytest.raises(ValueError, match="replaces.json: is damaged; delete its folder, which holds what was to be"):
        finish(new, destination)
    assert content(destination) == before


def test_nothing_to_finish(folders):
    new, destination, _ = folders
    assert not finish(new, destination) and content(new) == NEW


def test_killed_at_every_operation(tmp_path):
    """It is all old before, all new afterwards, and no reader takes a mixture for either."""
    folder = tmp_path / "work"
    new, destination = folder / "new", folder / "out"

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        fill(destination, OLD)
        (tmp_path / "table.json").write_text(json.dumps(file_table(destination)))
        fill(destination, THEIRS)
        fill(new, NEW)

    def work():
        replace_files(new, destination, json.loads((tmp_path / "table.json").read_text()), ("config.json",))

    places = []
    for place in killed_everywhere(folder, prepare, work):
        places.append(place)
        found = content(destination)
        if "config.json" in found:
            assert {**found, **THEIRS} in (OLD | THEIRS, NEW | THEIRS), place
        finish(new, destination)
        assert content(destination) == (OLD if new.exists() else NEW) | THEIRS, place
        assert not [name for name in names(destination) if SCRATCH in name]
    assert len(places) > 30

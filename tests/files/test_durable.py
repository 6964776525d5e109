import os
from types import SimpleNamespace

import pytest

from paddle_xc2.files.durable import (
    check_free_space,
    file_table,
    is_as_written,
    is_file_table,
    leave_cache,
    replace_file,
    scratch,
    table_entry,
    written_aside,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replace_file(tmp_path):
    replace_file(tmp_path / "a", b"one")
    replace_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two" and names(tmp_path) == ["a"]


def test_an_error_leaves_the_old_file(tmp_path):
    replace_file(tmp_path / "a", b"one")
    with pytest.raises(KeyboardInterrupt), written_aside(tmp_path / "a") as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_bytes() == b"one" and names(tmp_path) == ["a"]


def test_a_full_disk_names_the_file(tmp_path):
    scratch(tmp_path / "a", "writing").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        replace_file(tmp_path / "a", b"one")
    assert caught.value.filename == str(tmp_path / "a") and names(tmp_path) == []


def test_long_names(tmp_path):
    path = tmp_path / ("\u4f60" * 84)
    replace_file(path, b"x")
    assert names(tmp_path) == [path.name]


def test_our_own_are_known_again(tmp_path):
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "a"
    path.write_bytes(b"one")
    table = file_table(tmp_path)
    assert table == {"deep/a": table_entry(b"one")} and is_file_table(table)
    entry, now = table["deep/a"], path.stat().st_mtime_ns
    assert is_as_written(path, entry) and is_as_written(path, entry, now)
    assert not is_as_written(path, None) and not is_as_written(tmp_path / "b", entry)
    path.write_bytes(b"two")
    os.utime(path, ns=(now, now))
    assert is_as_written(path, entry, now)  # not read: it was not changed since
    assert not is_as_written(path, entry) and not is_as_written(path, entry, now - 1)
    path.write_bytes(b"three")
    assert not is_as_written(path, entry, now)


ENTRY = table_entry(b"")


@pytest.mark.parametrize(
    "content", [[], {"a": 1}, {"a": {"bytes": "1", "sha256": ""}}, {"/a": ENTRY}, {"a/../b": ENTRY}]
)
def test_what_is_no_table(content):
    assert not is_file_table(content)


def test_free_space(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=5_000_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    check_free_space(tmp_path / "model", 5_000_000_000)
    with pytest.raises(ValueError) as caught:
        check_free_space(tmp_path / "model", 17_340_000_000)
    assert str(caught.value) == (
        f"{tmp_path}: 17.3 GB are needed there, but its disk has 5 GB free; free 12.3 GB, or give a directory on "
        "another disk"
    )


def test_what_leaves_the_cache_stays_on_the_disk(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"one")
    leave_cache(tmp_path / "a")
    monkeypatch.delattr(os, "posix_fadvise")  # as on macOS
    leave_cache(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"one"

import hashlib
import json
import shutil

import pytest

from paddle_xc2.files import durable
from paddle_xc2.training.run_folder import checkpoints
from paddle_xc2.training.run_folder.checkpoints import (
    MARKER,
    check_none_in_the_way,
    check_whole,
    newest_named,
    newest_whole,
    read_marker,
    save_checkpoint,
)


@pytest.fixture
def save(tmp_path):
    """Writes a checkpoint of two files into tmp_path."""

    def write(step, started=1, keep=None):
        def fill(directory):
            (directory / "weights").write_bytes(bytes(range(256)) * step)
            (directory / "optimizer").mkdir()
            (directory / "optimizer" / "state").write_text(f"state {step}")

        return save_checkpoint(tmp_path, step, fill, {"started": started, "course": {"seed": 1}}, keep)

    return write


def write_file(content):
    """What fills a checkpoint with one file."""

    def fill(directory):
        (directory / "a").write_text(content)
        return {}

    return fill


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written(save, tmp_path):
    path = save(7)
    assert path == tmp_path / "checkpoint-7" and names(tmp_path) == ["checkpoint-7"]
    marker = read_marker(path)
    assert (marker["step"], marker["started"], marker["course"]) == (7, 1, {"seed": 1})
    assert marker["files"]["optimizer/state"]["bytes"] == 7 and len(marker["files"]["weights"]["sha256"]) == 64
    check_whole(path)


def test_what_was_hashed_while_it_was_written_is_not_read_for_it(tmp_path, monkeypatch):
    def fill(directory):
        (directory / "weights").write_bytes(b"w")
        (directory / "others").write_bytes(b"o")
        return {"weights": hashlib.sha256(b"w").hexdigest()}

    read = []
    monkeypatch.setattr(durable, "sha256", lambda path: read.append(path.name) or hashlib.sha256(b"o").hexdigest())
    path = save_checkpoint(tmp_path, 3, fill, {"started": 1})
    assert read == ["others"]
    monkeypatch.undo()
    check_whole(path)


def test_error_while_writing_leaves_no_checkpoint(save, tmp_path):
    save(1)

    def fail(directory):
        (directory / "weights").write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, fail, {"started": 1}, keep=1)
    assert names(tmp_path) == ["checkpoint-1"]  # what was half-written takes no room
    assert newest_whole(tmp_path) == (tmp_path / "checkpoint-1", [])


def test_what_a_killed_run_left_is_told_and_cleared_away(save, tmp_path):
    save(1)
    (tmp_path / ".paddle_xc2-writing-checkpoint-2").mkdir()
    newest, passed_over = newest_whole(tmp_path)
    assert newest.name == "checkpoint-1"
    assert passed_over == [
        f"{tmp_path}/.paddle_xc2-writing-checkpoint-2: the run was interrupted while this was written"
    ]
    (tmp_path / ".paddle_xc2-writing-loss.png").write_text("half")
    checkpoints.delete_unfinished(tmp_path)
    assert names(tmp_path) == ["checkpoint-1"]


def test_keeps_exactly_as_many_as_asked(save, tmp_path):
    for step in (2, 4, 6, 10):
        save(step, keep=2)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-6"]


def test_the_best_is_one_of_them(tmp_path):
    kept = []
    for step, best in ((2, 2), (4, 2), (6, 2), (8, 8), (10, 8), (12, 8)):
        save_checkpoint(tmp_path, step, write_file("x"), {"started": 1}, 2, best)
        kept.append([int(name.rpartition("-")[2]) for name in names(tmp_path)])
    assert [sorted(steps) for steps in kept] == [[2], [2, 4], [2, 6], [6, 8], [8, 10], [8, 12]]


def test_nothing_is_deleted_before_the_successor_is_whole(tmp_path, save):
    save(1, keep=1)
    seen = []
    save_checkpoint(tmp_path, 2, lambda _: seen.extend(names(tmp_path)), {"started": 1}, keep=1)
    assert "checkpoint-1" in seen and names(tmp_path) == ["checkpoint-2"]


def test_earlier_runs_and_courses_given_up_are_deleted(save, tmp_path):
    save(50, started=1)
    save(10, started=2)
    save(30, started=2)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-30"]
    save(20, started=2)  # the run went on from 10 once more
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-20"]


def test_foreign_directories_stay(save, tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "model.pdparams").write_text("someone else's")
    (tmp_path / "checkpoint-best").mkdir()
    save(5, keep=1)
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-5", "checkpoint-best"]


def test_picks_the_latest_run_then_the_latest_step(save, tmp_path):
    for step in (1, 2, 10):
        save(step)
    assert newest_whole(tmp_path) == (tmp_path / "checkpoint-10", [])
    assert newest_named(tmp_path) == tmp_path / "checkpoint-10"
    later = save(3, started=2)
    (tmp_path / "copy").mkdir()
    assert newest_whole(tmp_path) == (later, [])


def test_no_checkpoint(tmp_path):
    assert newest_whole(tmp_path) == (None, []) and newest_named(tmp_path) is None
    assert newest_whole(tmp_path / "nowhere") == (None, [])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: _flip(path / "weights"), "weights has changed (its SHA-256 is another)"),
        (lambda path: (path / "weights").write_bytes(b"x"), "weights has 1 bytes instead of 512"),
        (lambda path: (path / "optimizer" / "state").unlink(), "optimizer/state is missing"),
        (lambda path: (path / MARKER).unlink(), f"it has no {MARKER}, so it is unfinished or no checkpoint"),
    ],
)
def test_damaged_ones_are_passed_over_and_told(save, tmp_path, damage, reason):
    whole, damaged = save(1), save(2)
    damage(damaged)
    newest, passed_over = newest_whole(tmp_path)
    assert newest == whole
    assert len(passed_over) == 1 and passed_over[0].startswith(f"{damaged}: {reason}")
    with pytest.raises(ValueError, match="checkpoint-2: "):
        check_whole(damaged)
    assert save(2) == damaged  # going on replaces it
    check_whole(damaged)


@pytest.mark.parametrize(
    "content",
    [
        {"step": 2},
        {"step": "2", "started": 1, "files": {}},
        {"step": 2, "started": 1, "files": {"../../victim": {"bytes": 1, "sha256": ""}}},
        {"step": 2, "started": 1, "files": ["weights"]},
        None,
    ],
)
def test_damaged_markers(save, tmp_path, content):
    """Whose files they are can't be told then: they are passed over, never deleted, and in the way of others."""
    whole, damaged = save(1), save(2)
    (damaged / MARKER).write_text('{"step": 2' if content is None else json.dumps(content))
    assert newest_whole(tmp_path) == (whole, [f"{damaged}: {MARKER} is damaged"])
    assert newest_named(tmp_path) == whole
    with pytest.raises(ValueError, match="holds checkpoint-2 without a sound checkpoint.json"):
        check_none_in_the_way(tmp_path, 1, 5)
    check_none_in_the_way(tmp_path, 3, 5)
    save(3, keep=1)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"] and len(names(damaged)) == 3


def test_others_files_in_a_checkpoint_stay(save, tmp_path):
    """With what was changed in it since; and a later deletion goes on where one was killed."""
    first = save(1)
    (first / "notes.txt").write_text("mine")
    (first / "weights").write_text("changed")
    save(2, keep=1)
    assert names(first) == ["notes.txt", "optimizer", "weights"] and names(first / "optimizer") == []
    assert (first / "notes.txt").read_text() == "mine"


def test_a_kill_before_the_deletion(save, tmp_path, monkeypatch):
    """The run that goes on makes up for it, but for what comes after the checkpoint that it goes on from."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "delete_superfluous", lambda *args: None)
        save(9, started=0)
        for step in (1, 2, 3, 4):
            save(step)
        save(7, started=2)
    checkpoints.delete_superfluous(tmp_path, 3, 1, 2, 1, given_up=False)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3", "checkpoint-4", "checkpoint-7"]


def test_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint-9: there is no such checkpoint"):
        check_whole(tmp_path / "checkpoint-9")


def test_deletion_that_is_interrupted_leaves_no_checkpoint(save, tmp_path, monkeypatch):
    save(1, keep=1)

    def stop(path, **_):
        if path.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", stop)
    with pytest.raises(KeyboardInterrupt):
        save(2, keep=1)
    assert names(tmp_path) == [".paddle_xc2-deleting-checkpoint-1", "checkpoint-2"]
    monkeypatch.undo()
    checkpoints.delete_unfinished(tmp_path)
    assert names(tmp_path) == ["checkpoint-2"]


def changes(value):
    """JSON values that differ from `value` in one place: of other kinds, or of the same and another number."""
    yield from (None, True, "x", -1, 1.5, [], {}, [value], {"a": value})
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: one for name, one in value.items() if name != key}
            for changed in changes(inner):
                yield {**value, key: changed}
    if isinstance(value, int) and not isinstance(value, bool):
        yield value + 1


def test_a_marker_that_changed_in_any_place_is_damaged(save):
    path = save(1)
    sound = json.loads((path / MARKER).read_text())
    number = 0
    for changed in changes(sound):
        if changed == sound or not isinstance(changed, dict) or "sha256" not in changed or changed["sha256"] is None:
            continue
        (path / MARKER).write_text(json.dumps(changed))
        with pytest.raises(ValueError, match="checkpoint.json is damaged"):
            check_whole(path)
        number += 1
    assert number > 50


def test_a_marker_without_a_sum_of_its_own(save):
    """As they were before there was one; its kinds of values are checked."""
    path = save(1)
    marker = json.loads((path / MARKER).read_text())
    del marker["sha256"]
    (path / MARKER).write_text(json.dumps(marker))
    assert read_marker(path) == marker
    for damage in ({"step": "1"}, {"started": None}, {"files": []}, {"course": [1]}, {"window": 3}, {"step": True}):
        (path / MARKER).write_text(json.dumps({**marker, **damage}))
        with pytest.raises(ValueError, match="checkpoint.json is damaged"):
            read_marker(path)
    (path / MARKER).write_text('{"a": ' * 100_000)
    with pytest.raises(ValueError, match="checkpoint.json is damaged"):
        read_marker(path)

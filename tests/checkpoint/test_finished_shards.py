import json

import pytest

from paddle_xc2.checkpoint.finished_shards import FINISHED_FILE, FinishedShards
from paddle_xc2.files.durable import sha256


def interrupted(directory, *shards, attempt="a", error=KeyboardInterrupt):
    """What an attempt leaves that wrote `shards` and half of another one."""
    said = []
    with pytest.raises(error), FinishedShards(directory, attempt, said.append) as finished:
        for name in shards:
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(name.encode() * 1000)
            finished.add(path, sha256(path))
        (directory / "half").write_bytes(b"half")
        raise error("stopped")
    return said


def files(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def start_again(directory, attempt="a"):
    said = []
    with FinishedShards(directory, attempt, said.append) as finished:
        return finished, said, files(directory)


def test_what_is_whole_stays_and_is_found_again(tmp_path):
    said = interrupted(tmp_path, "model-1", "projector/model-1")
    assert files(tmp_path) == [FINISHED_FILE, "model-1", "projector/model-1"]
    assert said == [
        f"finished and kept: 2 shards (24 kB) in {tmp_path}; the same command goes on after that, or delete the "
        "directory"
    ]
    finished, said, found = start_again(tmp_path)
    assert said == ["going on after 2 shards (24 kB) that an earlier start finished"]
    assert found == [FINISHED_FILE, "model-1", "projector/model-1"]
    assert finished.sha256_of(tmp_path / "model-1") == sha256(tmp_path / "model-1")
    assert finished.sha256_of(tmp_path / "model-2") is None
    assert finished.num_bytes == sum((tmp_path / name).stat().st_size for name in ("model-1", "projector/model-1"))


def test_killed(tmp_path):
    """Nothing was said or cleared away; the shard that was being written is there in part."""
    interrupted(tmp_path, "model-1")
    (tmp_path / "model-2").write_bytes(b"part of")
    (tmp_path / f"{FINISHED_FILE}.new").write_bytes(b"{")
    _, said, found = start_again(tmp_path)
    assert said == ["going on after 1 shard (7 kB) that an earlier start finished"]
    assert found == [FINISHED_FILE, "model-1"]


@pytest.mark.parametrize("state", [None, "{", "{}", '{"attempt": "a", "shards": 3}'])
def test_killed_before_the_first_shard_was_finished(tmp_path, state):
    (tmp_path / "model-1").write_bytes(b"part of")
    if state is not None:
        (tmp_path / FINISHED_FILE).write_text(state)
    assert start_again(tmp_path)[1:] == ([], [])


def test_another_attempt_starts_anew(tmp_path):
    interrupted(tmp_path, "model-1")
    _, said, found = start_again(tmp_path, attempt="b")
    assert found == []
    assert said == [
        f"starting anew: what an interrupted start left in {tmp_path} is of another source or of other arguments, and "
        "is deleted"
    ]


@pytest.mark.parametrize("damage", ["change", "cut", "delete"])
def test_a_damaged_shard_is_written_again(tmp_path, damage):
    interrupted(tmp_path, "model-1", "model-2")
    shard = tmp_path / "model-1"
    if damage == "delete":
        shard.unlink()
    else:
        content = shard.read_bytes()
        shard.write_bytes(content[:-1] + b"x" * (damage == "change"))
    finished, said, found = start_again(tmp_path)
    assert finished.sha256_of(shard) is None and finished.sha256_of(tmp_path / "model-2") is not None
    assert found == [FINISHED_FILE, "model-2"]
    assert said == ["going on after 1 shard (7 kB) that an earlier start finished"]


def test_nothing_stays_when_nothing_was_finished(tmp_path):
    assert interrupted(tmp_path) == []
    assert files(tmp_path) == []


def test_an_error_that_would_come_again_says_nothing(tmp_path):
    assert interrupted(tmp_path, "model-1", error=ValueError) == []


def test_complete(tmp_path):
    with FinishedShards(tmp_path, "a", lambda line: None) as finished:
        (tmp_path / "model-1").write_bytes(b"1")
        finished.add(tmp_path / "model-1", "digest")
        assert json.loads((tmp_path / FINISHED_FILE).read_text())["shards"] == {
            "model-1": {"bytes": 1, "sha256": "digest"}
        }
        finished.complete()
    assert files(tmp_path) == ["model-1"]

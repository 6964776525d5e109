import os

import pytest

from paddle_xc2.checkpoint.manifest import MANIFEST_FILE, write_manifest
from paddle_xc2.checkpoint.whole_directory import finish_interrupted, whole_directory
from paddle_xc2.files.durable import NotOurs


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def write_ours(directory, *files):
    for name in ("config.json", *files):
        (directory / name).write_text(name)
    write_manifest(directory, "paddle", "test", {})


def test_appears_when_whole(tmp_path):
    destination = tmp_path / "deep" / "model"
    with whole_directory(destination) as partial:
        (partial / "config.json").write_text("x")
        assert not destination.exists()
    assert names(destination) == ["config.json"] and names(tmp_path / "deep") == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("exists", [True, False])
def test_nothing_is_left_after_a_failure(tmp_path, error, exists):
    destination = tmp_path / "model"
    if exists:
        destination.mkdir()
    with pytest.raises(error), whole_directory(destination) as partial:
        (partial / "config.json").write_text("x")
        raise error
    assert names(tmp_path) == (["model"] if exists else [])
    assert not exists or names(destination) == []


def test_an_empty_directory_is_filled(tmp_path):
    with whole_directory(tmp_path) as partial:
        (partial / "config.json").write_text("x")
    assert names(tmp_path) == ["config.json"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    for leftover in (tmp_path / ".paddle_xc2-unfinished-model", tmp_path / "other" / ".paddle_xc2-unfinished"):
        leftover.mkdir(parents=True)
        (leftover / "old").touch()
    for destination in (tmp_path / "model", tmp_path / "other"):
        with whole_directory(destination) as partial:
            (partial / "new").touch()
        assert names(destination) == ["new"]
    assert names(tmp_path) == ["model", "other"]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(("error", "stays"), [(KeyboardInterrupt, True), (OSError, True), (ValueError, False)])
def test_resumable(tmp_path, error, stays, exists):
    destination = tmp_path / "model"
    if exists:
        destination.mkdir()
    with pytest.raises(error), whole_directory(destination, resumable=True) as partial:
        (partial / "shard").write_text("x")
        raise error
    assert partial.exists() == stays
    with whole_directory(destination, resumable=True) as partial:
        assert names(partial) == (["shard"] if stays else [])
        (partial / "config.json").write_text("x")
    assert names(destination) == ["config.json"] + (["shard"] if stays else [])
    assert names(tmp_path) == ["model"]


def test_nothing_stays_of_an_attempt_that_wrote_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_directory(tmp_path / "model", resumable=True):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_two_at_a_time_do_not_write_the_same(tmp_path):
    with whole_directory(tmp_path / "model") as partial:
        (partial / "first").touch()
        with pytest.raises(ValueError, match=rf"model: another process is writing it \(process {os.getpid()} on "):
            with whole_directory(tmp_path / "model"):
                pass
    assert names(tmp_path / "model") == ["first"]


def test_file_systems_without_locks(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(45, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with whole_directory(tmp_path / "model") as partial:
        (partial / "config.json").touch()
    assert names(tmp_path / "model") == ["config.json"]


def test_refuses_a_file(tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(ValueError, match="model is a file; give a directory"), whole_directory(tmp_path / "model"):
        pass


def test_refuses_what_is_not_empty(tmp_path):
    write_ours(tmp_path)
    with pytest.raises(ValueError, match=r"is not empty; give another directory, or --overwrite \(overwrite=True\)"):
        with whole_directory(tmp_path):
            pass


@pytest.mark.parametrize("file", ["config.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"])
def test_never_overwrites_a_checkpoint_of_others(tmp_path, file):
    (tmp_path / file).write_text("theirs")
    with pytest.raises(ValueError, match="holds a checkpoint that paddle_xc2 did not write"):
        with whole_directory(tmp_path, overwrite=True):
            pass
    assert names(tmp_path) == [file]


def test_replaces_ours_and_keeps_the_rest(tmp_path):
    write_ours(tmp_path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    (tmp_path / "metrics.jsonl").write_text("theirs")
    with whole_directory(tmp_path, overwrite=True) as partial:
        write_ours(partial, "model.safetensors")
        assert (tmp_path / "model-00001-of-00002.safetensors").exists()
    assert names(tmp_path) == ["config.json", "metrics.jsonl", "model.safetensors", MANIFEST_FILE]


def test_config_goes_first_and_comes_last(tmp_path, monkeypatch):
    """Killed in between, the directory is no checkpoint, rather than a mixture of two."""
    write_ours(tmp_path, "model.safetensors")
    seen = []
    original = type(tmp_path).replace

    def replace(path, target):
        if path.parent.name == ".paddle_xc2-unfinished" and target.parent == tmp_path:
            seen.append((path.name, (tmp_path / "config.json").exists()))
        return original(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", replace)
    with whole_directory(tmp_path, overwrite=True) as partial:
        write_ours(partial, "model.safetensors", "a", "z")
    assert seen[-1] == ("config.json", False) and not any(exists for _, exists in seen)
    assert len(seen) == 5


def test_others_files_that_appear_meanwhile(tmp_path):
    """Nothing is touched then; the new checkpoint is whole, and takes its place once they are moved away."""
    write_ours(tmp_path, "model.safetensors")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(NotOurs, match="README.md: not written by paddle_xc2, or changed since; .* whole in"):
        with whole_directory(tmp_path, overwrite=True) as partial:
            write_ours(partial, "model.safetensors", "README.md")
            (tmp_path / "README.md").write_text("theirs")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    with pytest.raises(NotOurs):
        finish_interrupted(tmp_path)
    (tmp_path / "README.md").rename(tmp_path / "MINE.md")
    finish_interrupted(tmp_path)
    assert names(tmp_path) == ["MINE.md", "README.md", "config.json", "model.safetensors", MANIFEST_FILE]


def test_what_was_changed_since_is_not_ours(tmp_path):
    write_ours(tmp_path, "model.safetensors")
    (tmp_path / "config.json").write_text("edited")
    with pytest.raises(NotOurs, match="config.json: not written by paddle_xc2, or changed since"):
        with whole_directory(tmp_path, overwrite=True):
            pass
    assert (tmp_path / "config.json").read_text() == "edited"

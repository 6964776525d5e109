import pytest

from paddle_xc2.weights.manifest import MANIFEST_FILE, write_manifest
from paddle_xc2.weights.whole_directory import whole_directory


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
    for leftover in (tmp_path / ".model.unfinished", tmp_path / "other" / ".unfinished"):
        leftover.mkdir(parents=True)
        (leftover / "old").touch()
    for destination in (tmp_path / "model", tmp_path / "other"):
        with whole_directory(destination) as partial:
            (partial / "new").touch()
        assert names(destination) == ["new"]
    assert names(tmp_path) == ["model", "other"]


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
        seen.append((path.name, (tmp_path / "config.json").exists()))
        return original(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", replace)
    with whole_directory(tmp_path, overwrite=True) as partial:
        write_ours(partial, "model.safetensors", "a", "z")
    assert seen[-1] == ("config.json", False) and not any(exists for _, exists in seen)
    assert len(seen) == 5

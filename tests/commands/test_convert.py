import errno
from argparse import ArgumentParser

import pytest

from paddle_xc2 import cli
from paddle_xc2.commands import convert
from paddle_xc2.weights import save as saving
from tests.tiny import tiny_checkpoint


def run(*arguments):
    parser = ArgumentParser()
    convert.add_arguments(parser)
    return convert.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("command") / "original")


def test_converts_and_says_what_was_done(original, tmp_path, capfd):
    assert run(original, tmp_path / "ours", "--max_shard_size", "100KB", "--dtype", "bfloat16") == 0
    out, err = capfd.readouterr()
    assert f"{original} (hf) -> {tmp_path / 'ours'} (paddle): " in out and "every one read back and compared" in out
    assert "converting: 100%" in err and "B/s]" in err
    assert run(tmp_path / "ours", tmp_path / "back", "--to", "hf", "--verify", "--disable_tqdm") == 0
    out, err = capfd.readouterr()
    assert "(paddle) -> " in out and "converting" not in err


def test_places_are_written_as_everywhere(original, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    original_at_home = tmp_path / "original"
    original_at_home.symlink_to(original)
    run("~/original", "~/ours", "--disable_tqdm")
    run(f"file://{tmp_path}/original", f"file://{tmp_path}/o%20p", "--disable_tqdm")
    assert {path.name for path in tmp_path.iterdir()} == {"original", "ours", "o p"}
    assert f"-> {tmp_path / 'ours'} (paddle)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="s3://bucket/out: is an address, where a path on this machine is expected"):
        run("~/original", "s3://bucket/out")


def test_says_what_an_interrupted_start_left(original, tmp_path, capfd):
    unfinished = tmp_path / ".paddle_xc2-unfinished-ours"
    unfinished.mkdir()
    (unfinished / "finished_shards.json").write_text('{"attempt": "another", "shards": {}}')
    run(original, tmp_path / "ours", "--disable_tqdm")
    assert "starting anew: what an interrupted start left in" in capfd.readouterr().err


def test_names_what_was_left_out(shared, tmp_path, capsys):
    run(shared / "goldens/xc2_7b/ckpt", tmp_path / "ours", "--disable_tqdm")
    expected = "left out: vit.vision_tower.vision_model.post_layernorm.weight: never influences an output"
    assert expected in capsys.readouterr().out


def test_verifies_only(original, tmp_path, capsys):
    run(original, tmp_path / "ours", "--disable_tqdm")
    assert run(tmp_path / "ours", "--verify") == 0
    assert "MB verified" in capsys.readouterr().out
    (tmp_path / "ours" / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(ValueError, match="tokenizer.model has 1 bytes instead of"):
        run(tmp_path / "ours", "--verify")


def test_destination_missing(original):
    with pytest.raises(ValueError, match="DST is missing: give the directory to write, or --verify to check SRC only"):
        run(original)


def test_a_full_disk_at_the_end(original, tmp_path, capsys, monkeypatch):
    """The shards have room, and what comes after them hasn't: what is written through a buffer names no file."""

    def full(*_):
        raise OSError(errno.ENOSPC, "Full")

    words = ["convert", str(original), str(tmp_path / "ours"), "--disable_tqdm"]
    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_config", full)
        assert cli.main(words) == 1
    kept, told = capsys.readouterr().err.splitlines()[-2:]
    assert kept.startswith("finished and kept: 1 shard ") and not (tmp_path / "ours").exists()
    assert told == f"paddle-xc2 convert: {tmp_path}/ours: Full; make room there, or write to another disk"
    assert cli.main(words) == 0
    assert "going on after 1 shard" in capsys.readouterr().err and (tmp_path / "ours").is_dir()

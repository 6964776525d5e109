import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from paddle_xc2.checkpoint.manifest import verify_manifest
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.weights.convert import convert
from tests.conftest import ROOT
from tests.kills import in_child, kill_at, kill_points
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Upstream's layout; read only."""
    return tiny_checkpoint(tmp_path_factory.mktemp("convert") / "original", num_shards=3)


def assert_equal_tensors(first, second):
    first, second = read_checkpoint(first), read_checkpoint(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert (tensor.dtype, tensor.shape) == (second[name].dtype, second[name].shape)
        assert tensor.read().tobytes() == second[name].read().tobytes(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_there_and_back_is_bit_exact(original, tmp_path, dtype):
    upstream, ours, back = (tmp_path / name for name in ("upstream", "ours", "back"))
    convert(original, upstream, to="hf", dtype=dtype)
    there = convert(upstream, ours, max_shard_size="200KB", verify=True)
    again = convert(ours, back, to="hf", verify=True)
    assert_equal_tensors(upstream, back)
    assert (there.layout, again.layout) == ("hf", "paddle")
    assert there.num_tensors == again.num_tensors == len(read_checkpoint(original))
    assert there.num_bytes == sum(tensor.num_bytes for tensor in read_checkpoint(upstream).values())
    assert there.num_kept_bytes == 0
    assert verify_manifest(ours) > there.num_bytes
    assert json.loads((back / "config.json").read_text()) == json.loads((upstream / "config.json").read_text())
    assert (back / "tokenizer.model").read_bytes() == (original / "tokenizer.model").read_bytes()


def test_linear_weights_are_transposed(original, tmp_path):
    convert(original, tmp_path / "ours")
    ours, upstream = read_checkpoint(tmp_path / "ours"), read_checkpoint(original)
    for name in ("wqkv.linear", "wo.linear"):  # wo is square: a shape could not tell
        found = ours[f"model.layers.0.attention.{name}.weight"].read()
        np.testing.assert_array_equal(found, upstream[f"model.layers.0.attention.{name.split('.')[0]}.weight"].read().T)
    table = "model.tok_embeddings.weight"
    np.testing.assert_array_equal(ours[table].read(), upstream[table].read())


@pytest.mark.parametrize("golden", ["xc2_7b", "xc2_vl_7b"])
def test_goldens(shared, tmp_path, golden):
    source = shared / "goldens" / golden / "ckpt"
    report = convert(source, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="hf")
    tensors, back = read_checkpoint(source), read_checkpoint(tmp_path / "back")
    assert report.dropped.keys() == tensors.keys() - back.keys()
    for name, tensor in back.items():
        assert tensor.read().tobytes() == tensors[name].read().tobytes(), name
    for file in ("config.json", "clip_vision_config.json", "generation_config.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / "back" / file).read_text()) == json.loads((source / file).read_text())


def fail_after(monkeypatch, num_tensors, error):
    """Lets the conversion end with `error` while it writes a later tensor."""
    from paddle_xc2.checkpoint.lazy_tensor import LazyTensor

    blocks, calls = LazyTensor.blocks, []

    def failing_blocks(*args):
        calls.append(args)
        if len(calls) > num_tensors:
            raise error
        return blocks(*args)

    monkeypatch.setattr(LazyTensor, "blocks", failing_blocks)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("fault")])
def test_nothing_is_left_of_the_first_shard(original, tmp_path, monkeypatch, error):
    fail_after(monkeypatch, 20, error)
    with pytest.raises(type(error)):
        convert(original, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []


def written_shards(monkeypatch):
    """The names of the shards that are written from now on."""
    from paddle_xc2.checkpoint import shard_writer

    write, names = shard_writer.write_safetensors, []

    def watched(path, *args):
        names.append(path.name)
        return write(path, *args)

    monkeypatch.setattr(shard_writer, "write_safetensors", watched)
    return names


SHARD = "200KB"  # 14 of them


class TestGoingOn:
    @pytest.fixture
    def interrupted(self, original, tmp_path):
        """A conversion that was stopped in the middle."""
        with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(KeyboardInterrupt):
            fail_after(monkeypatch, 30, KeyboardInterrupt())
            convert(original, tmp_path / "ours", max_shard_size=SHARD)
        (partial,) = tmp_path.iterdir()
        shards = sorted(path.name for path in partial.glob("*.safetensors"))
        assert partial.name == ".paddle_xc2-unfinished-ours" and len(shards) >= 2
        return tmp_path / "ours", shards

    def test_writes_only_what_is_missing(self, original, tmp_path, interrupted, monkeypatch):
        destination, shards = interrupted
        written, said = written_shards(monkeypatch), []
        report = convert(original, destination, max_shard_size=SHARD, say=said.append)
        assert written[0] == f"model-{len(shards) + 1:05d}-of-{len(shards) + len(written):05d}.safetensors"
        assert not set(written) & set(shards)
        assert said[0].startswith(f"going on after {len(shards)} shards (")
        assert 0 < report.num_kept_bytes < report.num_bytes
        convert(original, tmp_path / "at once", max_shard_size=SHARD)
        for path in (tmp_path / "at once").iterdir():
            assert (destination / path.name).read_bytes() == path.read_bytes(), path.name
        assert len(list(destination.iterdir())) == len(list((tmp_path / "at once").iterdir()))
        assert verify_manifest(destination) > report.num_bytes

    @pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"max_shard_size": "210KB"}, {"to": "hf"}])
    def test_not_with_other_arguments(self, original, interrupted, monkeypatch, change):
        destination, _ = interrupted
        written, said = written_shards(monkeypatch), []
        convert(original, destination, **{"max_shard_size": SHARD, **change}, say=said.append)
        assert written[0].startswith("model-00001-of-")
        assert said[0].startswith("starting anew: what an interrupted start left in ")

    def test_not_from_a_source_that_has_changed(self, tmp_path, monkeypatch):
        source = tiny_checkpoint(tmp_path / "source", num_shards=3)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            fail_after(patch, 30, KeyboardInterrupt())
            convert(source, tmp_path / "ours", max_shard_size=SHARD)
        os.utime(source / "model-00002-of-00003.safetensors")
        written = written_shards(monkeypatch)
        convert(source, tmp_path / "ours", max_shard_size=SHARD)
        assert written[0].startswith("model-00001-of-")

    def test_into_a_folder_of_the_source(self, tmp_path, monkeypatch):
        """What is unfinished lies in the source then, and is no part of it."""
        source = tiny_checkpoint(tmp_path / "source", num_shards=3)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            fail_after(patch, 30, KeyboardInterrupt())
            convert(source, source / "ours", max_shard_size=SHARD)
        report = convert(source, source / "ours", max_shard_size=SHARD)
        assert report.num_kept_bytes > 0

    def test_killed(self, original, tmp_path, monkeypatch):
        """With no chance to clear anything away; the second start is another process too."""
        script = (
            "import os, signal, sys\n"
            "from paddle_xc2.checkpoint import shard_writer\n"
            "from paddle_xc2.weights.convert import convert\n"
            "sync, calls = shard_writer.sync, []\n"
            "def killed_at_the_third_shard(path):\n"
            "    calls.append(path)\n"
            "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    sync(path)\n"
            "shard_writer.sync = killed_at_the_third_shard\n"
            f"convert(sys.argv[1], sys.argv[2], max_shard_size={SHARD!r})\n"
        )
        command = [sys.executable, "-c", script, str(original), str(tmp_path / "ours")]
        assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
        partial = tmp_path / ".paddle_xc2-unfinished-ours"
        assert len(list(partial.glob("*.safetensors"))) in (3, 4)  # the third is not finished, the fourth may be begun
        before = {path.name: path.stat().st_ino for path in partial.glob("*.safetensors")}
        written, said = written_shards(monkeypatch), []
        convert(original, tmp_path / "ours", max_shard_size=SHARD, say=said.append)
        assert said[0].startswith("going on after 2 shards (")
        assert written[0].startswith("model-00003-of-")
        for name in sorted(before)[:2]:
            assert (tmp_path / "ours" / name).stat().st_ino == before[name]
        convert(tmp_path / "ours", tmp_path / "back", to="hf")
        assert_equal_tensors(original, tmp_path / "back")


def test_what_was_written_is_read_back(original, tmp_path, monkeypatch):
    """A disk that returns other bytes than were written to it."""
    from paddle_xc2.checkpoint import shard_writer

    write = shard_writer.write_safetensors

    def write_and_damage(path, *args):
        written = write(path, *args)
        with open(path, "r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x55")
        return written

    monkeypatch.setattr(shard_writer, "write_safetensors", write_and_damage)
    with pytest.raises(ValueError, match="model.safetensors: .* does not read back as it was written"):
        convert(original, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_a_checkpoint_of_the_model(original, tmp_path, monkeypatch):
    """A tensor that would never be written."""
    from paddle_xc2.weights import save as saving

    write = saving.write_shards

    def forget_one(directory, tensors, *args):
        tensors.pop("output.weight")
        return write(directory, tensors, *args)

    monkeypatch.setattr(saving, "write_shards", forget_one)
    with pytest.raises(ValueError, match="1 tensors that the model needs are missing: output.weight"):
        convert(original, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_full(original, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=f"^{tmp_path}: .* MB are needed there, but its disk has 1 kB free"):
        convert(original, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []


def test_source_is_verified_on_request(original, tmp_path):
    with pytest.raises(FileNotFoundError, match="its values can't be verified"):
        convert(original, tmp_path / "ours", verify=True)
    assert list(tmp_path.iterdir()) == []


def test_destination_is_not_overwritten_unasked(original, tmp_path):
    convert(original, tmp_path / "ours")
    with pytest.raises(ValueError, match="is not empty; give another directory, or --overwrite"):
        convert(original, tmp_path / "ours", dtype="bfloat16")
    said = []
    convert(original, tmp_path / "ours", dtype="bfloat16", overwrite=True, say=said.append)
    assert said == [f"{tmp_path}/ours: 5 files of an earlier checkpoint will be replaced when the new one is whole"]
    assert read_checkpoint(tmp_path / "ours")["output.weight"].dtype == "bfloat16"


def test_killed_while_it_replaces(original, tmp_path):
    """At some of the places of `torture.py --part overwrite`: the same command succeeds, others' files are there."""
    source = shutil.copytree(original, tmp_path / "source")
    earlier, place = tmp_path / "earlier", tmp_path / "place"
    convert(source, earlier, dtype="bfloat16", max_shard_size=SHARD)
    convert(source, tmp_path / "expected", max_shard_size=SHARD)
    theirs = {"notes.txt": b"mine", "README.md": b"mine", ".unfinished": b"mine"}
    expected = theirs | {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}

    def prepare():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(earlier, place / "ours")
        for name, content in theirs.items():
            (place / "ours" / name).write_bytes(content)

    def work():
        convert(source, place / "ours", max_shard_size=SHARD, overwrite=True)

    points = kill_points(place, prepare, work)
    replaces = next(number for number, (_, _, name) in enumerate(points) if "replaces.json" in name)
    assert len(points) - replaces > 40
    for number, after, name in [*points[:replaces:60], *points[replaces::25]]:
        prepare()
        assert in_child(partial(kill_at, place, number, after, work)) == -signal.SIGKILL, name
        work()
        assert {path.name: path.read_bytes() for path in (place / "ours").iterdir()} == expected, name
        assert [path.name for path in place.iterdir()] == ["ours"]


def test_others_files_are_in_the_way(tmp_path):
    """Told before anything is converted; the old checkpoint is as it was."""
    source = tiny_checkpoint(tmp_path / "source")
    (source / "README.md").write_text("the model's")
    convert(source, tmp_path / "ours", dtype="bfloat16")
    (tmp_path / "ours" / "README.md").write_text("mine")
    (tmp_path / "ours" / "tokenizer.model").write_text("mine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    with pytest.raises(
        ValueError, match="ours: README.md, tokenizer.model: not written by paddle_xc2, or changed since"
    ):
        convert(source, tmp_path / "ours", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()} == before


def test_what_is_there_already(original, tmp_path):
    """As after a kill just before the end: the same command succeeds, but not if a file has changed since."""
    convert(original, tmp_path / "ours")
    said, before = [], (tmp_path / "ours" / "model.safetensors").stat()
    report = convert(original, tmp_path / "ours", say=said.append)
    assert said == [f"{tmp_path}/ours holds it already: an earlier start wrote it; every file is verified"]
    assert report.num_kept_bytes == report.num_bytes > 0
    assert (tmp_path / "ours" / "model.safetensors").stat() == before
    (tmp_path / "ours" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not empty; give another directory, or --overwrite"):
        convert(original, tmp_path / "ours")


def test_bad_arguments(original, tmp_path):
    with pytest.raises(ValueError, match='dtype "int8" is not one of'):
        convert(original, tmp_path / "ours", dtype="int8")
    with pytest.raises(ValueError, match='shard size "much" is not understood'):
        convert(original, tmp_path / "ours", max_shard_size="much")
    assert list(tmp_path.iterdir()) == []

import json

import numpy as np
import pytest

from paddle_xc2.weights.checkpoint_files import read_checkpoint
from paddle_xc2.weights.convert import convert
from paddle_xc2.weights.manifest import verify_manifest
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
    assert there.num_verified == verify_manifest(ours) > there.num_bytes
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


def test_nothing_is_left_after_a_failure(original, tmp_path, monkeypatch):
    from paddle_xc2.weights import lazy_tensor

    calls = []

    def full_disk(view):
        calls.append(view)
        if len(calls) == 20:
            raise OSError(28, "No space left on device")
        return np.ascontiguousarray(view)

    monkeypatch.setattr(lazy_tensor, "contiguous", full_disk)
    with pytest.raises(OSError, match="No space left"):
        convert(original, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_read_back(original, tmp_path, monkeypatch):
    """A disk that returns other bytes than were written to it."""
    from paddle_xc2.weights import convert as module

    def write_and_damage(directory, *args):
        write_files(directory, *args)
        with open(directory / "model.safetensors", "r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x55")

    write_files = module.write_files
    monkeypatch.setattr(module, "write_files", write_and_damage)
    with pytest.raises(ValueError, match="not as it was written: model.safetensors has changed"):
        convert(original, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []


def test_source_is_verified_on_request(original, tmp_path):
    with pytest.raises(FileNotFoundError, match="its values can't be verified"):
        convert(original, tmp_path / "ours", verify=True)
    assert list(tmp_path.iterdir()) == []


def test_destination_is_not_overwritten_unasked(original, tmp_path):
    convert(original, tmp_path / "ours")
    with pytest.raises(ValueError, match="is not empty; give another directory, or --overwrite"):
        convert(original, tmp_path / "ours")
    convert(original, tmp_path / "ours", dtype="bfloat16", overwrite=True)
    assert read_checkpoint(tmp_path / "ours")["output.weight"].dtype == "bfloat16"


def test_bad_arguments(original, tmp_path):
    with pytest.raises(ValueError, match='dtype "int8" is not one of'):
        convert(original, tmp_path / "ours", dtype="int8")
    with pytest.raises(ValueError, match='shard size "much" is not understood'):
        convert(original, tmp_path / "ours", max_shard_size="much")
    assert list(tmp_path.iterdir()) == []


def test_only_a_block_is_in_memory(original, tmp_path, monkeypatch):
    """No array of a whole tensor is made: what is written comes in pieces of the block's size."""
    from paddle_xc2.weights import lazy_tensor

    sizes = []
    contiguous = lazy_tensor.contiguous

    def watch(view):
        sizes.append(view.nbytes)
        return contiguous(view)

    monkeypatch.setattr(lazy_tensor, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(lazy_tensor, "contiguous", watch)
    convert(original, tmp_path / "ours")
    assert max(sizes) <= 4096 and sum(sizes) > 100 * 4096

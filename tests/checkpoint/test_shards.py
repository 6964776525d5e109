"""Reading a checkpoint: of whatever files, all of one and the same."""

import json

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.checkpoint.shard_writer import write_shards
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.hub.weight_files import INDEX_FILE, find_shards
from tests.checkpoint.test_safetensors_file import ARRAYS
from tests.weights.torch_zip import write_state_dict


def held(arrays):
    return {name: LazyTensor(str(array.dtype), array.shape, array.copy) for name, array in arrays.items()}


def three_shards(directory):
    """A checkpoint of three shards, a to f; returns the directory."""
    (directory / "config.json").write_text("{}")
    arrays = {name: np.full((4, 8), number, np.float32) for number, name in enumerate("abcdef")}
    write_shards(directory, held(arrays), "pt", max_shard_size=2 * 4 * 8 * 4)
    assert [path.name for path in find_shards(directory)] == [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)]
    return directory


class TestReading:
    def test_one_file_without_an_index(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        save_file(ARRAYS, tmp_path / "model.safetensors")
        assert read_checkpoint(tmp_path).keys() == ARRAYS.keys()

    def test_pdparams_with_and_without_an_index(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        for number, name in enumerate("ab", start=1):
            file = f"model_state-0000{number}-of-00002.pdparams"
            paddle.save({name: paddle.full([1], number)}, str(tmp_path / file))
        assert {name: tensor.read()[0] for name, tensor in read_checkpoint(tmp_path).items()} == {"a": 1, "b": 2}
        index = {"weight_map": {"a": "model_state-00001-of-00002.pdparams"}}
        (tmp_path / "model_state.pdparams.index.json").write_text(json.dumps(index))
        assert read_checkpoint(tmp_path).keys() == {"a"}

    def test_bin_shards_with_and_without_an_index(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        for number, name in enumerate("ab", start=1):
            file = f"pytorch_model-0000{number}-of-00002.bin"
            write_state_dict(tmp_path / file, {name: np.float32([number])}, "FloatStorage")
        assert {name: tensor.read()[0] for name, tensor in read_checkpoint(tmp_path).items()} == {"a": 1, "b": 2}
        index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        assert read_checkpoint(tmp_path).keys() == {"a", "b"}


class TestNoCheckpoint:
    def test_no_directory(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere is no checkpoint: there is no such directory"):
            read_checkpoint(tmp_path / "nowhere")

    def test_nothing_in_it(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="it has no config.json and no weights .*; files found: none"):
            read_checkpoint(tmp_path)

    def test_other_files(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "images").mkdir()
        for number in range(10):
            (tmp_path / f"photo{number}.jpg").touch()
        with pytest.raises(FileNotFoundError) as caught:
            read_checkpoint(tmp_path)
        assert (
            "it has no weights (model*.safetensors or pytorch_model*.bin or model_state*.pdparams); "
            "files found: config.json, images/," in str(caught.value)
        )
        assert str(caught.value).endswith("photo7.jpg and 2 more")


class TestDamage:
    def test_git_lfs_pointer(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
        (tmp_path / "model.safetensors").write_bytes(pointer)
        with pytest.raises(ValueError, match="model.safetensors: is a Git LFS pointer.*git lfs pull"):
            read_checkpoint(tmp_path)

    def test_shard_cut_off(self, tmp_path):
        shard = three_shards(tmp_path) / "model-00002-of-00003.safetensors"
        shard.write_bytes(shard.read_bytes()[:-100])
        with pytest.raises(ValueError, match="model-00002-of-00003.safetensors: is cut off: it has .* announces"):
            read_checkpoint(tmp_path)

    def test_shard_missing(self, tmp_path):
        (three_shards(tmp_path) / "model-00003-of-00003.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="1 of 3 shards are missing: model-00003-of-00003.safetensors;"):
            read_checkpoint(tmp_path)

    def test_index_and_shard_differ(self, tmp_path):
        index = three_shards(tmp_path) / INDEX_FILE
        content = json.loads(index.read_text())
        content["weight_map"]["g"] = content["weight_map"].pop("c")
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError) as caught:
            read_checkpoint(tmp_path)
        shard = "model-00002-of-00003.safetensors"
        assert f"do not tell the same: {shard} lacks g; {shard} holds c against the index" in str(caught.value)

    def test_tensor_in_two_shards(self, tmp_path):
        index = three_shards(tmp_path) / INDEX_FILE
        first, second = (tmp_path / f"model-0000{number}-of-00003.safetensors" for number in (1, 2))
        second.write_bytes(first.read_bytes())
        message = "model-00002-of-00003.safetensors: holds a, which model-00001-of-00003.safetensors holds too"
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path)
        index.unlink()
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{}", "has no weight_map"),
            ('{"weight_map": {"a": "../model.safetensors"}}', "'../model.safetensors' is no name of a file beside it"),
            ('{"weight_map": {"a": 3}}', "3 is no name of a file"),
            ("{", "index.json.*line 1, column 2"),
        ],
    )
    def test_index(self, tmp_path, content, message):
        (three_shards(tmp_path) / INDEX_FILE).write_text(content)
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path)

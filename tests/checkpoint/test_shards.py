import hashlib
import json
import struct

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from paddle_xc2.checkpoint import shards as checkpoint_files
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.checkpoint.shards import (
    INDEX_FILE,
    find_shards,
    parse_size,
    plan_shards,
    read_checkpoint,
    read_safetensors,
    write_checkpoint,
)
from tests.weights.torch_zip import write_state_dict

ARRAYS = {
    "a": np.arange(10, dtype=np.float32).reshape(2, 5),
    "b": np.arange(3, dtype=np.float16),
    "c": np.arange(4, dtype=np.int64).reshape(2, 1, 2),
    "d": np.array(2.5, np.float32),
    "e": np.zeros((0, 3), np.float32),
}


def held(arrays):
    return {name: LazyTensor(str(array.dtype), array.shape, array.copy) for name, array in arrays.items()}


def three_shards(directory):
    """A checkpoint of three shards, a to f; returns the directory."""
    (directory / "config.json").write_text("{}")
    arrays = {name: np.full((4, 8), number, np.float32) for number, name in enumerate("abcdef")}
    write_checkpoint(directory, held(arrays), "pt", max_shard_size=2 * 4 * 8 * 4)
    assert [path.name for path in find_shards(directory)] == [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)]
    return directory


def raw_safetensors(path, header, data=b"", header_bytes=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if header_bytes is None else header_bytes) + raw + data)
    return path


class TestReading:
    def test_the_librarys_files(self, tmp_path):
        save_file(ARRAYS, tmp_path / "m.safetensors", metadata={"format": "pt"})
        found = read_safetensors(tmp_path / "m.safetensors")
        assert found.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert (found[name].dtype, found[name].shape) == (str(array.dtype), array.shape)
            np.testing.assert_array_equal(found[name].read(), array)

    def test_bfloat16_as_bits(self, tmp_path):
        path = raw_safetensors(
            tmp_path / "m.safetensors",
            {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}},
            struct.pack("<HH", 0x3F80, 0xC000),
        )
        tensor = read_safetensors(path)["x"]
        assert tensor.dtype == "bfloat16"
        np.testing.assert_array_equal(tensor.load("float32", "x"), np.float32([1, -2]))

    def test_bfloat16_as_paddlenlp_tags_it(self, tmp_path):
        """Written by PaddleNLP's writer: NumPy has uint16 in place of bfloat16."""
        save_file({"x": np.uint16([0x3F80, 0xC000])}, tmp_path / "m.safetensors", metadata={"format": "np"})
        assert b'"U16"' in (tmp_path / "m.safetensors").read_bytes()
        tensor = read_safetensors(tmp_path / "m.safetensors")["x"]
        assert tensor.dtype == "bfloat16"
        np.testing.assert_array_equal(tensor.load("float32", "x"), np.float32([1, -2]))

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

    def test_tensors_come_in_the_files_order(self, tmp_path):
        header = {
            "late": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
            "early": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        }
        assert list(read_safetensors(raw_safetensors(tmp_path / "m.safetensors", header, b"12"))) == ["early", "late"]


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


def _header(**entry):
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}


EIGHT = b"12345678"
DAMAGED = {
    "not safetensors": (b"<html>", None, r"is no safetensors file \(it starts with b'<html>'\)"),
    "a header without end": (b"{}" * 5, 2**60, "is no safetensors file"),
    "header cut off": (b'{"x": 1}', 500, "is cut off: it has 16 bytes, its header alone has 500"),
    "no JSON": (b'{"x": }', None, "its header is damaged"),
    "nested too deeply": (b'{"x":' + b"[" * 100_000, None, "its header is damaged"),
    "a name twice": (b'{"x": 1, "x": 2}', None, r"its header is damaged \(a tensor stands in it twice\)"),
    "dtype": (_header(dtype="F8_E4M3"), None, "x has dtype F8_E4M3; known are F64"),
    "shape": (_header(shape=[-2]), None, r"x has no valid shape \(\[-2\]\)"),
    "dtype is a list": (_header(dtype=["F32"]), None, r"x has dtype \['F32'\]; known are F64"),
    "no offsets": ({"x": {"dtype": "F32", "shape": [2]}}, None, "x has no valid data_offsets"),
    "no entry": ({"x": 3}, None, "x has no valid data_offsets"),
    "size": (_header(shape=[3]), None, "x of shape .3. and dtype float32 stands at bytes 0 to 8, expected 0 to 12"),
    "gap": (_header(data_offsets=[4, 12]), None, "stands at bytes 4 to 12, expected 0 to 8"),
    "overflow": (_header(shape=[2**40, 2**40], data_offsets=[0, 0]), None, "the header is damaged"),
}


class TestDamage:
    @pytest.mark.parametrize("kind", DAMAGED)
    def test_header(self, tmp_path, kind):
        header, header_bytes, message = DAMAGED[kind]
        path = tmp_path / "model.safetensors"
        if kind == "not safetensors":
            path.write_bytes(header)
        else:
            raw_safetensors(path, header, EIGHT if isinstance(header, dict) else b"", header_bytes)
        with pytest.raises(ValueError, match=message) as caught:
            read_safetensors(path)
        assert str(path) in str(caught.value)

    def test_too_long(self, tmp_path):
        path = raw_safetensors(tmp_path / "model.safetensors", _header(), EIGHT + b"9")
        with pytest.raises(ValueError, match=r"has \d+ bytes, but its header announces \d+; it is damaged"):
            read_safetensors(path)

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

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_damage_gives_a_value_error_or_tensors(self, tmp_path, data):
        save_file(ARRAYS, tmp_path / "whole.safetensors")
        content = bytearray((tmp_path / "whole.safetensors").read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(content[:cut])
        try:
            for found in read_safetensors(path).values():
                assert found.read().shape == found.shape
        except ValueError as error:
            assert str(path) in str(error)


class TestWriting:
    def test_the_library_reads_it(self, tmp_path):
        counted = []
        digests = write_checkpoint(tmp_path, held(ARRAYS), "pt", on_bytes=counted.append)
        found = load_file(tmp_path / "model.safetensors")
        assert found.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
        content = (tmp_path / "model.safetensors").read_bytes()
        assert digests == {"model.safetensors": hashlib.sha256(content).hexdigest()}
        assert sum(counted) == sum(array.nbytes for array in ARRAYS.values())
        assert b'"__metadata__":{"format":"pt"}' in content

    def test_tensors_are_aligned(self, tmp_path):
        """A 4-byte tensor after an odd number of 2-byte elements could not be mapped by everybody."""
        write_checkpoint(tmp_path, held({"half": np.float16([1, 2, 3]), "single": np.float32([4])}), "pt")
        content = (tmp_path / "model.safetensors").read_bytes()
        (header_bytes,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + header_bytes])
        assert header_bytes % 8 == 0
        assert header["single"]["data_offsets"] == [0, 4] and header["half"]["data_offsets"] == [4, 10]

    def test_shards_and_index(self, tmp_path):
        three_shards(tmp_path)
        index = json.loads((tmp_path / INDEX_FILE).read_text())
        assert index["metadata"] == {"total_size": 6 * 4 * 8 * 4}
        assert index["weight_map"]["a"] == "model-00001-of-00003.safetensors"
        assert index["weight_map"]["f"] == "model-00003-of-00003.safetensors"
        assert {name: tensor.read()[0, 0] for name, tensor in read_checkpoint(tmp_path).items()} == dict(
            zip("abcdef", range(6), strict=True)
        )

    def test_cast(self, tmp_path):
        arrays = {"a": np.float32([[1.5, 2], [3, 4]])}
        write_checkpoint(tmp_path, held(arrays), "pt", dtype="bfloat16")
        tensor = read_safetensors(tmp_path / "model.safetensors")["a"]
        assert tensor.dtype == "bfloat16"
        np.testing.assert_array_equal(tensor.load("float32", "a"), arrays["a"])

    def test_nothing_is_overwritten(self, tmp_path):
        write_checkpoint(tmp_path, held(ARRAYS), "pt")
        with pytest.raises(FileExistsError):
            write_checkpoint(tmp_path, held(ARRAYS), "pt")


class TestReadingBack:
    @staticmethod
    def changed_on_disk(monkeypatch, where):
        """A disk that returns another byte than was written, `where` bytes from the shard's start or end."""
        write = checkpoint_files._write_safetensors

        def write_and_damage(path, *args):
            written = write(path, *args)
            content = bytearray(path.read_bytes())
            content[where] ^= 1
            path.write_bytes(content)
            return written

        monkeypatch.setattr(checkpoint_files, "_write_safetensors", write_and_damage)

    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("dtype", [None, "float16"])
    def test_finds_nothing_wrong(self, tmp_path, transposed, dtype):
        array = np.random.randn(700, 500).astype(np.float32)
        tensor = held({"x": array})["x"]
        counted = []
        write_checkpoint(
            tmp_path,
            {"x": tensor.transposed() if transposed else tensor},
            "pt",
            dtype,
            on_bytes=counted.append,
            verify=True,
        )
        found = read_safetensors(tmp_path / "model.safetensors")["x"].read()
        np.testing.assert_array_equal(found, (array.T if transposed else array).astype(dtype or "float32"))
        assert sum(counted) == 2 * found.nbytes

    def test_finds_a_changed_value(self, tmp_path, monkeypatch):
        self.changed_on_disk(monkeypatch, -1)
        tensors = held({"x": np.float32([1, 2]), "y": np.float32([[1, 2], [3, 4]])})
        with pytest.raises(ValueError, match="model.safetensors: y does not read back as it was written; the disk"):
            write_checkpoint(tmp_path, tensors, "pt", verify=True)

    def test_finds_a_changed_header(self, tmp_path, monkeypatch):
        """A space behind the header: everything would be read the same, and the SHA-256 would be another."""
        self.changed_on_disk(monkeypatch, len(b"12345678") + 1)
        with pytest.raises(ValueError, match="its header"):
            write_checkpoint(tmp_path, held({"x": np.float32([1, 2])}), "pt", verify=True)

    def test_a_matrix_written_untransposed_would_be_found(self, tmp_path, monkeypatch):
        """A square one, which no shape gives away."""
        blocks = LazyTensor.blocks

        def forget_to_transpose(self, dtype, name, buffers, fingerprint):
            for block in blocks(self, dtype, name, buffers, fingerprint):
                yield np.ascontiguousarray(block.T)

        monkeypatch.setattr(LazyTensor, "blocks", forget_to_transpose)
        tensor = held({"x": np.random.randn(30, 30).astype(np.float32)})["x"].transposed()
        with pytest.raises(ValueError, match="x does not read back as it was written"):
            write_checkpoint(tmp_path, {"x": tensor}, "pt", verify=True)


def test_plan_shards():
    sizes = {"a": 3, "b": 3, "c": 4, "huge": 50, "d": 1}
    assert plan_shards(sizes, 10) == [["a", "b", "c"], ["huge"], ["d"]]
    assert plan_shards({}, 10) == [[]]


@pytest.mark.parametrize(
    ("size", "num_bytes"),
    [(7, 7), ("7", 7), ("5GB", 5 * 10**9), ("5gb", 5 * 10**9), ("1.5 MB", 1_500_000), ("2KiB", 2048), ("1TB", 10**12)],
)
def test_parse_size(size, num_bytes):
    assert parse_size(size) == num_bytes


@pytest.mark.parametrize("size", ["", "five", "5 XB", "0", "0.1", "-1GB", "5G"])
def test_parse_size_refuses(size):
    with pytest.raises(ValueError, match=f'shard size "{size}" is not understood; write for example 5GB'):
        parse_size(size)

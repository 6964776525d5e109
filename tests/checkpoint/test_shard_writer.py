"""Writing shards: what the library reads, as it was written."""

import hashlib
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddle_xc2.checkpoint import shard_writer
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.checkpoint.safetensors_file import read_safetensors
from paddle_xc2.checkpoint.shard_writer import parse_size, plan_shards, write_shards
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.hub.weight_files import INDEX_FILE
from tests.checkpoint.test_safetensors_file import ARRAYS
from tests.checkpoint.test_shards import held, three_shards


class TestWriting:
    def test_the_library_reads_it(self, tmp_path):
        counted = []
        digests = write_shards(tmp_path, held(ARRAYS), "pt", on_bytes=counted.append)
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
        write_shards(tmp_path, held({"half": np.float16([1, 2, 3]), "single": np.float32([4])}), "pt")
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
        write_shards(tmp_path, held(arrays), "pt", dtype="bfloat16")
        tensor = read_safetensors(tmp_path / "model.safetensors")["a"]
        assert tensor.dtype == "bfloat16"
        np.testing.assert_array_equal(tensor.load("float32", "a"), arrays["a"])

    def test_nothing_is_overwritten(self, tmp_path):
        write_shards(tmp_path, held(ARRAYS), "pt")
        with pytest.raises(FileExistsError):
            write_shards(tmp_path, held(ARRAYS), "pt")


class TestReadingBack:
    @staticmethod
    def changed_on_disk(monkeypatch, where):
        """A disk that returns another byte than was written, `where` bytes from the shard's start or end."""
        write = shard_writer.write_safetensors

        def write_and_damage(path, *args):
            written = write(path, *args)
            content = bytearray(path.read_bytes())
            content[where] ^= 1
            path.write_bytes(content)
            return written

        monkeypatch.setattr(shard_writer, "write_safetensors", write_and_damage)

    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("dtype", [None, "float16"])
    def test_finds_nothing_wrong(self, tmp_path, transposed, dtype):
        array = np.random.randn(700, 500).astype(np.float32)
        tensor = held({"x": array})["x"]
        counted = []
        write_shards(
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

    def test_what_is_read_is_what_the_disk_holds(self, tmp_path, monkeypatch):
        done = []
        for name in ("sync", "leave_cache", "verify_safetensors"):
            real = getattr(shard_writer, name)
            monkeypatch.setattr(
                shard_writer, name, lambda *args, name=name, real=real: done.append(name) or real(*args)
            )
        write_shards(tmp_path, held({"x": np.zeros(1000, np.float32)}), "pt", verify=True)
        assert done == ["sync", "leave_cache", "verify_safetensors"]

    def test_finds_a_changed_value(self, tmp_path, monkeypatch):
        self.changed_on_disk(monkeypatch, -1)
        tensors = held({"x": np.float32([1, 2]), "y": np.float32([[1, 2], [3, 4]])})
        with pytest.raises(ValueError, match="model.safetensors: y does not read back as it was written; the disk"):
            write_shards(tmp_path, tensors, "pt", verify=True)

    def test_finds_a_changed_header(self, tmp_path, monkeypatch):
        """A space behind the header: everything would be read the same, and the SHA-256 would be another."""
        self.changed_on_disk(monkeypatch, len(b"12345678") + 1)
        with pytest.raises(ValueError, match="its header"):
            write_shards(tmp_path, held({"x": np.float32([1, 2])}), "pt", verify=True)

    def test_a_matrix_written_untransposed_would_be_found(self, tmp_path, monkeypatch):
        """A square one, which no shape gives away."""
        blocks = LazyTensor.blocks

        def forget_to_transpose(self, dtype, name, buffers, fingerprint):
            for block in blocks(self, dtype, name, buffers, fingerprint):
                yield np.ascontiguousarray(block.T)

        monkeypatch.setattr(LazyTensor, "blocks", forget_to_transpose)
        tensor = held({"x": np.random.randn(30, 30).astype(np.float32)})["x"].transposed()
        with pytest.raises(ValueError, match="x does not read back as it was written"):
            write_shards(tmp_path, {"x": tensor}, "pt", verify=True)


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

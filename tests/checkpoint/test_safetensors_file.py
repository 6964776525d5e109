"""One file of safetensors: what is read of it, and what damage is seen."""

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from paddle_xc2.checkpoint import safetensors_file
from paddle_xc2.checkpoint.lazy_tensor import BlockBuffer, LazyTensor
from paddle_xc2.checkpoint.safetensors_file import (
    read_safetensors,
    verify_safetensors,
    write_safetensors,
    write_tensors,
)
from tests.checkpoint.damage import check_damaged

ARRAYS = {
    "a": np.arange(10, dtype=np.float32).reshape(2, 5),
    "b": np.arange(3, dtype=np.float16),
    "c": np.arange(4, dtype=np.int64).reshape(2, 1, 2),
    "d": np.array(2.5, np.float32),
    "e": np.zeros((0, 3), np.float32),
}


def held(array):
    return LazyTensor(str(array.dtype), array.shape, array.copy)


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

    def test_tensors_come_in_the_files_order(self, tmp_path):
        header = {
            "late": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
            "early": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        }
        assert list(read_safetensors(raw_safetensors(tmp_path / "m.safetensors", header, b"12"))) == ["early", "late"]


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

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_damage_gives_a_value_error_or_tensors(self, tmp_path, data):
        save_file(ARRAYS, tmp_path / "whole.safetensors")
        whole = (tmp_path / "whole.safetensors").read_bytes()
        check_damaged(data, whole, tmp_path / "damaged.safetensors", read_safetensors)


class TestWriting:
    def test_a_full_disk_names_the_file(self, tmp_path, monkeypatch):
        real_open = open
        monkeypatch.setattr("builtins.open", lambda path, mode: real_open("/dev/full", "wb"))
        with pytest.raises(OSError, match=r"No space left on device: '.*model.safetensors'"):
            write_tensors(tmp_path / "model.safetensors", {"x": held(np.zeros(10**6, np.float32))}, "pt")

    def test_a_file_that_exists_is_not_replaced(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(b"mine")
        with pytest.raises(FileExistsError):
            write_tensors(tmp_path / "model.safetensors", {"x": held(np.zeros(3, np.float32))}, "pt")
        assert (tmp_path / "model.safetensors").read_bytes() == b"mine"

    def test_a_file_that_becomes_shorter_while_it_is_read_back(self, tmp_path, monkeypatch):
        path, tensors = tmp_path / "model.safetensors", {"x": held(np.zeros((2000, 50), np.float32))}
        written = write_safetensors(path, tensors, {"x": "float32"}, "pt", BlockBuffer(), lambda count: None)
        read = safetensors_file.read_safetensors

        def read_and_cut(path):
            tensors = read(path)
            path.write_bytes(path.read_bytes()[:-100])
            return tensors

        monkeypatch.setattr(safetensors_file, "read_safetensors", read_and_cut)
        with pytest.raises(ValueError, match=r"became shorter while it was read; is another program writing it\?"):
            verify_safetensors(path, written, lambda count: None)

"""Bombs in pickles, and in the archives around them: each ends in a message, soon, and takes no memory."""

import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from paddle_xc2.checkpoint import bounded_pickle
from paddle_xc2.checkpoint.bounded_pickle import BoundedUnpickler, TooMuch, ordered_dict
from paddle_xc2.checkpoint.paddle_files import read_paddle_file
from paddle_xc2.checkpoint.shards import read_shard
from paddle_xc2.checkpoint.torch_files import read_torch_file
from tests.weights.torch_zip import Persistent, storage, tensor, write_torch_file


def unpickle(content: bytes):
    return BoundedUnpickler(io.BytesIO(content)).load()


def torch_file(path, pickled: bytes, members=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in members:
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


@pytest.fixture(autouse=True)
def little():
    """Time and memory of each test."""
    started = time.perf_counter()
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6 and time.perf_counter() - started < 15


@pytest.mark.parametrize("protocol", range(2, 6))
def test_what_files_of_tensors_hold(protocol):
    content = {"a": [1, 2.5, None, True], "b": ("x", 2**70), 3: {}, "long": "é" * 300}
    assert unpickle(pickle.dumps(content, protocol)) == content
    assert ordered_dict([["a", 1], ("b", 2)]) == {"a": 1, "b": 2} and ordered_dict() == {}


def test_sets_are_lists():
    assert sorted(unpickle(pickle.dumps({"a": {1, 2}, "b": frozenset("x")}, 4))["a"]) == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}X\x01\x00\x00\x00xr\xff\xff\xff\x7f.", None),  # memoized as number 2**31: nothing but an int here
        (b"\x80\x02}(" + b"X\x01\x00\x00\x00x" + b"2\x86" * 60 + b"Nu.", "has a tuple as a name"),
        (b"\x80\x02}" + b"X\x01\x00\x00\x00x" + b"2\x86" * 60 + b"Ns.", "has a tuple as a name"),
        (b"\x80\x02(" + b"X\x01\x00\x00\x00x" + b"2\x86" * 60 + b"Nd.", "has a tuple as a name"),
        (b"\x80\x04\x8f(" + b"\x8c\x01x" + b"2\x86" * 60 + b"\x90.", None),  # in a set, which is a list
        (b"\x80\x02" + b"]" * 200_000, "more instructions, or longer values, than any file of tensors"),
        (b"\x80\x02c" + b"x" * 100_000, "has a line without end"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x", "more instructions, or longer values"),
        (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x", "more instructions, or longer values"),
        (b"\x80\x02cos\nsystem\n.", "asks for os.system"),
        (b"\x80\x02N" + b"\x85" * 90_000 + b".", None),  # a tuple of depth 90,000: it is let go of again
    ],
)
def test_bombs(content, message, monkeypatch):
    monkeypatch.setattr(bounded_pickle, "MAX_READS", 100_000)
    if message is None:
        unpickle(content)
        return
    with pytest.raises(TooMuch, match=message):
        unpickle(content)


def test_attributes_of_objects_are_not_set():
    class WithState(BoundedUnpickler):
        def find_class(self, module, name):
            return ordered_dict

    content = b"\x80\x02cx\ny\n)R}X\x05\x00\x00\x00itemsK\x01sb."
    assert WithState(io.BytesIO(content)).load() == {}


def test_messages_about_bombs_are_short(tmp_path):
    shared = "x"
    for _ in range(40):
        shared = (shared, shared)
    nested = b"\x80\x02}X\x01\x00\x00\x00x(X\x01\x00\x00\x00x" + b"2\x86" * 60 + b"tQs."
    for path in (
        torch_file(tmp_path / "reference.bin", nested),
        torch_file(tmp_path / "value.bin", b"\x80\x02}X\x01\x00\x00\x00xX\x01\x00\x00\x00x" + b"2\x86" * 60 + b"s."),
        torch_file(tmp_path / "global.bin", b"\x80\x02c" + b"x" * 60_000 + b"\ny\n."),
        write_torch_file(tmp_path / "shape.bin", {"x": tensor(Persistent(("y" * 10**5,)), 0, (1,), (1,))}, {}),
    ):
        with pytest.raises(ValueError) as caught:
            read_torch_file(path)
        assert len(str(caught.value)) < 800


def test_an_entry_that_inflates_without_end(tmp_path):
    path = torch_file(tmp_path / "a.bin", b"\x80\x02}.", [("archive/byteorder", bytes(50_000_000))])
    tracemalloc.reset_peak()
    with pytest.raises(ValueError, match="was written on a big-endian machine"):
        read_torch_file(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6


def test_views_are_not_larger_than_what_is_stored(tmp_path):
    stored = storage("FloatStorage", "0", 4)
    for content, message in (
        (
            {"x": tensor(stored, 0, (10**6, 10**6), (0, 0))},
            "impossible shape .1000000, 1000000. or strides .0, 0., of",
        ),
        ({"x": tensor(stored, 0, (2**29,) * 3, (0,) * 3)}, "impossible shape"),
        ({str(i): tensor(stored, 0, (4,), (1,)) for i in range(500)}, None),
    ):
        path = write_torch_file(tmp_path / "a.bin", content, {"0": bytes(16)})
        if message is None:
            assert len(read_torch_file(path)) == 500  # their names take more than the values
            continue
        with pytest.raises(ValueError, match=message):
            read_torch_file(path)
    big = storage("FloatStorage", "0", 10**5)
    content = {str(i): tensor(big, 0, (10**5,), (1,)) for i in range(5)}
    with pytest.raises(ValueError, match="its tensors are more than 4 times as large as the file"):
        read_torch_file(write_torch_file(tmp_path / "b.bin", content, {"0": bytes(4 * 10**5)}))


def test_a_pipe_is_no_shard(tmp_path):
    for name in ("model.safetensors", "pytorch_model.bin", "model_state.pdparams"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}: is no file, but a directory, a pipe or a device"):
            read_shard(tmp_path / name)
    with pytest.raises(ValueError, match="is no file, but a directory, a pipe or a device; give the file itself"):
        read_torch_file(tmp_path / "pytorch_model.bin")


def test_bombs_of_paddles(tmp_path, monkeypatch):
    path = tmp_path / "model_state.pdparams"
    monkeypatch.setattr(bounded_pickle, "MAX_READS", 100_000)
    path.write_bytes(b"\x80\x04" + b"]" * 200_000)
    with pytest.raises(ValueError, match="more instructions, or longer values, than any file of tensors"):
        read_paddle_file(path)
    path.write_bytes(b"\x80\x04c" + bytes(10**6))
    with pytest.raises(ValueError, match="has a line without end"):
        read_paddle_file(path)
    pieces = {"a": np.ones(2, np.float32), "UnpackBigParamInfor@@": {"b": {"OriginShape": (4,), "slices": ["a", "a"]}}}
    path.write_bytes(pickle.dumps(pieces, 4))
    with pytest.raises(ValueError, match="b can't be joined from its pieces"):
        read_paddle_file(path)
    monkeypatch.setattr(bounded_pickle, "MAX_READS", 10)
    path.write_bytes(pickle.dumps({"a": np.ones(2, np.float32)}, 4))
    with pytest.raises(ValueError, match="more instructions"):
        read_paddle_file(path)

import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_xc2.checkpoint import torch_files
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.checkpoint.torch_files import STORAGE_DTYPES, read_torch_file
from tests.checkpoint.damage import check_damaged
from tests.weights.torch_zip import (
    Call,
    Global,
    Persistent,
    WithState,
    contiguous_tensor,
    ordered_dict,
    storage,
    tensor,
    write_state_dict,
    write_torch_file,
)

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("kind", STORAGE_DTYPES)
def test_every_storage_type(tmp_path, kind):
    dtype = torch_files.NUMPY_DTYPES[STORAGE_DTYPES[kind]]
    array = np.arange(6).reshape(2, 3).astype(dtype)
    path = write_state_dict(tmp_path / "a.bin", {"x": array}, kind)
    found = read_torch_file(path)["x"]
    assert (found.dtype, found.shape) == (STORAGE_DTYPES[kind], (2, 3))
    assert found.read().dtype == dtype
    np.testing.assert_array_equal(found.read(), array)


def test_views_of_one_storage(tmp_path):
    """Tensors that share storage, start within it, or walk through it in another order."""
    stored = storage("FloatStorage", "0", 12)
    content = {
        "transposed": tensor(stored, 0, (4, 3), (1, 4)),
        "row": tensor(stored, 4, (4,), (1,)),
        "expanded": tensor(stored, 5, (2, 3), (0, 0)),
        "every_second": tensor(stored, 1, (3, 2), (4, 2)),
        "scalar": tensor(stored, 11, (), ()),
        "empty": tensor(stored, 0, (0, 4), (4, 1)),
    }
    found = read_torch_file(write_torch_file(tmp_path / "a.bin", content, {"0": MATRIX.tobytes()}))
    np.testing.assert_array_equal(found["transposed"].read(), MATRIX.T)
    np.testing.assert_array_equal(found["row"].read(), MATRIX[1])
    np.testing.assert_array_equal(found["expanded"].read(), np.full((2, 3), 5))
    np.testing.assert_array_equal(found["every_second"].read(), MATRIX[:, 1::2])
    assert found["scalar"].read() == 11 and found["scalar"].shape == ()
    assert found["empty"].read().shape == (0, 4)


def test_parameters_and_the_metadata_of_a_state_dict(tmp_path):
    """What `Module.state_dict` adds: a dict that is an OrderedDict with an attribute, and parameters around tensors."""
    inner = contiguous_tensor(MATRIX, "FloatStorage", "0")
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (inner, True, ordered_dict()))
    content = WithState(ordered_dict((("x", parameter),)), {"_metadata": {"version": 1}})
    found = read_torch_file(write_torch_file(tmp_path / "a.bin", content, {"0": MATRIX.tobytes()}))
    np.testing.assert_array_equal(found["x"].read(), MATRIX)


def test_pytorchs_own_files(shared):
    """The same weights as .bin, written by PyTorch, and as .safetensors."""
    from_bin = read_checkpoint(shared / "goldens/xc2_7b/ckpt_bin")
    from_safetensors = read_checkpoint(shared / "goldens/xc2_7b/ckpt")
    assert from_bin.keys() == from_safetensors.keys()
    for name, found in from_bin.items():
        assert (found.dtype, found.shape) == (from_safetensors[name].dtype, from_safetensors[name].shape)
        np.testing.assert_array_equal(found.read(), from_safetensors[name].read())


@pytest.mark.parametrize(
    "forbidden",
    [
        Global("os", "system"),
        Global("posix", "system"),
        Global("builtins", "eval"),
        Global("torch.storage", "_load_from_bytes"),
        Global("collections", "OrderedDict.__reduce__"),
    ],
)
def test_forbidden_globals_are_named_and_not_executed(tmp_path, forbidden):
    witness = tmp_path / "executed"
    content = {"x": Call(forbidden, (f"touch {witness}",))}
    path = write_torch_file(tmp_path / "a.bin", content, {})
    with zipfile.ZipFile(path) as archive, pytest.raises(ValueError, match="refused") as caught:
        read_torch_file(path)
    assert f"asks for {forbidden.module}.{forbidden.name}" in str(caught.value) and str(path) in str(caught.value)
    assert not witness.exists()
    if forbidden == ("os", "system"):  # the file would have done it
        with zipfile.ZipFile(path) as archive:
            pickle.loads(archive.read("archive/data.pkl"))
        assert witness.exists()


def _bad(content=None, storages=None, **kwargs):
    """Writes a file that would be good but for the arguments."""
    content = content or {"x": contiguous_tensor(MATRIX, "FloatStorage", "0")}
    storages = {"0": MATRIX.tobytes()} if storages is None else storages
    return lambda path: write_torch_file(path, content, storages, **kwargs)


STORED = storage("FloatStorage", "0", 12)
BAD_FILES = {
    "legacy": (lambda path: path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), "format before 1.6"),
    "text": (lambda path: path.write_bytes(b"<html>404</html>"), r"is no file of torch.save \(it starts with b'<htm"),
    "empty": (lambda path: path.write_bytes(b""), "is no file of torch.save"),
    "no dict": (_bad(("a", 1)), "holds a tuple, expected a dict"),
    "no tensor": (_bad({"x": 3}), "holds a int under 'x', expected only tensors"),
    "no name": (_bad({7: contiguous_tensor(MATRIX, "FloatStorage", "0")}), "under 7, expected only tensors"),
    "missing storage": (_bad(storages={}), "lacks archive/data/0"),
    "short storage": (_bad(storages={"0": b"1234"}), "has 4 bytes, expected 12 x float32"),
    "compressed": (_bad(compression=zipfile.ZIP_DEFLATED), "compressed or encrypted"),
    "big-endian": (_bad(extra_members=[("archive/byteorder", b"big")]), "big-endian"),
    "two pickles": (_bad(extra_members=[("other/data.pkl", b"")]), "holds 2 data.pkl"),
    "beyond": (_bad({"x": tensor(STORED, 1, (3, 4), (4, 1))}), "reaches beyond the 12 stored elements"),
    "negative": (_bad({"x": tensor(STORED, 0, (3, -4), (4, 1))}), "impossible shape"),
    "strides": (_bad({"x": tensor(STORED, 0, (3, 4), (4,))}), "impossible shape"),
    "no storage": (_bad({"x": tensor("0", 0, (3, 4), (4, 1))}), "holds a View under 'x'"),
    "reference": (_bad({"x": Persistent(("module", "y"))}), "unknown reference"),
    "not callable": (_bad({"x": Call(Global("torch", "FloatStorage"), ())}), "cut off or damaged"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(tmp_path, kind):
    write, message = BAD_FILES[kind]
    path = tmp_path / "pytorch_model.bin"
    write(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_torch_file(path)
    assert str(path) in str(caught.value)


def test_a_huge_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "MAX_PICKLE_BYTES", 100)
    with pytest.raises(ValueError, match="its pickle is larger than 100 bytes"):
        read_torch_file(write_state_dict(tmp_path / "a.bin", {"x": MATRIX}, "FloatStorage"))


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    return write_state_dict(tmp_path_factory.mktemp("torch") / "a.bin", {"x": MATRIX, "y": MATRIX[0]}, "FloatStorage")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_a_value_error_or_tensors(whole_file, tmp_path, data):
    """Whatever byte is flipped and wherever the file ends: tensors that can be read, or one message."""
    check_damaged(data, whole_file.read_bytes(), tmp_path / "damaged.bin", read_torch_file)

import pickle
from collections import OrderedDict

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_xc2.checkpoint import paddle_files
from paddle_xc2.checkpoint.paddle_files import ARRAY_DTYPES, PIECES, Span, read_paddle_file
from tests.checkpoint.damage import check_damaged

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
PROTOCOLS = (2, 3, 4)


def save(content, path, protocol=4):
    """Written by Paddle itself."""
    paddle.save(content, str(path), protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ARRAY_DTYPES.values())
def test_every_dtype(tmp_path, dtype, protocol):
    tensor = paddle.to_tensor([[0.0, 1.5, 200.0], [3.0, 4.0, 127.0]]).astype(dtype)
    found = read_paddle_file(save({"x": tensor}, tmp_path / "a.pdparams", protocol))["x"]
    assert (found.dtype, found.shape) == (dtype, (2, 3))
    assert found.read().dtype == paddle_files.NUMPY_DTYPES[dtype]
    np.testing.assert_array_equal(found.read(), tensor.numpy())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_arrays_stay_in_the_file(tmp_path, protocol):
    """Larger than what protocol 2 takes for text, and with every byte in it."""
    values = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    path = save({"x": paddle.to_tensor(values), "y": paddle.to_tensor(MATRIX)}, tmp_path / "a.pdparams", protocol)
    found = read_paddle_file(path)
    assert isinstance(found["x"].read.args[2].data, Span)
    np.testing.assert_array_equal(found["x"].read(), values)
    np.testing.assert_array_equal(found["y"].read(), MATRIX)
    if protocol > 2:
        assert isinstance(found["x"].read().base, np.memmap) and not found["x"].read().flags.writeable


def test_a_state_dict(tmp_path):
    """With Paddle's own names of the parameters in it."""
    layer = paddle.nn.Linear(3, 4)
    found = read_paddle_file(save(layer.state_dict(), tmp_path / "a.pdparams"))
    assert list(found) == ["weight", "bias"]
    np.testing.assert_array_equal(found["weight"].read(), layer.weight.numpy())


def test_tensors_in_a_dict_that_paddle_does_not_take_for_a_state_dict(tmp_path):
    """Then each is written as (name, array)."""
    path = save(OrderedDict(x=paddle.to_tensor(MATRIX), y=MATRIX), tmp_path / "a.pdparams")
    assert b"builtins" in path.read_bytes() and b"StructuredTo" not in path.read_bytes()
    for found in read_paddle_file(path).values():
        np.testing.assert_array_equal(found.read(), MATRIX)


def test_column_order_scalars_and_empty_arrays(tmp_path):
    content = {"f": np.asfortranarray(MATRIX), "scalar": np.array(3, "f4"), "empty": np.zeros((0, 4), "f4")}
    found = read_paddle_file(save(content, tmp_path / "a.pdparams"))
    np.testing.assert_array_equal(found["f"].read(), MATRIX)
    assert found["scalar"].read() == 3 and found["scalar"].shape == ()
    assert found["empty"].read().shape == (0, 4)


def test_numpy_2(tmp_path):
    """NumPy 2 has moved its modules."""
    path = save({"x": paddle.to_tensor(MATRIX)}, tmp_path / "a.pdparams", protocol=3)
    renamed = path.read_bytes().replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    path.write_bytes(renamed)
    np.testing.assert_array_equal(read_paddle_file(path)["x"].read(), MATRIX)


def test_arrays_in_pieces(tmp_path):
    """What Paddle makes of arrays above 1 GB, written here by hand."""
    content = {
        "x@@.0": MATRIX.reshape(-1)[:7],
        "y": MATRIX,
        "x@@.1": MATRIX.reshape(-1)[7:],
        PIECES: {"x": {"OriginShape": (3, 4), "slices": ["x@@.0", "x@@.1"]}},
    }
    found = read_paddle_file(save(content, tmp_path / "a.pdparams", protocol=2))
    assert set(found) == {"x", "y"} and found["x"].shape == (3, 4)
    np.testing.assert_array_equal(found["x"].read(), MATRIX)


class Forbidden:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_forbidden_globals_are_named_and_not_executed(tmp_path, protocol):
    import os

    witness = tmp_path / "executed"
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps({"x": Forbidden(os.system, f"touch {witness}")}, protocol))
    with pytest.raises(ValueError, match=f"{path}: refused, and nothing of it was executed: .* asks for posix.system"):
        read_paddle_file(path)
    assert not witness.exists()
    pickle.loads(path.read_bytes())  # the file would have done it
    assert witness.exists()


def test_eval_is_refused(tmp_path):
    """Paddle's own way of writing a DenseTensor, and what every attack would like."""
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps({"x": Forbidden(eval, "1 + 1")}))
    with pytest.raises(ValueError, match=r"asks for builtins\.eval"):
        read_paddle_file(path)


def _pickled(content):
    return lambda path: path.write_bytes(pickle.dumps(content, 4))


def _edited(old, new):
    def write(path):
        save({"x": paddle.to_tensor(MATRIX)}, path)
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new))

    return write


def _pieces(entry):
    return _pickled({"x@@.0": MATRIX, PIECES: entry})


FORTY_EIGHT_BYTES = pickle.SHORT_BINBYTES + bytes([48])
BAD_FILES = {
    "text": (lambda path: path.write_bytes(b"<html>404</html>"), r"is no file of paddle.save \(it starts with b'<htm"),
    "empty": (lambda path: path.write_bytes(b""), "is no file of paddle.save"),
    "no dict": (_pickled(("a", 1)), "holds a tuple, expected a dict"),
    "no tensor": (_pickled({"x": 3}), "holds a int under 'x', expected only tensors"),
    "nested": (_pickled({"x": {"y": MATRIX}}), "holds a dict under 'x', expected only tensors"),
    "no name": (_pickled({7: MATRIX}), "under 7, expected only tensors"),
    "dtype": (_pickled({"x": MATRIX.astype("c8")}), "x has dtype 'c8'; known are f8, f4"),
    "big-endian": (_pickled({"x": MATRIX.astype(">f4")}), "x has dtype 'f4' of a big-endian machine"),
    "size": (_edited(b"K\x03K\x04\x86", b"K\x03K\x05\x86"), r"x of shape \(3, 5\) does not have the 60 bytes"),
    "shape": (_edited(b"K\x03K\x04\x86", b"K\x03N\x86"), "impossible shape|cut off or damaged"),
    "attributes": (lambda path: path.write_bytes(b"\x80\x04}}b."), "its pickle sets attributes of a dict"),
    "reference": (lambda path: path.write_bytes(b"\x80\x04K\x01Q."), "unknown reference 1"),
    "cut off": (_edited(FORTY_EIGHT_BYTES, pickle.BINBYTES + b"\0\0\0\x10"), "cut off or damaged"),
    "no list of pieces": (_pieces(3), "UnpackBigParamInfor@@ can't be joined from its pieces"),
    "piece missing": (_pieces({"x": {"OriginShape": (3, 4), "slices": ["x@@.1"]}}), "x can't be joined"),
    "piece short": (_pieces({"x": {"OriginShape": (3, 5), "slices": ["x@@.0"]}}), "x can't be joined"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(tmp_path, kind):
    write, message = BAD_FILES[kind]
    path = tmp_path / "model_state.pdparams"
    write(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_paddle_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [(b"\xc3\xbf", b"\xff\xff"), (b"\xc3\xbf", b"ab"), (b"\xc3\xbf", b"\xe4\xb8")])
def test_damaged_text_of_protocol_2(tmp_path, old, new):
    """Found when the array is used: until then nobody has decoded it."""
    values = np.full(100_000, 255, np.uint8)
    path = save({"x": values}, tmp_path / "a.pdparams", protocol=2)
    content = path.read_bytes()
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"{path}: x (is damaged|of shape .* has 100001 values)"):
        read_paddle_file(path)["x"].read()


@pytest.fixture(scope="module", params=PROTOCOLS)
def whole_file(tmp_path_factory, request):
    content = {"x": paddle.to_tensor(MATRIX), "y": paddle.ones([30, 10])}
    return save(content, tmp_path_factory.mktemp("paddle") / "a.pdparams", request.param)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_a_value_error_or_tensors(whole_file, tmp_path, data):
    """Whatever byte is flipped and wherever the file ends: tensors that can be read, or one message."""
    check_damaged(data, whole_file.read_bytes(), tmp_path / "damaged.pdparams", read_paddle_file)

import numpy as np
import paddle
import pytest

from paddle_xc2.weights import lazy_tensor
from paddle_xc2.weights.lazy_tensor import (
    LazyTensor,
    cast,
    check_dtype,
    contiguous,
    prevailing_dtype,
    tensor_in_memory,
)


def held(array, dtype=None):
    return LazyTensor(dtype or str(array.dtype), array.shape, lambda: array)


def bits(values):
    """float32 array -> bfloat16 bits, by Paddle."""
    return paddle.to_tensor(values).astype("bfloat16").numpy()


def test_bfloat16_is_rounded_as_paddle_does():
    # Every exponent, ties both ways, subnormals, infinities.
    patterns = np.random.randint(0, 2**32, 20000, dtype=np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16) | 0x8000
    values = np.concatenate([patterns, ties]).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 3.38e38)]
    values = np.append(values, np.float32([np.inf, -np.inf, 0.0, -0.0, 1e-45]))
    np.testing.assert_array_equal(cast(values, "float32", "bfloat16", "x"), bits(values))


def test_bfloat16_keeps_nan():
    nans = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF], np.uint32).view(np.float32)
    back = cast(cast(nans, "float32", "bfloat16", "x"), "bfloat16", "float32", "x")
    assert np.isnan(back).all()


def test_widening_is_exact():
    halves = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    wide = cast(halves, "bfloat16", "float32", "x")
    np.testing.assert_array_equal(wide.view(np.uint32) >> 16, halves)
    finite = halves[np.isfinite(halves.view(np.float16))]
    np.testing.assert_array_equal(cast(finite.view(np.float16), "float16", "float32", "x"), finite.view(np.float16))


@pytest.mark.parametrize(
    ("values", "source", "target"),
    [
        (np.float32([1.0, 7e4]), "float32", "float16"),
        (np.float32([1.0, 3.4e38]), "float32", "bfloat16"),
        (np.float64([1.0, 1e300]), "float64", "float32"),
        (bits(np.float32([1.0, 1e30])), "bfloat16", "float16"),
    ],
)
def test_overflow_is_an_error(values, source, target):
    with pytest.raises(ValueError, match=rf"^w: 1 values do not fit into {target} \(the largest is .*e\+"):
        cast(values, source, target, "w")


def test_infinities_stay():
    assert np.isinf(cast(np.float32([np.inf, -np.inf]), "float32", "float16", "x")).all()


@pytest.mark.parametrize("block_bytes", [1, 40, 100, 2**20])
@pytest.mark.parametrize("shape", [(7, 5), (33, 70), (5,), (), (3, 2, 4), (0, 3), (3, 0)])
def test_blocks_join_to_the_whole(monkeypatch, shape, block_bytes):
    monkeypatch.setattr(lazy_tensor, "BLOCK_BYTES", block_bytes)
    array = np.random.randn(*shape).astype(np.float32) if shape else np.array(3.5, np.float32)
    for tensor, expected in ((held(array), array), (held(array).transposed(), array.T)):
        blocks = list(tensor.blocks("float32", "x"))
        assert all(block.flags.c_contiguous for block in blocks)
        assert b"".join(block.tobytes() for block in blocks) == expected.tobytes()
        np.testing.assert_array_equal(tensor.load("float32", "x"), expected)
        assert tensor.load("float16", "x").dtype == np.float16


def test_contiguous_copies_only_what_it_must():
    array = np.random.randn(20, 37)
    assert np.shares_memory(contiguous(array), array)
    np.testing.assert_array_equal(contiguous(array.T), array.T)
    assert contiguous(array.T).flags.c_contiguous


def test_sizes():
    tensor = held(np.zeros((3, 4), np.uint16), "bfloat16")
    assert (tensor.num_bytes, tensor.num_bytes_as("float32")) == (24, 48)
    # NumPy's product would overflow to 0 here, and a damaged header pass for an empty tensor.
    assert LazyTensor("int8", (2**40, 2**40), None).num_bytes == 2**80


def test_paddle_tensors():
    values = paddle.randn([3, 4]).astype("bfloat16")
    tensor = tensor_in_memory(values)
    assert (tensor.dtype, tensor.shape) == ("bfloat16", (3, 4))
    np.testing.assert_array_equal(tensor.load("float32", "x"), values.astype("float32").numpy())


def test_prevailing_dtype():
    few, many = held(np.zeros(4, np.float32)), held(np.zeros(100, np.uint16), "bfloat16")
    assert prevailing_dtype([few, many, held(np.zeros(10**6, np.int64))]) == "bfloat16"


def test_check_dtype():
    check_dtype(None)
    check_dtype("bfloat16")
    with pytest.raises(ValueError, match='dtype "bf16" is not one of float32, float16, bfloat16'):
        check_dtype("bf16")

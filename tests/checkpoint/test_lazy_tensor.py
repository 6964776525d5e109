from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_xc2.checkpoint import lazy_tensor
from paddle_xc2.checkpoint.lazy_tensor import (
    BlockBuffer,
    FileRange,
    Fingerprint,
    LazyTensor,
    cast,
    check_dtype,
    lies_transposed,
    prevailing_dtype,
    release_pages,
    row_blocks,
    tensor_in_memory,
)


def held(array, dtype=None):
    return LazyTensor(dtype or str(array.dtype), array.shape, lambda: array)


def bits(values):
    """float32 array -> bfloat16 bits, by Paddle."""
    return paddle.to_tensor(values).astype("bfloat16").numpy()


def to_nearest_even(values):
    """float32 array -> bfloat16 bits, in whole numbers."""
    pattern = values.view(np.uint32)
    return ((pattern + (0x7FFF + ((pattern >> 16) & 1))) >> 16).astype(np.uint16)


def test_bfloat16_is_rounded_to_nearest_even_as_paddle_does():
    # Every exponent, every value that has to be rounded by a half, subnormals, infinities.
    patterns = np.random.randint(0, 2**32, 20000, dtype=np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16) | 0x8000
    values = np.concatenate([patterns, ties, ties - 1, ties + 1]).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 3.38e38)]
    values = np.append(values, np.float32([np.inf, -np.inf, 0.0, -0.0, 1e-45]))
    got = cast(values, "float32", "bfloat16", "x")
    np.testing.assert_array_equal(got, bits(values))
    np.testing.assert_array_equal(got, to_nearest_even(values))
    # From float64 as Paddle and PyTorch, by way of float32.
    wide = np.random.randn(20000) * 10.0 ** np.random.randint(-40, 38, 20000)
    narrow = to_nearest_even(wide.astype(np.float32))
    np.testing.assert_array_equal(cast(wide, "float64", "bfloat16", "x"), narrow)


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


@pytest.fixture(params=[1, 40, 100, 2**20])
def small_pieces(monkeypatch, request):
    """Blocks of some bytes, tiles and strips smaller than the tensors."""
    monkeypatch.setattr(lazy_tensor, "BLOCK_BYTES", request.param)
    monkeypatch.setattr(lazy_tensor, "WIDE_BLOCK_BYTES", request.param)
    monkeypatch.setattr(lazy_tensor, "STRIP_BYTES", 24)
    monkeypatch.setattr(lazy_tensor, "TILE", 4)


SHAPES = [(7, 5), (33, 70), (1, 9), (9, 1), (5,), (), (3, 2, 4), (0, 3), (3, 0)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_blocks_join_to_the_whole(small_pieces, shape, dtype):
    array = np.random.randn(*shape).astype(np.float32) if shape else np.array(3.5, np.float32)
    sliced = np.random.randn(*shape, 2).astype(np.float32)[..., 0]
    for tensor, expected in ((held(array), array), (held(array).transposed(), array.T), (held(sliced), sliced)):
        buffer, fingerprint = BlockBuffer(), Fingerprint()
        pieces = []
        for block in tensor.blocks(dtype, "x", buffer, fingerprint):
            assert block.flags.c_contiguous and block.dtype == dtype
            pieces.append(block.tobytes())
        expected = expected.astype(dtype)
        assert b"".join(pieces) == expected.tobytes()
        np.testing.assert_array_equal(tensor.load(dtype, "x"), expected)
        assert fingerprint_of(expected, fingerprint.transposed) == fingerprint
        if expected.size:
            changed = np.array(expected, order="C")
            changed.reshape(-1)[-1] += 1
            assert fingerprint_of(changed, fingerprint.transposed) != fingerprint


def test_the_buffer_is_used_again():
    buffer = BlockBuffer()
    first = buffer.array((100,), "float32")
    assert np.shares_memory(buffer.array((2, 5), "float16"), first)
    assert buffer.array((60,), "bfloat16").dtype == np.uint16


def written_file(tmp_path, arrays):
    """A file that holds arrays one after the other, after 3 bytes; and their tensors."""
    tensors, content = {}, b"abc"
    for name, array in arrays.items():
        place = FileRange(tmp_path / "file", len(content), "float32", array.shape)
        tensors[name] = LazyTensor("float32", array.shape, place)
        content += array.tobytes()
    (tmp_path / "file").write_bytes(content)
    return tensors


def test_values_computed_from_a_file_are_not_read_from_it(tmp_path):
    """What is made of a tensor has another `read`, and so no place in the file."""
    tensor = written_file(tmp_path, {"w": np.ones((5, 4), np.float32)})["w"]
    np.testing.assert_array_equal(tensor.transposed().transposed().read(), tensor.read())
    doubled = replace(tensor, read=lambda: 2 * tensor.read())
    assert tensor.place is not None and doubled.place is None
    np.testing.assert_array_equal(doubled.transposed().read(), np.full((4, 5), 2, np.float32))


def fingerprint_of(values, transposed):
    """As reading back takes it."""
    array, fingerprint = values.reshape(values.shape or (1,)), Fingerprint(transposed)
    for rows in row_blocks(array.shape, str(array.dtype)):
        fingerprint.update_block(array[rows])
    return fingerprint


def test_a_permuted_matrix_has_another_fingerprint():
    """Rows or columns exchanged, and a transposed square matrix."""
    array = np.random.randn(8, 8).astype(np.float32)
    for transposed in (False, True):
        others = (array, array[::-1], array[:, ::-1], array.T)
        prints = [fingerprint_of(np.ascontiguousarray(other), transposed) for other in others]
        assert all(prints[0] != other for other in prints[1:])
    assert fingerprint_of(array, True) != fingerprint_of(array, False)


def test_row_blocks(monkeypatch):
    monkeypatch.setattr(lazy_tensor, "BLOCK_BYTES", 200)
    monkeypatch.setattr(lazy_tensor, "WIDE_BLOCK_BYTES", 240)
    monkeypatch.setattr(lazy_tensor, "TILE", 8)
    assert list(row_blocks((20, 5), "float32")) == [slice(0, 8), slice(8, 16), slice(16, 20)]  # whole tiles
    assert list(row_blocks((7, 10), "float32")) == [slice(0, 6), slice(6, 7)]  # less than a tile
    assert list(row_blocks((3, 1000), "float32")) == [slice(0, 2), slice(2, 3)]  # never less than a quarter
    assert list(row_blocks((0, 3), "float32")) == []


def test_lies_transposed():
    array = np.zeros((3, 4))
    assert not lies_transposed(array) and lies_transposed(array.T)
    assert lies_transposed(np.asfortranarray(array)) and not lies_transposed(np.zeros(5))


def resident_mb(path):
    """How much of a mapped file counts as memory of this process."""
    total, counting = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            counting = line.endswith(str(path))
        elif counting and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total / 1024


def test_pages_of_a_file_are_given_back(tmp_path):
    path = tmp_path / "file"
    np.zeros(32 * 2**20, np.uint8).tofile(path)
    mapped = np.asarray(np.memmap(path, np.uint8, "r"))
    view = mapped.reshape(1024, -1)[100:, ::2].T
    assert view.sum() == 0 and resident_mb(path) > 20
    release_pages(view)
    assert resident_mb(path) < 1
    assert mapped.sum() == 0  # it is still there
    release_pages(np.zeros(3))  # of an array in memory there is nothing to give back


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_little_of_a_file_is_in_memory(tmp_path, monkeypatch, dtype):
    path = tmp_path / "file"
    np.zeros(32 * 2**20, np.uint8).tofile(path)
    monkeypatch.setattr(lazy_tensor, "BLOCK_BYTES", 4 * 2**20)
    tensor = LazyTensor("float32", (2048, 4096), lambda: np.asarray(np.memmap(path, "<f4", "r", shape=(2048, 4096))))
    most = 0
    for read in (tensor, tensor.transposed()):
        for _ in read.blocks(dtype, "x", BlockBuffer(), Fingerprint()):
            most = max(most, resident_mb(path))
        read.load(dtype, "x")
        most = max(most, resident_mb(path))
    assert most < 16  # a block, and a strip of 496 rows, which has 8


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

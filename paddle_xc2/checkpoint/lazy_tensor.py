"""One tensor of a checkpoint that is not in memory: its dtype, its shape, and how to read it.

Reading gives a view of the mapped file; transposing and casting happen block by block when the view is used, and the
pages of the file are given back after each block, so that neither a conversion nor loading holds more than a few
blocks, whatever the size of the tensor.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np
from xxhash import xxh3_128

# How NumPy holds each dtype in a file. NumPy has no bfloat16: its bits travel as uint16, as between Paddle and NumPy.
NUMPY_DTYPES = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)  # to compute with these bits
FLOATING = ("float64", "float32", "float16", "bfloat16")
MODEL_DTYPES = ("float32", "float16", "bfloat16")  # that a model can be loaded or written in

# Blocks stay in the processor's last cache between being made and being written; what is cast or
# transposed at once stays in its second. Rows of a tile don't lie a power of two apart: they would fall into the same
# few cache sets. Transposing 117 MB of bfloat16, one core: whole rows 0.7 GB/s, strips of 16 columns 1.3, tiles 2.5.
BLOCK_BYTES = 16 * 2**20
TILE = 496
STRIP_BYTES = 2**20
# A block of a transposed matrix takes a piece of every row of the file, and is larger where these would be short.
WIDE_BLOCK_BYTES = 128 * 2**20


class Fingerprint:
    """Tells whether two tensors hold the same values: 128 bits of xxHash.

    Against accidents, which is what reading back looks for; SHA-256, for others to check by, takes 15 times as long.

    Attributes:
        transposed: whether the values are those of a matrix column by column, which then are taken tile by tile.
    """

    def __init__(self, transposed: bool = False):
        self.transposed = transposed
        self._hash = xxh3_128()

    def update(self, values: np.ndarray) -> None:
        """values: C-contiguous."""
        self._hash.update(values)

    def update_block(self, block: np.ndarray) -> None:
        """block: some rows of the tensor, as `row_blocks` cuts it."""
        if not self.transposed:
            self.update(np.ascontiguousarray(block))
            return
        for strip in _strips(block, transposed=True):
            for place in strip:
                tile = np.ascontiguousarray(block[place])
                self.update(np.ascontiguousarray(tile.T))

    def __eq__(self, other) -> bool:
        return (self.transposed, self._hash.digest()) == (other.transposed, other._hash.digest())


@dataclass(frozen=True)
class FileRange:
    """Reads a tensor that lies in a file as it is; calling it gives a read-only view of the mapped file.

    Attributes:
        path: of the file.
        offset: of the first value, in bytes.
        dtype: a key of NUMPY_DTYPES.
        shape: in the file, in row-major order.
        transposed: whether the tensor is the transposed matrix of what the file holds.
    """

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    transposed: bool = False

    def __call__(self) -> np.ndarray:
        dtype = NUMPY_DTYPES[self.dtype]
        if 0 in self.shape:
            stored = np.empty(self.shape, dtype)
        else:
            stored = np.asarray(np.memmap(self.path, dtype, mode="r", offset=self.offset, shape=self.shape))
        return stored.T if self.transposed else stored


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose values are read on demand.

    Attributes:
        dtype: a key of NUMPY_DTYPES.
        shape: ints.
        read: returns the values as an array of `shape`, dtype NUMPY_DTYPES[dtype]; a FileRange if they lie in a file.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def place(self) -> FileRange | None:
        """Where the values lie in a file as they are, or None: derived from `read`, so that the two can't differ."""
        return self.read if isinstance(self.read, FileRange) else None

    @property
    def num_bytes(self) -> int:
        return self.num_bytes_as(self.dtype)

    def num_bytes_as(self, dtype: str) -> int:
        return math.prod(self.shape) * NUMPY_DTYPES[dtype].itemsize

    def transposed(self) -> LazyTensor:
        place = self.place
        read = replace(place, transposed=not place.transposed) if place else lambda: self.read().T
        return replace(self, shape=self.shape[::-1], read=read)

    def as_dtype(self, dtype: str, name: str) -> LazyTensor:
        """The same values in another dtype, cast when they are read. name: of the tensor, for messages."""
        return self if dtype == self.dtype else LazyTensor(dtype, self.shape, lambda: self.load(dtype, name))

    def blocks(self, dtype: str, name: str, buffer: BlockBuffer, fingerprint: Fingerprint) -> Iterator[np.ndarray]:
        """The values in row-major order, as C-contiguous arrays along the first axis, cast to `dtype`.

        A block is valid until the next is asked for.

        Args:
            dtype: a key of NUMPY_DTYPES.
            name: of the tensor, for messages.
            buffer: memory for blocks that are not a piece of the file as they are.
            fingerprint: is made that of the values as they are yielded, in the order of the memory they come from.
        Raises: ValueError if a finite value does not fit into `dtype`.
        """
        array = self._array()
        fingerprint.transposed = lies_transposed(array)
        for rows in row_blocks(array.shape, dtype):
            view = array[rows]
            if dtype == self.dtype and view.flags.c_contiguous:
                block = view
                fingerprint.update(block)
            else:
                block = buffer.array(view.shape, dtype)
                self._fill(block, view, fingerprint.transposed, dtype, name, fingerprint)
            yield block
            release_pages(array)

    def load_into(self, target: np.ndarray, dtype: str, name: str) -> None:
        """Fills `target`, C-contiguous and of the tensor's shape, with the values as `dtype`. Raises: as `blocks`."""
        array = self._array()
        target = target.reshape(array.shape)
        for rows in row_blocks(array.shape, dtype):
            self._fill(target[rows], array[rows], lies_transposed(array), dtype, name)

    def load(self, dtype: str, name: str) -> np.ndarray:
        """The whole tensor in memory, cast to `dtype`. Raises: as `blocks`."""
        whole = np.empty(self.shape, NUMPY_DTYPES[dtype])
        self.load_into(whole, dtype, name)
        return whole

    def _array(self) -> np.ndarray:
        return self.read().reshape(self.shape or (1,))

    def _fill(self, target, view, transposed: bool, dtype: str, name: str, fingerprint: Fingerprint | None = None):
        """Casts `view`, some rows of the tensor, into `target` of the same shape, in the order of the view's memory."""
        for strip in _strips(view, transposed):
            for place in strip:
                piece, copy = (view[place].T, target[place].T) if transposed else (view[place], target[place])
                values = cast(np.ascontiguousarray(piece), self.dtype, dtype, name)
                if fingerprint is not None:
                    fingerprint.update(values)
                copy[...] = values
            release_pages(view)


class BlockBuffer:
    """Memory for one block, kept over all tensors of a checkpoint: new memory has to be cleared by the system."""

    def __init__(self):
        self._bytes = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """An array whose values are arbitrary, valid until the next call."""
        num_bytes = math.prod(shape) * NUMPY_DTYPES[dtype].itemsize
        if self._bytes.size < num_bytes:
            self._bytes = np.empty(num_bytes, np.uint8)
        return self._bytes[:num_bytes].view(NUMPY_DTYPES[dtype]).reshape(shape)


def row_blocks(shape: tuple[int, ...], dtype: str) -> Iterator[slice]:
    """Cuts a tensor along its first axis into blocks of about BLOCK_BYTES as `dtype`.

    Of whole tiles, and never narrower than one if that keeps a block below WIDE_BLOCK_BYTES: a block of a transposed
    matrix takes a piece of every row of the file, and short pieces are slow.
    """
    row_bytes = max(1, math.prod(shape[1:]) * NUMPY_DTYPES[dtype].itemsize)
    num_rows = max(TILE // 4, min(TILE, WIDE_BLOCK_BYTES // row_bytes), BLOCK_BYTES // row_bytes)
    if num_rows > TILE:
        num_rows -= num_rows % TILE
    for start in range(0, shape[0], num_rows):
        yield slice(start, min(start + num_rows, shape[0]))


def _strips(array: np.ndarray, transposed: bool) -> Iterator[list[tuple[slice, ...]]]:
    """Cuts an array into pieces that fit into the cache, and yields where they are, strip by strip in memory's order.

    Args:
        transposed: cuts a matrix into tiles; a strip is a column of them. Else a strip is one piece of some rows.
    """
    if transposed:
        for column in range(0, array.shape[1], TILE):
            rows = range(0, array.shape[0], TILE)
            yield [(slice(row, row + TILE), slice(column, column + TILE)) for row in rows]
    else:
        num_rows = max(1, STRIP_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), num_rows):
            yield [(slice(start, start + num_rows),)]


def lies_transposed(array: np.ndarray) -> bool:
    """Whether the values of a matrix lie column by column in memory."""
    return array.ndim == 2 and array.strides[0] < array.strides[1]


def release_pages(array: np.ndarray) -> None:
    """Takes what was read of a mapped file out of this process; it stays in the system's cache of the file.

    Else every page that was ever looked at would count as memory of the process.
    """
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array.madvise(mmap.MADV_DONTNEED)


def tensor_in_memory(tensor) -> LazyTensor:
    """Of a Paddle tensor or parameter; on a GPU, reading copies it to the host."""
    return LazyTensor(str(tensor.dtype).removeprefix("paddle."), tuple(tensor.shape), tensor.numpy)


def prevailing_dtype(tensors: Iterable[LazyTensor]) -> str:
    """The one of MODEL_DTYPES that most of the bytes are in."""
    num_bytes = dict.fromkeys(MODEL_DTYPES, 0)
    for tensor in tensors:
        if tensor.dtype in num_bytes:
            num_bytes[tensor.dtype] += tensor.num_bytes
    return max(num_bytes, key=num_bytes.get)


def check_dtype(dtype: str | None) -> None:
    """Raises: ValueError for a dtype that no model is loaded or written in; None is one's own choice."""
    if dtype is not None and dtype not in MODEL_DTYPES:
        raise ValueError(f'dtype "{dtype}" is not one of {", ".join(MODEL_DTYPES)}')


def cast(array: np.ndarray, source: str, target: str, name: str) -> np.ndarray:
    """Converts between the floating dtypes, rounding to nearest even as Paddle and PyTorch do.

    Args:
        array: dtype NUMPY_DTYPES[source].
        source, target: keys of NUMPY_DTYPES.
        name: of the tensor, for messages.
    Raises: ValueError if a finite value would become infinite: a checkpoint full of infinities trains quietly.
    """
    if source == target:
        return array
    values = array.view(_BFLOAT16) if source == "bfloat16" else array
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are looked for below, and NaN stays what it is
        result = values.astype(_BFLOAT16 if target == "bfloat16" else NUMPY_DTYPES[target], copy=False)
    if result.itemsize > array.itemsize:
        return result
    infinite = np.isinf(result)
    if infinite.any() and (overflown := infinite & np.isfinite(values)).any():
        raise ValueError(
            f"{name}: {int(overflown.sum())} values do not fit into {target} (the largest is "
            f"{float(np.abs(values[overflown]).max()):.4g}); choose another dtype"
        )
    return result.view(NUMPY_DTYPES[target])

"""One tensor of a checkpoint that is not in memory: its dtype, its shape, and how to read it.

Reading gives a view of the mapped file; transposing and casting happen block by block when the view is used, so that
a conversion never holds more than one block, whatever the size of the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

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
FLOATING = ("float64", "float32", "float16", "bfloat16")
MODEL_DTYPES = ("float32", "float16", "bfloat16")  # that a model can be loaded or written in

BLOCK_BYTES = 64 * 2**20
# Columns of a transposed view that are copied together. NumPy's own order touches one cache line per element;
# 16 columns at a time made a bfloat16 transpose of 200 MB 6 times as fast (0.18 -> 1.1 GB/s).
STRIP = 16


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose values are read on demand.

    Attributes:
        dtype: a key of NUMPY_DTYPES.
        shape: ints.
        read: returns the values as an array of `shape`, dtype NUMPY_DTYPES[dtype]; often a read-only view of a file.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        return self.num_bytes_as(self.dtype)

    def num_bytes_as(self, dtype: str) -> int:
        return math.prod(self.shape) * NUMPY_DTYPES[dtype].itemsize

    def transposed(self) -> LazyTensor:
        return replace(self, shape=self.shape[::-1], read=lambda: self.read().T)

    def blocks(self, dtype: str, name: str) -> Iterator[np.ndarray]:
        """The values in row-major order, as C-contiguous arrays along the first axis, cast to `dtype`.

        Args:
            dtype: a key of NUMPY_DTYPES.
            name: of the tensor, for messages.
        Raises: ValueError if a finite value does not fit into `dtype`.
        """
        array = self.read().reshape(self.shape or (1,))
        row_bytes = max(1, array[:1].nbytes)
        num_rows = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, len(array), num_rows):
            yield cast(contiguous(array[start : start + num_rows]), self.dtype, dtype, name)

    def load(self, dtype: str, name: str) -> np.ndarray:
        """The whole tensor in memory, cast to `dtype`. Raises: as `blocks`."""
        whole = np.empty(self.shape or (1,), NUMPY_DTYPES[dtype])
        start = 0
        for block in self.blocks(dtype, name):
            whole[start : start + len(block)] = block
            start += len(block)
        return whole.reshape(self.shape)


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


def contiguous(view: np.ndarray) -> np.ndarray:
    """`view` itself if it lies in row-major order, else a copy that does."""
    if view.flags.c_contiguous or view.ndim != 2:
        return np.ascontiguousarray(view)
    copy = np.empty(view.shape, view.dtype)
    for start in range(0, view.shape[1], STRIP):
        copy[:, start : start + STRIP] = view[:, start : start + STRIP]
    return copy


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
    values = _from_bfloat16(array) if source == "bfloat16" else array
    if target == "bfloat16":
        result = _to_bfloat16(values.astype(np.float32, copy=False))
        infinite = (result & 0x7FFF) == 0x7F80
    else:
        with np.errstate(over="ignore"):
            result = values.astype(NUMPY_DTYPES[target], copy=False)
        if result.itemsize > array.itemsize:
            return result
        infinite = np.isinf(result)
    overflown = infinite & np.isfinite(values)
    if overflown.any():
        raise ValueError(
            f"{name}: {int(overflown.sum())} values do not fit into {target} (the largest is "
            f"{np.abs(values[overflown]).max():.4g}); choose another dtype"
        )
    return result


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    # Rounding would carry some NaNs over into infinity or zero.
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)

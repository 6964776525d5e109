"""Reads what `paddle.save` wrote, without executing what the file's pickle asks for and without holding its arrays.

The file is one pickle of a dict of arrays, with the bytes of each array in between. Here those bytes are skipped, and
mapped when the array is used. The pickle may name the few globals that arrays consist of; any other is refused unseen.

Paddle holds bfloat16 as NumPy's uint16. In pickle protocol 2, which old versions wrote, bytes are text in which every
byte is a character: such an array has to be decoded to be read. With protocols 2 and 3, Paddle cuts arrays of more than
1 GB in pieces.
"""

from __future__ import annotations

import mmap
import pickle
import struct
from functools import partial
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddle_xc2.checkpoint.bounded_pickle import BoundedUnpickler, ordered_dict
from paddle_xc2.checkpoint.lazy_tensor import NUMPY_DTYPES, LazyTensor
from paddle_xc2.checkpoint.torch_files import BadTorchFile, check_total, refusal
from paddle_xc2.messages import short_repr, shown

# NumPy's codes in a pickled dtype; byte order stands beside them.
ARRAY_DTYPES = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "u2": "bfloat16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u1": "uint8",
    "b1": "bool",
}
# Entries of the dict that are no tensors.
PARAMETER_NAMES = "StructuredToParameterName@@"  # Paddle's own names of the parameters
PIECES = "UnpackBigParamInfor@@"  # {name: {"OriginShape", "slices": names of the pieces}}; the spelling is Paddle's
MAX_TEXT_BYTES = 64 * 1024  # longer text is an array of protocol 2, and stays in the file


class BadPaddleFile(BadTorchFile):
    """The file is damaged, or no file of tensors."""


class Span(NamedTuple):
    """Bytes that stay in the file.

    Attributes:
        offset, num_bytes: where.
        is_text: protocol 2: UTF-8 of characters that stand for one byte each.
    """

    offset: int
    num_bytes: int
    is_text: bool


class DType:
    """Stands in for numpy.dtype."""

    __slots__ = ("code", "order")

    def __init__(self, code, *_ignored):
        self.code = code
        self.order = "|"

    def __setstate__(self, state):
        self.order = state[1]


class Array:
    """Stands in for numpy.ndarray; unchecked."""

    __slots__ = ("shape", "dtype", "fortran", "data")

    def __init__(self, *_ignored):
        self.shape = self.dtype = self.fortran = self.data = None

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.fortran, self.data = state


def read_paddle_file(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a state dict, in the file's order; none is in memory yet.

    Raises: ValueError naming the file, if it is cut off, asks for a forbidden global, or holds anything but a dict of
        tensors.
    """
    with open(path, "rb") as file:
        start = file.read(4)
        if start[:1] != b"\x80":
            raise BadPaddleFile(f"{path}: is no file of paddle.save (it starts with {start!r}); copy it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            try:
                state = StateDictUnpickler(mapped, path).load()
            except BadPaddleFile:
                raise
            except Exception as error:  # damaged bytes make pickle raise nearly anything
                fault = f"is cut off or damaged ({shown(error)})"
                raise BadPaddleFile(f"{path}: {fault}; copy or download it again") from error
    if not isinstance(state, dict):
        raise BadPaddleFile(f"{path}: holds a {type(state).__name__}, expected a dict of tensors")
    tensors = {
        name: _lazy_tensor(path, name, value) for name, value in state.items() if name not in (PARAMETER_NAMES, PIECES)
    }
    check_total(path, tensors)
    return _joined(path, tensors, state[PIECES]) if PIECES in state else tensors


class StateDictUnpickler(BoundedUnpickler):
    """Unpickles a state dict to Arrays; knows a fixed list of globals and has its own, harmless, meaning for each.

    The unpickler in Python, not the faster one in C: its instructions can be replaced, here those that would read the
    bytes of an array.

    Args:
        mapped: the file.
        path: of it, for messages.
    """

    dispatch = dict(BoundedUnpickler.dispatch)

    def __init__(self, mapped: mmap.mmap, path: Path):
        super().__init__(mapped)
        self.mapped = mapped
        self.path = path
        self.allowed = {
            ("numpy", "ndarray"): Array,
            ("numpy", "dtype"): DType,
            ("numpy.core.multiarray", "_reconstruct"): Array,
            ("numpy._core.multiarray", "_reconstruct"): Array,  # since NumPy 2
            ("_codecs", "encode"): self.encode,
            ("builtins", "tuple"): tuple,
            ("__builtin__", "tuple"): tuple,
            ("collections", "OrderedDict"): ordered_dict,
        }

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise BadPaddleFile(refusal(self.path, module, name))
        return self.allowed[module, name]

    def persistent_load(self, persistent_id):
        raise BadPaddleFile(f"{self.path}: unknown reference {short_repr(persistent_id)} in its pickle")

    def encode(self, text: str | Span, encoding: str) -> bytes | Span:
        """Stands in for codecs.encode, which makes bytes of the text of protocol 2."""
        return text if isinstance(text, Span) else text.encode("latin1")

    def load_frame(self):
        """Frames are read-ahead hints around small things; without them every position is one in the file."""
        self.read(8)

    def build(self, made: object, state: object) -> None:
        if not isinstance(made, (Array, DType)):
            raise BadPaddleFile(f"{self.path}: its pickle sets attributes of a {type(made).__name__}")
        made.__setstate__(state)

    def skip(self, size: struct.Struct, is_text: bool = False) -> None:
        (num_bytes,) = size.unpack(self.read(size.size))
        if is_text and num_bytes <= MAX_TEXT_BYTES:
            self.append(str(self.read(num_bytes), "utf-8", "surrogatepass"))
            return
        span = Span(self.mapped.tell(), num_bytes, is_text)
        self.mapped.seek(num_bytes, 1)  # raises beyond the end
        self.append(span)

    dispatch[pickle.FRAME[0]] = load_frame
    dispatch[pickle.BINBYTES[0]] = lambda self: self.skip(struct.Struct("<I"))
    dispatch[pickle.BINBYTES8[0]] = lambda self: self.skip(struct.Struct("<Q"))
    dispatch[pickle.BINUNICODE[0]] = lambda self: self.skip(struct.Struct("<I"), is_text=True)
    dispatch[pickle.BINUNICODE8[0]] = lambda self: self.skip(struct.Struct("<Q"), is_text=True)


def _lazy_tensor(path: Path, name, value) -> LazyTensor:
    """Checks what the pickle said of one tensor. Raises: BadPaddleFile."""
    match value:
        case (str(), Array() as array) if isinstance(name, str):  # Paddle's name of the parameter, and its value
            pass
        case Array() as array if isinstance(name, str):
            pass
        case _:
            fault = f"holds a {type(value).__name__} under {short_repr(name)}"
            raise BadPaddleFile(f"{path}: {fault}, expected only tensors by name")
    shape, code = array.shape, getattr(array.dtype, "code", None)
    if not isinstance(code, str) or code not in ARRAY_DTYPES or array.dtype.order == ">":
        order = " of a big-endian machine" if getattr(array.dtype, "order", None) == ">" else ""
        raise BadPaddleFile(
            f"{path}: {shown(name)} has dtype {short_repr(code)}{order}; known are {', '.join(ARRAY_DTYPES)}"
        )
    if not _is_shape(shape):
        raise BadPaddleFile(f"{path}: {shown(name)} has the impossible shape {short_repr(shape)}")
    dtype = ARRAY_DTYPES[code]
    expected = prod(shape) * NUMPY_DTYPES[dtype].itemsize
    match array.data:
        case Span(num_bytes=found, is_text=False) if found == expected:
            pass
        case Span(num_bytes=found, is_text=True) if expected <= found <= 2 * expected:  # 1 or 2 for each byte
            pass
        case bytes() as data if len(data) == expected:
            pass
        case _:
            raise BadPaddleFile(
                f"{path}: {shown(name)} of shape {shape} does not have the {expected} bytes that it needs"
            )
    return LazyTensor(dtype, shape, partial(_read, path, name, array, dtype))


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= 16
        and all(type(length) is int and 0 <= length < 2**60 for length in shape)
    )


def _read(path: Path, name: str, array: Array, dtype: str) -> np.ndarray:
    """The values; where they lie in the file as they are, a read-only view of the mapped file."""
    data, order = array.data, "F" if array.fortran else "C"
    if 0 in array.shape:
        return np.empty(array.shape, NUMPY_DTYPES[dtype])
    if isinstance(data, Span) and not data.is_text:
        return np.asarray(np.memmap(path, NUMPY_DTYPES[dtype], "r", data.offset, array.shape, order))
    if isinstance(data, Span):
        with open(path, "rb") as file:
            file.seek(data.offset)
            try:
                data = file.read(data.num_bytes).decode("utf-8").encode("latin1")
            except UnicodeError as error:
                raise BadPaddleFile(f"{path}: {name} is damaged ({error}); copy or download the file again") from error
    values = np.frombuffer(data, NUMPY_DTYPES[dtype])
    if values.size != prod(array.shape):
        raise BadPaddleFile(f"{path}: {name} of shape {array.shape} has {values.size} values; copy the file again")
    return values.reshape(array.shape, order=order)


def _joined(path: Path, tensors: dict[str, LazyTensor], pieces) -> dict[str, LazyTensor]:
    """`tensors` with each that was cut in one piece, at the end. Raises: BadPaddleFile."""
    tensors = dict(tensors)
    for name, entry in pieces.items() if isinstance(pieces, dict) else [(PIECES, pieces)]:
        match entry:
            case {"OriginShape": shape, "slices": list(names)} if _is_shape(shape) and _are_all_there(names, tensors):
                parts = [tensors.pop(piece) for piece in names]
            case _:
                parts, shape = [], ()
        if len({part.dtype for part in parts}) != 1 or sum(prod(part.shape) for part in parts) != prod(shape):
            raise BadPaddleFile(
                f"{path}: {shown(name)} can't be joined from its pieces; copy or download the file again"
            )
        tensors[name] = LazyTensor(parts[0].dtype, shape, partial(_concatenate, parts, shape))
    return tensors


def _are_all_there(names: list, tensors: dict) -> bool:
    """Whether each of the names is that of a tensor, and none stands twice."""
    return (
        all(isinstance(name, str) for name in names) and len(set(names)) == len(names) and set(names) <= tensors.keys()
    )


def _concatenate(parts: list[LazyTensor], shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([part.read().reshape(-1) for part in parts]).reshape(shape)

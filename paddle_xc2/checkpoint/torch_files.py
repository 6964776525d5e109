"""Reads what `torch.save` wrote, without PyTorch and without executing what the file's pickle asks for.

The file is a zip archive: `<prefix>/data.pkl` describes the tensors, `<prefix>/data/<key>` holds the bytes of each
storage, uncompressed. The pickle may name the few globals that a state dict consists of; any other is refused unseen.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddle_xc2.checkpoint.bounded_pickle import BoundedUnpickler, ordered_dict
from paddle_xc2.checkpoint.lazy_tensor import NUMPY_DTYPES, LazyTensor
from paddle_xc2.messages import short_repr, shown

STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
MAX_PICKLE_BYTES = 64 * 2**20  # a 7B checkpoint's is 0.1 MB
MAX_SHARED = 4  # times a file's size that its tensors may have together: tied weights are views of the same bytes
_LARGEST = 2**60
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: lengths of its name and of its extra field


class BadTorchFile(ValueError):
    """The file is damaged, or no file of tensors."""


class Storage(NamedTuple):
    """The bytes that one or several tensors are views of."""

    dtype: str
    offset: int  # in the file
    num_elements: int


class View(NamedTuple):
    """A tensor as the pickle describes it, unchecked; `first` and `strides` count elements."""

    storage: Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a state dict, in the file's order; none is in memory yet.

    Raises: ValueError naming the file, if it is cut off, of PyTorch's format before 1.6, asks for a forbidden global,
        or holds anything but a dict of tensors.
    """
    return tensors_of(path, read_archive(path))


def read_archive(path: Path, unpickler: type[StateDictUnpickler] | None = None) -> object:
    """What the pickle of a file describes, tensors as Views.

    Args:
        unpickler: StateDictUnpickler, or a class of it that knows more globals.
    Raises: as `read_torch_file`.
    """
    if not path.is_file():
        raise BadTorchFile(f"{path}: is no file, but a directory, a pipe or a device; give the file itself")
    with open(path, "rb") as file:
        start = file.read(4)
        if start != b"PK\x03\x04":
            raise BadTorchFile(_no_archive(path, start))
        try:
            return _unpickle(path, file, unpickler or StateDictUnpickler)
        except BadTorchFile:
            raise
        except Exception as error:  # damaged bytes make zipfile and pickle raise nearly anything
            raise BadTorchFile(f"{path}: is cut off or damaged ({shown(error)}); copy or download it again") from error


def tensors_of(path: Path, state) -> dict[str, LazyTensor]:
    """The tensors of a state dict whose values are Views. Raises: BadTorchFile if it is anything else."""
    if not isinstance(state, dict):
        raise BadTorchFile(f"{path}: holds a {type(state).__name__}, expected a dict of tensors")
    tensors = {name: _lazy_tensor(path, name, value) for name, value in state.items()}
    check_total(path, tensors)
    return tensors


def check_total(path: Path, tensors: dict[str, LazyTensor]) -> None:
    """Raises: BadTorchFile for views that are many times as large as the file: a bomb, or damage."""
    if sum(tensor.num_bytes for tensor in tensors.values()) > MAX_SHARED * path.stat().st_size:
        raise BadTorchFile(f"{path}: its tensors are more than {MAX_SHARED} times as large as the file; copy it again")


def refusal(path: Path, module: str, name: str) -> str:
    """What to say of a pickle that asks for a global which it must not have."""
    return (
        f"{path}: refused, and nothing of it was executed: its pickle asks for {shown(module)}.{shown(name)}, which no "
        "checkpoint of tensors needs; don't use the file unless you trust its origin"
    )


def _no_archive(path: Path, start: bytes) -> str:
    if start[:1] == b"\x80":
        return (
            f"{path}: is in PyTorch's format before 1.6, which can't be read without PyTorch; convert it once with "
            "PyTorch: torch.save(torch.load(FILE, weights_only=True), FILE)"
        )
    return f"{path}: is no file of torch.save (it starts with {start!r}); copy or download it again"


def _unpickle(path: Path, file, unpickler: type[StateDictUnpickler]) -> object:
    archive = zipfile.ZipFile(file)
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise BadTorchFile(f"{path}: holds {len(pickles)} data.pkl, expected 1; it was not written by torch.save")
    if archive.getinfo(pickles[0]).file_size > MAX_PICKLE_BYTES:
        raise BadTorchFile(f"{path}: its pickle is larger than {MAX_PICKLE_BYTES} bytes; it is no file of tensors")
    prefix = pickles[0].removesuffix("data.pkl")
    if _byte_order(archive, f"{prefix}byteorder") != b"little":
        raise BadTorchFile(f"{path}: was written on a big-endian machine; write it again on a little-endian one")
    with archive.open(pickles[0]) as pickled:
        content = io.BytesIO(pickled.read(MAX_PICKLE_BYTES))
    return unpickler(content, path, archive, prefix).load()


def _byte_order(archive: zipfile.ZipFile, member: str) -> bytes:
    """What a member of one word says; a few bytes of it, however many it would inflate to."""
    if member not in archive.NameToInfo:
        return b"little"
    with archive.open(member) as file:
        return file.read(len(b"little") + 1)


class StateDictUnpickler(BoundedUnpickler):
    """Unpickles a state dict to Views; knows a fixed list of globals and has its own, harmless, meaning for each.

    Args:
        pickled: data.pkl in memory.
        path, archive, prefix: the file, the same as a zip archive, and the folder in it.
    """

    def __init__(self, pickled, path: Path, archive: zipfile.ZipFile, prefix: str):
        super().__init__(pickled)
        self.path = path
        self.archive = archive
        self.prefix = prefix
        # Nothing here has attributes that a pickle could set, nor has what these return.
        self.allowed = {
            ("collections", "OrderedDict"): ordered_dict,
            ("torch._utils", "_rebuild_tensor_v2"): self.rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): self.rebuild_parameter,
            **{("torch", storage): dtype for storage, dtype in STORAGE_DTYPES.items()},
        }

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise BadTorchFile(refusal(self.path, module, name))
        return self.allowed[module, name]

    def persistent_load(self, persistent_id) -> Storage:
        """Of ("storage", dtype, key, device, number of elements)."""
        match persistent_id:
            case ("storage", str(dtype), str(key), _, int(num_elements)) if dtype in NUMPY_DTYPES:
                return self.find_storage(dtype, key, num_elements)
        raise BadTorchFile(f"{self.path}: unknown reference {short_repr(persistent_id)} in its pickle")

    def find_storage(self, dtype: str, key: str, num_elements: int) -> Storage:
        member = f"{self.prefix}data/{key}"
        if member not in self.archive.NameToInfo:
            raise BadTorchFile(f"{self.path}: the archive lacks {shown(member)}; copy or download it again")
        info = self.archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise BadTorchFile(f"{self.path}: {shown(member)} is compressed or encrypted, which torch.save does not do")
        with open(self.path, "rb") as file:
            file.seek(info.header_offset)
            header = file.read(_LOCAL_HEADER.size)
        offset = info.header_offset + len(header) + sum(_LOCAL_HEADER.unpack(header))
        num_bytes = num_elements * NUMPY_DTYPES[dtype].itemsize
        if num_bytes != info.file_size or offset + num_bytes > self.path.stat().st_size:
            raise BadTorchFile(
                f"{self.path}: {shown(member)} has {info.file_size} bytes, expected {num_elements} x {dtype}; "
                "copy or download it again"
            )
        return Storage(dtype, offset, num_elements)

    def rebuild_tensor(self, storage, first, shape, strides, *_ignored) -> View:
        """Stands in for torch._utils._rebuild_tensor_v2; the rest of the arguments is about gradients."""
        return View(storage, first, shape, strides)

    def rebuild_parameter(self, tensor, *_ignored):
        """Stands in for torch._utils._rebuild_parameter: a parameter is its tensor."""
        return tensor


def _lazy_tensor(path: Path, name, value) -> LazyTensor:
    """Checks what the pickle said of one tensor. Raises: BadTorchFile."""
    match value:
        case View(Storage() as storage, int(first), tuple(shape), tuple(strides)) if isinstance(name, str):
            pass
        case _:
            fault = f"holds a {type(value).__name__} under {short_repr(name)}"
            raise BadTorchFile(f"{path}: {fault}, expected only tensors by name")
    numbers = (first, *shape, *strides)
    sound = all(type(number) is int and 0 <= number < _LARGEST for number in numbers)
    if not sound or len(shape) != len(strides) or len(shape) > 16 or math.prod(shape) > storage.num_elements:
        fault = f"the impossible shape {short_repr(shape)} or strides {short_repr(strides)}"
        raise BadTorchFile(f"{path}: {shown(name)} has {fault}, of {storage.num_elements} stored elements")
    last = first + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.num_elements:
        raise BadTorchFile(
            f"{path}: {shown(name)} of shape {shape} reaches beyond the {storage.num_elements} stored elements"
        )
    return LazyTensor(storage.dtype, shape, partial(_map, path, value))


def _map(path: Path, view: View) -> np.ndarray:
    """A read-only view of the tensor in the mapped file."""
    dtype = NUMPY_DTYPES[view.storage.dtype]
    if 0 in view.shape:
        return np.empty(view.shape, dtype)
    offset = view.storage.offset + view.first * dtype.itemsize
    mapped = np.memmap(path, dtype, mode="r", offset=offset, shape=(view.storage.num_elements - view.first,))
    strides = [stride * dtype.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(np.asarray(mapped), view.shape, strides, writeable=False)

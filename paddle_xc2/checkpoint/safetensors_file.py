"""One file of safetensors: read one tensor at a time, written block by block, compared with its source.

The format: 8 bytes, the length of a JSON header; the header; the tensors' bytes without gaps.

The safetensors library writes a shard that lies in memory as a whole: 2 GB of bfloat16 in 2.3 s and 1.9 GB of memory,
where this takes 5.3 s and 18 MB, SHA-256 and fingerprints of every tensor included. Its reader knows bfloat16 only
together with a framework, whose import takes seconds.

Files are read and written through the system's cache, in one thread: a conversion of 4.9 GB took 16.2 s on two cores,
with a disk of 1 GB/s. Past the cache (O_DIRECT), with threads that read ahead and hash, it took 15.3 s, and 200 lines
more.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from paddle_xc2.checkpoint.lazy_tensor import (
    NUMPY_DTYPES,
    BlockBuffer,
    FileRange,
    Fingerprint,
    LazyTensor,
    row_blocks,
)
from paddle_xc2.files.json_file import MAX_BYTES
from paddle_xc2.messages import short_repr, writing

MAX_HEADER_BYTES = MAX_BYTES  # of a 7B model in one file it has 0.1 MB
_ALIGNMENT = 8  # of the tensors' bytes in the file, so that mapped views are aligned

# safetensors' names of dtypes.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "U16": "bfloat16",  # as PaddleNLP calls it; what is written is the last name of each
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_TAGS = {dtype: tag for tag, dtype in _DTYPES.items()}


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors file, in the order of their bytes. Raises: ValueError saying what is wrong."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        raw_header = file.read(header_bytes) if 2 <= header_bytes <= MAX_HEADER_BYTES else b""
    if not raw_header.startswith(b"{"):
        raise ValueError(f"{path}: is no safetensors file (it starts with {start!r}); copy or download it again")
    if len(raw_header) < header_bytes:
        raise ValueError(_cut_off(path, size, f"its header alone has {header_bytes}"))
    try:
        header = json.loads(raw_header, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its header is damaged ({error}); copy or download it again") from error
    header.pop("__metadata__", None)
    data_start = 8 + header_bytes
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(path, *item)):
        begin, stop = _offsets(path, name, entry)
        tag, shape = entry.get("dtype"), entry.get("shape")
        dtype = _DTYPES.get(tag) if isinstance(tag, str) else None
        if dtype is None:
            found = tag if isinstance(tag, str) and len(tag) < 20 else short_repr(tag)
            raise ValueError(f"{path}: {name} has dtype {found}; known are {', '.join(_DTYPES)}")
        if not isinstance(shape, list) or any(type(length) is not int or length < 0 for length in shape):
            raise ValueError(
                f"{path}: {name} has no valid shape ({short_repr(shape)}); copy or download the file again"
            )
        tensor = LazyTensor(dtype, tuple(shape), FileRange(path, data_start + begin, dtype, tuple(shape)))
        if begin != end or stop - begin != tensor.num_bytes:
            raise ValueError(
                f"{path}: {name} of shape {shape} and dtype {dtype} stands at bytes {begin} to {stop}, expected {end} "
                f"to {end + tensor.num_bytes}; the header is damaged, copy or download the file again"
            )
        tensors[name], end = tensor, stop
    if size < data_start + end:
        raise ValueError(_cut_off(path, size, f"its header announces {data_start + end}"))
    if size > data_start + end:
        raise ValueError(f"{path}: has {size} bytes, but its header announces {data_start + end}; it is damaged")
    return tensors


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict:
    """For json.loads, which else keeps the last of two values in silence."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a tensor stands in it twice")
    return content


def _cut_off(path: Path, size: int, announced: str) -> str:
    return f"{path}: is cut off: it has {size} bytes, {announced}; copy or download it again"


def _offsets(path: Path, name: str, entry) -> tuple[int, int]:
    match entry:
        case {"data_offsets": [int(begin), int(stop)]}:
            return begin, stop
    raise ValueError(f"{path}: {name} has no valid data_offsets; the file is damaged, copy or download it again")


def write_tensors(path: Path, tensors: dict[str, LazyTensor], metadata_format: str) -> str:
    """Writes one safetensors file, each tensor in its own dtype. Returns: its SHA-256 in hexadecimal."""
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    return write_safetensors(path, tensors, dtypes, metadata_format, BlockBuffer(), lambda count: None).sha256


class WrittenShard(NamedTuple):
    """What is known of a shard from writing it.

    Attributes:
        sha256: of its bytes, in hexadecimal.
        start: its bytes up to the first tensor's.
        fingerprints: of every tensor, by name, taken from the source.
    """

    sha256: str
    start: bytes
    fingerprints: dict[str, Fingerprint]


def write_safetensors(
    path: Path, tensors: dict[str, LazyTensor], dtypes, metadata_format, buffer, on_bytes
) -> WrittenShard:
    """Writes one shard; it may not be on the disk yet."""
    # Wide elements first, so that every tensor starts at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: -NUMPY_DTYPES[dtypes[name]].itemsize)
    header, end = {"__metadata__": {"format": metadata_format}}, 0
    for name in names:
        begin, end = end, end + tensors[name].num_bytes_as(dtypes[name])
        header[name] = {"dtype": _TAGS[dtypes[name]], "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    raw_header = json.dumps(header, separators=(",", ":")).encode()
    raw_header += b" " * (-len(raw_header) % _ALIGNMENT)
    start = struct.pack("<Q", len(raw_header)) + raw_header
    fingerprints, digest = {}, hashlib.sha256(start)
    with writing(path), open(path, "xb") as file:
        file.write(start)
        for name in names:
            fingerprints[name] = Fingerprint()
            for block in tensors[name].blocks(dtypes[name], name, buffer, fingerprints[name]):
                content = block.view("u1")  # of bfloat16 and others, too
                digest.update(content)
                file.write(content)
                on_bytes(block.nbytes)
    return WrittenShard(digest.hexdigest(), start, fingerprints)


def verify_safetensors(path: Path, written: WrittenShard, on_bytes) -> None:
    """Reads a shard back, maps each tensor to where it came from, and compares. Raises: ValueError naming the tensor.

    With the start of the file this covers every byte of it, so that the SHA-256 is the file's too.
    """
    tensors = read_safetensors(path)
    with open(path, "rb") as file:
        if file.read(len(written.start)) != written.start:
            raise ValueError(f"{path}: its header does not read back as it was written; the disk is faulty")
        for name, tensor in tensors.items():
            found = Fingerprint(written.fingerprints[name].transposed)
            for block in _next_blocks(file, tensor, path):
                found.update_block(block)
                on_bytes(block.nbytes)
            if found != written.fingerprints[name]:
                raise ValueError(
                    f"{path}: {name} does not read back as it was written; the disk or the memory of this machine is "
                    "faulty"
                )


def _next_blocks(file: BinaryIO, tensor: LazyTensor, path: Path) -> Iterator[np.ndarray]:
    """The values of a tensor that begins where a file is read next, in `row_blocks`.

    Read, not mapped: a disk that fails gives an error then, where a mapped file ends the process.

    Raises: ValueError if the file ends before the tensor does.
    """
    shape = tensor.shape or (1,)
    for rows in row_blocks(shape, tensor.dtype):
        expected = (rows.stop - rows.start, *shape[1:])
        values = np.fromfile(file, NUMPY_DTYPES[tensor.dtype], math.prod(expected))
        if values.size < math.prod(expected):
            raise ValueError(f"{path}: became shorter while it was read; is another program writing it?")
        yield values.reshape(expected)

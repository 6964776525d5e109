"""One file of safetensors: read one tensor at a time, written block by block, compared with its source.

The format: 8 bytes, the length of a JSON header; the header; the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple

from paddle_xc2.checkpoint.direct_io import PageWriter
from paddle_xc2.checkpoint.lazy_tensor import (
    NUMPY_DTYPES,
    BlockBuffer,
    FileRange,
    Fingerprint,
    LazyTensor,
    blocks_in_file,
    read_ahead,
)
from paddle_xc2.files.json_file import MAX_BYTES
from paddle_xc2.messages import short_repr

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
    fingerprints = {}
    with PageWriter(path) as file:
        file.write(start)
        for name, tensor in zip(names, read_ahead(tensors[name] for name in names), strict=True):
            fingerprints[name] = Fingerprint()
            for block in tensor.blocks(dtypes[name], name, buffer, fingerprints[name]):
                file.write(block)
                on_bytes(block.nbytes)
    return WrittenShard(file.sha256.hexdigest(), start, fingerprints)


def verify_safetensors(path: Path, written: WrittenShard, on_bytes) -> None:
    """Reads a shard back, maps each tensor to where it came from, and compares. Raises: ValueError naming the tensor.

    With the start of the file this covers every byte of it, so that the SHA-256 is the file's too.
    """
    tensors = read_safetensors(path)
    with open(path, "rb") as file:
        if file.read(len(written.start)) != written.start:
            raise ValueError(f"{path}: its header does not read back as it was written; the disk is faulty")
    found = {name: Fingerprint(fingerprint.transposed) for name, fingerprint in written.fingerprints.items()}
    for name, block in blocks_in_file(tensors):
        found[name].update_block(block)
        on_bytes(block.nbytes)
    for name, fingerprint in written.fingerprints.items():
        if found[name] != fingerprint:
            raise ValueError(
                f"{path}: {name} does not read back as it was written; the disk or the memory of this machine is faulty"
            )

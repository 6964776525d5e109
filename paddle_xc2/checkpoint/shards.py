"""Reads and writes sharded checkpoints one tensor at a time.

Reading takes `model*.safetensors`, `pytorch_model*.bin` or `model_state*.pdparams`, with or without an index: the
headers are read and held against each other at once, the tensors when they are used. Writing streams safetensors
shards, with an index.
The safetensors format: 8 bytes, the length of a JSON header; the header; the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from paddle_xc2.checkpoint.deepspeed import is_deepspeed
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
from paddle_xc2.checkpoint.paddle_files import read_paddle_file
from paddle_xc2.checkpoint.torch_files import read_torch_file
from paddle_xc2.checkpoint.xtuner import is_xtuner, join_parts, llm_folder
from paddle_xc2.files.durable import sync
from paddle_xc2.files.json_file import MAX_BYTES, read_json, write_json
from paddle_xc2.hub.config_json import CONFIG_FILE
from paddle_xc2.messages import listed, short_repr

if TYPE_CHECKING:
    from paddle_xc2.checkpoint.finished_shards import FinishedShards

INDEX_FILE = "model.safetensors.index.json"
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

# In this order: checkpoints that have several kinds hold the same weights in them.
_INDEXES_AND_SHARDS = (
    (INDEX_FILE, "model*.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model*.bin"),
    ("model_state.pdparams.index.json", "model_state*.pdparams"),
)
_WEIGHTS = " or ".join(pattern for _, pattern in _INDEXES_AND_SHARDS)


def find_shards(directory: Path) -> list[Path]:
    """The weight files in `directory`; [] if there are none."""
    for _, pattern in _INDEXES_AND_SHARDS:
        shards = sorted(directory.glob(pattern))
        if shards:
            return shards
    return []


def read_checkpoint(directory: Path, dtype: str | None = None) -> dict[str, LazyTensor]:
    """Every tensor of a checkpoint by name, in the order in which the files hold them; reads headers only.

    Args:
        dtype: that the tensors are to be used in: those which XTuner's adapters change are merged in it.
    Raises: ValueError or FileNotFoundError naming the file, if the directory holds no checkpoint, a shard is missing,
        cut off or damaged, or the index and the shards do not tell the same.
    """
    check_is_checkpoint(directory)
    return join_parts(directory, _read_folder, read_shard, dtype) if is_xtuner(directory) else _read_folder(directory)


def _read_folder(directory: Path) -> dict[str, LazyTensor]:
    for index_name, pattern in _INDEXES_AND_SHARDS:
        index = directory / index_name
        if index.is_file():
            return _read_indexed(index)
        shards = sorted(directory.glob(pattern))
        if shards:
            return _join({shard: read_shard(shard) for shard in shards})
    raise FileNotFoundError(f"{directory}: there are no weights ({_WEIGHTS})")


def check_is_checkpoint(directory: Path) -> None:
    """Raises: FileNotFoundError saying what is missing and what is there instead."""
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is no checkpoint: there is no such directory")
    missing = []
    weights = llm_folder(directory) if is_xtuner(directory) else directory
    if not (weights / CONFIG_FILE).is_file():
        missing.append(f"no {CONFIG_FILE}")
    if not find_shards(weights) and not any((weights / index).is_file() for index, _ in _INDEXES_AND_SHARDS):
        missing.append(f"no weights ({_WEIGHTS})")
    if missing and is_deepspeed(directory):
        raise FileNotFoundError(
            f"{directory} is no checkpoint of a model, but DeepSpeed's state of a training; give the folder above it, "
            f"if that has {CONFIG_FILE} and weights; else put the weights together with DeepSpeed's script: "
            f"python zero_to_fp32.py {directory.parent} OUT -t {directory.name}"
        )
    if missing:
        found = sorted(path.name + "/" * path.is_dir() for path in directory.iterdir())
        raise FileNotFoundError(
            f"{directory} is no checkpoint: it has {' and '.join(missing)}; "
            f"files found: {listed(found, limit=10) or 'none'}"
        )


def read_shard(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one file. Raises: ValueError naming the file, if it is damaged."""
    if not path.is_file():  # opening a pipe waits for ever
        raise ValueError(f"{path}: is no file, but a directory, a pipe or a device; copy the file itself there")
    with open(path, "rb") as file:
        if file.read(32).startswith(b"version https://git-lfs"):
            raise ValueError(f"{path}: is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return read_paddle_file(path) if path.suffix == ".pdparams" else read_torch_file(path)


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
            told = tag if isinstance(tag, str) and len(tag) < 20 else short_repr(tag)
            raise ValueError(f"{path}: {name} has dtype {told}; known are {', '.join(_DTYPES)}")
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


def _join(shards: dict[Path, dict[str, LazyTensor]]) -> dict[str, LazyTensor]:
    tensors, home = {}, {}
    for shard, held in shards.items():
        for name, tensor in held.items():
            if name in tensors:
                raise ValueError(f"{shard}: holds {name}, which {home[name].name} holds too; keep one of the files")
            tensors[name], home[name] = tensor, shard
    return tensors


def _read_indexed(index: Path) -> dict[str, LazyTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: has no weight_map; copy or download it again")
    strange = [name for name in weight_map.values() if not isinstance(name, str) or Path(name).name != name]
    if strange:
        raise ValueError(f"{index}: {strange[0]!r} is no name of a file beside it")
    paths = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{index.parent}: {len(missing)} of {len(paths)} shards are missing: {', '.join(missing)}; "
            f"{index.name} names them, copy or download them"
        )
    shards = {path: read_shard(path) for path in paths}
    tensors = _join(shards)
    wrong = []
    for shard, held in shards.items():
        promised = {name for name, file in weight_map.items() if file == shard.name}
        wrong += [f"{shard.name} lacks {name}" for name in sorted(promised - held.keys())]
        wrong += [f"{shard.name} holds {name} against the index" for name in held if name not in promised]
    if wrong:
        raise ValueError(
            f"{index}: the index and the shards do not tell the same: {listed(wrong, separator='; ')}; "
            "take all files from one place"
        )
    return tensors


def parse_size(size: int | str) -> int:
    """Bytes of "5GB" (decimal), "5GiB" (binary) or a plain number. Raises: ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?)B)?", str(size).strip().upper())
    num_bytes = 0
    if found:
        number, unit, binary = found.groups()
        exponent = "KMGT".index(unit) + 1 if unit else 0
        num_bytes = int(float(number) * (1024 if binary else 1000) ** exponent)
    if num_bytes <= 0:
        raise ValueError(f'shard size "{size}" is not understood; write for example 5GB or 500MB')
    return num_bytes


def plan_shards(sizes: dict[str, int], max_shard_bytes: int) -> list[list[str]]:
    """Names in their order, cut into shards of at most `max_shard_bytes`; a larger tensor gets a shard of its own."""
    shards, filled = [[]], 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_checkpoint(
    directory: Path,
    tensors: dict[str, LazyTensor],
    metadata_format: str,
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    on_bytes: Callable[[int], object] = lambda count: None,
    verify: bool = False,
    finished: FinishedShards | None = None,
) -> dict[str, str]:
    """Writes shards and their index, block by block.

    Args:
        directory: an existing one without weights, but for those that are finished.
        tensors: by the names to write.
        metadata_format: what the shards say of themselves; "pt" is what transformers wants to read.
        dtype: a key of NUMPY_DTYPES that everything is cast to; None keeps each tensor's own.
        max_shard_size: bytes, or as "5GB".
        on_bytes: is told of every block's bytes when it is written, and with `verify` again when it is verified.
        verify: reads each shard back when it is on the disk, and compares every tensor with its source.
        finished: shards of an interrupted attempt, which are left as they are; is told of every new one.
    Returns: SHA-256 in hexadecimal of each shard by its name, taken from the bytes on their way to the file.
    Raises: ValueError if a value does not fit into `dtype`, or a shard does not read back as it was written.
    """
    dtypes = {name: dtype or tensor.dtype for name, tensor in tensors.items()}
    sizes = {name: tensor.num_bytes_as(dtypes[name]) for name, tensor in tensors.items()}
    shards = plan_shards(sizes, parse_size(max_shard_size))
    digests, weight_map, buffer = {}, {}, BlockBuffer()
    # While a shard is written, the one before it goes to the disk and is read back.
    with ThreadPoolExecutor(1) as background:
        unsettled = []

        def settle() -> None:
            while unsettled:
                path, written, on_disk = unsettled.pop()
                on_disk.result()
                if finished:
                    finished.add(path, written.sha256)

        try:
            for number, names in enumerate(shards, start=1):
                numbered = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
                path = directory / f"model{numbered}.safetensors"
                weight_map.update(dict.fromkeys(names, path.name))
                digests[path.name] = finished.sha256_of(path) if finished else None
                if digests[path.name] is None:
                    chosen = {name: tensors[name] for name in names}
                    written = _write_safetensors(path, chosen, dtypes, metadata_format, buffer, on_bytes)
                    digests[path.name] = written.sha256
                    settle()
                    unsettled.append((path, written, background.submit(_secure, path, written, verify, on_bytes)))
        finally:
            settle()
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    write_json(directory / INDEX_FILE, index)
    return digests


def write_shard(path: Path, tensors: dict[str, LazyTensor], metadata_format: str) -> str:
    """Writes one safetensors file, each tensor in its own dtype. Returns: its SHA-256 in hexadecimal."""
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    return _write_safetensors(path, tensors, dtypes, metadata_format, BlockBuffer(), lambda count: None).sha256


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


def _write_safetensors(
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


def _secure(path: Path, written: WrittenShard, verify: bool, on_bytes) -> None:
    """Waits until a shard is on the disk, and compares it with its source if that is asked for."""
    sync(path)
    if verify:
        _verify_safetensors(path, written, on_bytes)


def _verify_safetensors(path: Path, written: WrittenShard, on_bytes) -> None:
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

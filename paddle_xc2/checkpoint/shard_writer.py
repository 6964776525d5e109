"""Writes a checkpoint as shards of safetensors with an index, one block of a tensor at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paddle_xc2.checkpoint.finished_shards import FinishedShards
from paddle_xc2.checkpoint.lazy_tensor import BlockBuffer, LazyTensor
from paddle_xc2.checkpoint.safetensors_file import WrittenShard, verify_safetensors, write_safetensors
from paddle_xc2.files.durable import leave_cache, sync
from paddle_xc2.files.json_file import write_json
from paddle_xc2.hub.weight_files import INDEX_FILE


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


def write_shards(
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
        on_bytes: gets the number of bytes of every block when it is written, and with `verify` again when it is
            verified.
        verify: reads each shard back when it is on the disk, and compares every tensor with its source.
        finished: shards of an interrupted attempt, which are left as they are; every new one is added.
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
                    written = write_safetensors(path, chosen, dtypes, metadata_format, buffer, on_bytes)
                    digests[path.name] = written.sha256
                    settle()
                    unsettled.append((path, written, background.submit(_secure, path, written, verify, on_bytes)))
        finally:
            settle()
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    write_json(directory / INDEX_FILE, index)
    return digests


def _secure(path: Path, written: WrittenShard, verify: bool, on_bytes) -> None:
    """Waits until a shard is on the disk, and compares it with its source if that is asked for."""
    sync(path)
    if verify:
        leave_cache(path)
        verify_safetensors(path, written, on_bytes)

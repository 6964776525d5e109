"""Whole checkpoint, from upstream's layout to Paddle's and back, one block of a tensor at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from paddle_xc2.model_path import resolve_model_path
from paddle_xc2.weights.balance import balance
from paddle_xc2.weights.checkpoint_files import read_checkpoint
from paddle_xc2.weights.config_files import load_config
from paddle_xc2.weights.lazy_tensor import check_dtype
from paddle_xc2.weights.loading import build_without_memory, parameter_shapes
from paddle_xc2.weights.manifest import manifest_files, verify_manifest
from paddle_xc2.weights.name_map import layout_of
from paddle_xc2.weights.saving import write_files
from paddle_xc2.weights.whole_directory import whole_directory


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        layout: that of the source, one of name_map.LAYOUTS.
        num_tensors, num_bytes: written; the bytes are those of the tensors.
        dropped: why, by name, for tensors of the source that the model has no use for.
        num_verified: bytes that were read back and held against the manifest.
        seconds: all of it.
    """

    layout: str
    num_tensors: int
    num_bytes: int
    dropped: dict[str, str]
    num_verified: int
    seconds: float


def convert(
    source: str | Path,
    destination: str | Path,
    to: str = "paddle",
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    verify: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> ConversionReport:
    """Writes the checkpoint `source` as `destination`, whole or not at all, and reads it back.

    Args:
        source: a directory in any layout, or a released name.
        destination: a directory that doesn't exist or is empty.
        to: "paddle" or "hf"; also the layout that the source has, to change dtype or shards.
        dtype: "float32", "bfloat16" or "float16"; None keeps each tensor's own.
        max_shard_size: bytes, or as "5GB".
        verify: holds the source against its manifest first.
        overwrite: replaces a checkpoint of ours at `destination`.
        progress: shows a bar.
    Raises: FileNotFoundError, or ValueError naming the file or the tensors: what is missing, damaged or doesn't fit.
    """
    started = time.perf_counter()
    check_dtype(dtype)
    source = resolve_model_path(source)
    tensors = read_checkpoint(source)
    config = load_config(source, tensors)
    layout = layout_of(tensors)
    shapes = parameter_shapes(build_without_memory(config))
    parameters, dropped = balance(tensors, layout, shapes, source)
    num_bytes = sum(tensor.num_bytes_as(dtype or tensor.dtype) for tensor in parameters.values())
    with whole_directory(destination, overwrite) as partial:
        if verify:
            verify_manifest(source)
        with tqdm(desc="converting", total=num_bytes, unit="B", unit_scale=True, disable=not progress) as bar:
            write_files(partial, parameters, config, to, source, dtype, dtype, max_shard_size, bar.update)
        num_written = sum(file["bytes"] for file in manifest_files(partial).values())
        with tqdm(desc="verifying", total=num_written, unit="B", unit_scale=True, disable=not progress) as bar:
            num_verified = verify_manifest(partial, bar.update)
    return ConversionReport(layout, len(parameters), num_bytes, dropped, num_verified, time.perf_counter() - started)

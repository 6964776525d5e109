"""Whole checkpoint, from upstream's layout to Paddle's and back, one block of a tensor at a time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from paddle_xc2 import __version__
from paddle_xc2.checkpoint.balance import balance
from paddle_xc2.checkpoint.companions import companions
from paddle_xc2.checkpoint.finished_shards import FinishedShards
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor, check_dtype
from paddle_xc2.checkpoint.manifest import is_written_by, manifest_files, verify_manifest
from paddle_xc2.checkpoint.names import names_of
from paddle_xc2.checkpoint.shapes import parameter_shapes
from paddle_xc2.checkpoint.shard_writer import parse_size
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.checkpoint.whole_directory import finish_interrupted, whole_directory
from paddle_xc2.files.directory_lock import locked
from paddle_xc2.files.local_path import local_path
from paddle_xc2.hub.directory import ModelDirectory
from paddle_xc2.hub.weight_files import WEIGHT_SUFFIXES
from paddle_xc2.messages import counted
from paddle_xc2.weights.save import write_files
from paddle_xc2.weights.sources import Checkpoint, Contents, model_source

_SOURCE_SUFFIXES = (*WEIGHT_SUFFIXES, ".json")


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        layout: that of the source, one of checkpoint/name_table.py's.
        to: the layout that was written, "paddle" or "hf".
        num_tensors, num_bytes: of the checkpoint that was written; the bytes are those of the tensors.
        num_kept_bytes: of shards that an earlier, interrupted, start had finished.
        dropped: why, by name, for tensors of the source that the model has no use for.
        seconds: all of it.
    """

    layout: str
    to: str
    num_tensors: int
    num_bytes: int
    num_kept_bytes: int
    dropped: dict[str, str]
    seconds: float


def convert(
    source: str | Path | ModelDirectory | Checkpoint,
    destination: str | Path,
    to: str | None = "paddle",
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    verify: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> ConversionReport:
    """Writes the checkpoint `source` as `destination`, whole or not at all.

    Every shard is read back when it is on the disk, and each of its tensors compared with the source's. A conversion
    that was interrupted, or killed, goes on after its last finished shard when it is started again.

    Args:
        source: a directory in any of the layouts, a released name, an open one, or one of weights/sources.py.
        destination: a directory that doesn't exist or is empty.
        to: "paddle" or "hf"; also the layout that the source has, to change dtype or shards. None is the source's.
        dtype: "float32", "bfloat16" or "float16"; None keeps each tensor's own.
        max_shard_size: bytes, or as "5GB".
        verify: holds the source against its manifest first.
        overwrite: replaces a checkpoint of ours at `destination`.
        progress: shows a bar.
        say: is told in a line of what an interrupted start left behind.
    Raises: FileNotFoundError, or ValueError naming the file or the tensors: what is missing, damaged or doesn't fit.
    """
    started = time.perf_counter()
    check_dtype(dtype)
    source = source if isinstance(source, Checkpoint) else model_source(source)
    destination = local_path(destination).resolve()
    _check_apart(source, destination)
    job = _Conversion.of(source, to, dtype, max_shard_size)
    brings, attempt = companions(source.directory), job.attempt(destination)
    with locked(destination, whole_run=True):
        finish_interrupted(destination)
        if not overwrite and is_written_by(destination, attempt):
            say(f"{destination} holds it already: an earlier start wrote it; every file is verified")
            num_kept_bytes = job.num_bytes
        else:
            if overwrite and (old := manifest_files(destination)):
                files = counted(len(old), "file")
                say(f"{destination}: {files} of an earlier checkpoint will be replaced when the new one is whole")
            with whole_directory(destination, overwrite, resumable=True, brings=brings) as partial:
                if verify:
                    verify_manifest(source.directory)
                num_kept_bytes = job.write(partial, attempt, progress, say)
    seconds = time.perf_counter() - started
    return ConversionReport(
        job.layout, job.to, len(job.parameters), job.num_bytes, num_kept_bytes, job.dropped, seconds
    )


@dataclass(frozen=True)
class _Conversion:
    """What is written, and how.

    Attributes:
        layout: that of the source.
        parameters: what is written, under our names and in Paddle's layout.
        dropped: why, by name, for tensors of the source that the model has no use for.
        to, dtype, max_shard_size: as of `convert`.
    """

    source: Checkpoint
    contents: Contents
    layout: str
    parameters: dict[str, LazyTensor]
    dropped: dict[str, str]
    to: str
    dtype: str | None
    max_shard_size: int

    @classmethod
    def of(cls, source: Checkpoint, to: str | None, dtype: str | None, max_shard_size: int | str) -> _Conversion:
        """Args: as of `convert`. Raises: ValueError for a checkpoint that is not whole."""
        max_shard_size = parse_size(max_shard_size)
        contents = source.read(dtype)
        names = names_of(contents.config.family)
        layout = names.layout_of(contents.tensors)
        if to is None:  # whatever layout the merged tensors have
            to = "hf" if names.layout_of(read_checkpoint(source.directory)) == "hf" else "paddle"
        shapes = parameter_shapes(contents.config)
        balanced = balance(contents.tensors, names, layout, shapes, source.directory.path)
        return cls(source, contents, layout, *balanced, to, dtype, max_shard_size)

    @property
    def num_bytes(self) -> int:
        """That are written."""
        return sum(tensor.num_bytes_as(self.dtype or tensor.dtype) for tensor in self.parameters.values())

    def attempt(self, destination: Path) -> str:
        """Identifies it: equal for two that write the same shards from files that did not change between them."""
        content = {
            "version": __version__,
            "source": [type(self.source).__name__, vars(self.source)],
            "files": [_files(path, destination) for path in self.source.parts.values()],
            "settings": [self.to, self.dtype, self.max_shard_size],
        }
        return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()

    def write(self, partial: Path, attempt: str, progress: bool, say: Callable[[str], object]) -> int:
        """Returns: bytes that an earlier start had written."""
        num_bytes, config = self.num_bytes, self.contents.config
        with (
            FinishedShards(partial, attempt, say) as finished,
            tqdm(total=num_bytes, initial=finished.num_bytes, unit="B", unit_scale=True, disable=not progress) as bar,
        ):
            num_kept_bytes = finished.num_bytes
            bar.set_description("converting")
            write_files(
                partial,
                self.parameters,
                config,
                self.to,
                self.source.directory,
                self.dtype,
                self.dtype,
                self.max_shard_size,
                on_bytes=lambda count: bar.update(count / 2),  # each byte is told of twice: written and verified
                verify=True,
                finished=finished,
                tokenizer=self.contents.tokenizer,
            )
        # What was written is a checkpoint of the same model to a reader who knows nothing of how it was written.
        balance(read_checkpoint(partial), names_of(config.family), self.to, parameter_shapes(config), partial)
        return num_kept_bytes


def _check_apart(source: Checkpoint, destination: Path) -> None:
    """Raises: ValueError if the destination is one of several parts that the source has."""
    if len(source.parts) == 1 or not destination.exists():
        return
    for kind, path in source.parts.items():
        if path.samefile(destination):
            raise ValueError(f"{destination} is the {kind} itself, which merging would replace; choose another folder")


def _files(source: Path, destination: Path) -> list[list]:
    """Names, sizes and times of the files that a source is read from; without those of a destination within it."""
    source = source.resolve()
    paths = [source] if source.is_file() else sorted(source.rglob("*"))
    paths = [path for path in paths if path.suffix in _SOURCE_SUFFIXES and not path.is_relative_to(destination)]
    # Nor what is unfinished of it.
    named = {path: path.relative_to(source) for path in paths}
    return [
        [name.as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
        for path, name in named.items()
        if not any(part.startswith(".") for part in name.parts)
    ]

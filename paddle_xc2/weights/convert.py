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
from paddle_xc2.checkpoint.adapter_files import merge
from paddle_xc2.checkpoint.balance import balance
from paddle_xc2.checkpoint.base_fingerprint import check_base
from paddle_xc2.checkpoint.companions import companions
from paddle_xc2.checkpoint.config_files import load_config
from paddle_xc2.checkpoint.finished_shards import FinishedShards
from paddle_xc2.checkpoint.lazy_tensor import check_dtype
from paddle_xc2.checkpoint.manifest import is_written_by, manifest_files, verify_manifest
from paddle_xc2.checkpoint.names import layout_of
from paddle_xc2.checkpoint.shapes import parameter_shapes
from paddle_xc2.checkpoint.shard_writer import parse_size
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.checkpoint.whole_directory import finish_interrupted, whole_directory
from paddle_xc2.checkpoint.xtuner_training import assemble_llava, read_training_checkpoint
from paddle_xc2.files.directory_lock import locked
from paddle_xc2.files.local_path import local_path
from paddle_xc2.hub.directory import ModelDirectory, open_model
from paddle_xc2.hub.weight_files import WEIGHT_SUFFIXES
from paddle_xc2.messages import counted
from paddle_xc2.text.tokenizer import XComposer2Tokenizer, has_tokenizer
from paddle_xc2.weights.merging import as_trained_with, merge_into_base
from paddle_xc2.weights.save import write_files

_SOURCE_SUFFIXES = (*WEIGHT_SUFFIXES, ".json")


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        layout: that of the source, one of name_map.LAYOUTS.
        num_tensors, num_bytes: of the checkpoint that was written; the bytes are those of the tensors.
        num_kept_bytes: of shards that an earlier, interrupted, start had finished.
        dropped: why, by name, for tensors of the source that the model has no use for.
        seconds: all of it.
    """

    layout: str
    num_tensors: int
    num_bytes: int
    num_kept_bytes: int
    dropped: dict[str, str]
    seconds: float


def convert(
    source: str | Path | ModelDirectory,
    destination: str | Path,
    to: str = "paddle",
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    verify: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    say: Callable[[str], object] = lambda line: None,
    trained: Path | None = None,
    lora_alpha: dict[str, float | None] | None = None,
    visual_encoder: str | Path | None = None,
    base: str | Path | None = None,
    dequantize: bool = False,
) -> ConversionReport:
    """Writes the checkpoint `source` as `destination`, whole or not at all.

    Every shard is read back when it is on the disk, and each of its tensors compared with the source's. A conversion
    that was interrupted, or killed, goes on after its last finished shard when it is started again.

    Args:
        source: a directory in any of the layouts, a released name, or what `open_model` gave.
        destination: a directory that doesn't exist or is empty.
        to: "paddle" or "hf"; also the layout that the source has, to change dtype or shards.
        dtype: "float32", "bfloat16" or "float16"; None keeps each tensor's own.
        max_shard_size: bytes, or as "5GB".
        verify: holds the source against its manifest first.
        overwrite: replaces a checkpoint of ours at `destination`.
        progress: shows a bar.
        say: is told in a line of what an interrupted start left behind.
        trained: an `iter_*.pth` of XTuner's, whose tensors are merged into those of `source`.
        lora_alpha: of the LoRA in it, as `read_training_checkpoint` takes it.
        base: of an adapter as `source`, if it is not where the adapter remembers it. An adapter is merged into its
            base, a few rows of a tensor at a time.
        dequantize: merges an adapter of QLoRA into the weights that quantizing its base gives.
        visual_encoder: a CLIP, which makes a LLaVA of a language model in `source`, with a fresh projector, and with
            <|im_start|> and <|im_end|> in its tokenizer.
    Raises: FileNotFoundError, or ValueError naming the file or the tensors: what is missing, damaged or doesn't fit.
    """
    started = time.perf_counter()
    check_dtype(dtype)
    given, destination = open_model(source, base), local_path(destination).resolve()
    if dequantize and not given.is_adapter:
        raise ValueError(f"{given}: is no adapter; dequantize is for merging one of QLoRA")
    source, adapter = (given.base, given) if given.is_adapter else (given, None)
    if adapter is not None:
        _check_mergeable(adapter, source, destination)
    brings = companions(source)
    if visual_encoder is None:
        tensors = read_checkpoint(source, dtype)
        config = load_config(source, tensors)
    else:
        tensors, config = assemble_llava(source, open_model(visual_encoder))
    if trained is not None:
        tensors = merge(tensors, read_training_checkpoint(trained, lora_alpha or {}), trained, dtype)
    if adapter is not None:
        if dequantize:
            tensors = as_trained_with(tensors, adapter, dtype)
        tensors = merge_into_base(tensors, config, adapter, dtype)
    tokenizer = _new_tokenizer(source, adapter, visual_encoder is not None)
    layout = layout_of(tensors)
    shapes = parameter_shapes(config)
    parameters, dropped = balance(tensors, layout, shapes, source.path)
    num_bytes = sum(tensor.num_bytes_as(dtype or tensor.dtype) for tensor in parameters.values())
    others = [str(path) for path in (trained, visual_encoder, adapter) if path is not None]
    others += ["dequantized"] if dequantize else []
    others += [_attempt(adapter.path, destination)] if adapter is not None else []
    settings = {"to": to, "dtype": dtype, "max_shard_size": parse_size(max_shard_size), "others": others}
    attempt = _attempt(source.path, destination, **settings)

    def write_into(partial: Path) -> int:
        """Returns: bytes that an earlier start had written."""
        if verify:
            verify_manifest(source)
        with (
            FinishedShards(partial, attempt, say) as finished,
            tqdm(total=num_bytes, initial=finished.num_bytes, unit="B", unit_scale=True, disable=not progress) as bar,
        ):
            num_kept_bytes = finished.num_bytes
            bar.set_description("converting")
            # Each byte is told of twice: written and verified.
            write_files(
                partial,
                parameters,
                config,
                to,
                source,
                dtype,
                dtype,
                max_shard_size,
                on_bytes=lambda count: bar.update(count / 2),
                verify=True,
                finished=finished,
                tokenizer=tokenizer,
            )
        # What was written is a checkpoint of the same model to a reader who knows nothing of how it was written.
        balance(read_checkpoint(partial), to, shapes, partial)
        return num_kept_bytes

    with locked(destination, whole_run=True):
        finish_interrupted(destination)
        if not overwrite and is_written_by(destination, attempt):
            say(f"{destination} holds it already: an earlier start wrote it; every file is verified")
            num_kept_bytes = num_bytes
        else:
            if overwrite and (old := manifest_files(destination)):
                files = counted(len(old), "file")
                say(f"{destination}: {files} of an earlier checkpoint will be replaced when the new one is whole")
            with whole_directory(destination, overwrite, resumable=True, brings=brings) as partial:
                num_kept_bytes = write_into(partial)
    seconds = time.perf_counter() - started
    return ConversionReport(layout, len(parameters), num_bytes, num_kept_bytes, dropped, seconds)


def _check_mergeable(adapter: ModelDirectory, base: ModelDirectory, destination: Path) -> None:
    """Raises: ValueError if the adapter belongs to another base, or one of the two would be replaced."""
    for kind, path in (("adapter", adapter.path), ("base", base.path)):
        if destination.exists() and path.samefile(destination):
            raise ValueError(f"{destination} is the {kind} itself, which merging would replace; choose another folder")
    check_base(adapter, base)


def _new_tokenizer(
    source: ModelDirectory, adapter: ModelDirectory | None, becomes_llava: bool
) -> XComposer2Tokenizer | None:
    """What is written in place of the source's tokenizer; None if that stays."""
    if adapter is not None and has_tokenizer(adapter):
        return XComposer2Tokenizer.from_pretrained(adapter)
    if becomes_llava and has_tokenizer(source):  # the template of the family needs turns
        return XComposer2Tokenizer.from_pretrained(source).with_turn_tokens()
    return None


def _attempt(source: Path, destination: Path, **arguments) -> str:
    """Identifies a conversion: equal for two that write the same shards from files that did not change between them."""
    paths = [path for path in sorted(source.resolve().rglob("*")) if path.suffix in _SOURCE_SUFFIXES]
    paths = [path for path in paths if not path.is_relative_to(destination)]  # which may lie in `source`
    source = source.resolve()
    names = [path.relative_to(source) for path in paths]
    files = [
        [name.as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
        for name, path in zip(names, paths, strict=True)
        if not any(part.startswith(".") for part in name.parts)  # nor what is unfinished of it
    ]
    content = {"version": __version__, "source": str(source), "files": files, **arguments}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()

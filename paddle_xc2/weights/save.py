"""Model in memory -> checkpoint directory, in either layout; what a conversion writes is written here too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from paddle_xc2.checkpoint.companions import companions
from paddle_xc2.checkpoint.config_files import write_config
from paddle_xc2.checkpoint.finished_shards import FinishedShards
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor, check_dtype, prevailing_dtype, tensor_in_memory
from paddle_xc2.checkpoint.manifest import write_manifest
from paddle_xc2.checkpoint.name_table import NameTable
from paddle_xc2.checkpoint.names import names_of
from paddle_xc2.checkpoint.shard_writer import write_shards
from paddle_xc2.checkpoint.whole_directory import whole_directory
from paddle_xc2.checkpoint.xtuner import split_parts
from paddle_xc2.families.settings import ModelSettings
from paddle_xc2.files.durable import check_free_space
from paddle_xc2.hub.directory import ModelDirectory
from paddle_xc2.messages import listed
from paddle_xc2.text.base import BaseTokenizer
from paddle_xc2.text.load_tokenizer import has_tokenizer, load_tokenizer
from paddle_xc2.weights.quantize import dequantized_tensors

LAYOUTS = ("paddle", "hf")
_METADATA_FORMATS = {"paddle": "pd", "hf": "pt"}  # transformers and PaddleNLP each want to read theirs in a shard


def save_model(
    model,
    directory: str | Path,
    to: str = "paddle",
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = True,
) -> None:
    """Writes a checkpoint, with the tokenizer's and other files of the directory that the model was loaded from.

    Quantized layers are written as the dense ones that they stand for, in `dtype` or that which the model computes in.

    Args:
        model: XComposer2ForCausalLM.
        to: "paddle" or "hf": the layout.
        dtype: "float32", "bfloat16" or "float16"; None is each parameter's own.
        max_shard_size: bytes, or as "5GB".
        overwrite: whether `directory` may hold files; a checkpoint of ours in it is replaced, any other refused.
    Raises: ValueError as `write_files`, `companions` and `whole_directory`.
    """
    check_dtype(dtype)
    parameters = {name: tensor_in_memory(parameter) for name, parameter in model.named_parameters()}
    parameters |= dequantized_tensors(model, dtype or prevailing_dtype(parameters.values()))
    brings = [] if model.provenance.directory is None else companions(model.provenance.directory)
    with whole_directory(directory, overwrite, brings=brings) as partial:
        write_files(
            partial,
            parameters,
            model.config,
            to,
            source=model.provenance.directory,
            tokenizer=model.provenance.tokenizer,
            dtype=dtype,
            config_dtype=dtype or prevailing_dtype(parameters.values()),
            max_shard_size=max_shard_size,
        )


def write_files(
    directory: Path,
    parameters: dict[str, LazyTensor],
    config: ModelSettings,
    to: str,
    source: ModelDirectory | None,
    dtype: str | None,
    config_dtype: str | None,
    max_shard_size: int | str,
    on_bytes: Callable[[int], object] = lambda count: None,
    verify: bool = False,
    finished: FinishedShards | None = None,
    tokenizer: BaseTokenizer | None = None,
) -> None:
    """Writes everything that a checkpoint consists of, the manifest last.

    Args:
        directory: an empty one, but for finished shards.
        parameters: under our names and in Paddle's layout.
        to: "paddle" or "hf": the layout to write.
        source: where all other files are copied from: tokenizer, upstream's code, documents; None for nowhere.
        dtype: that everything is cast to; None keeps each tensor's own.
        config_dtype: what config.json says of the dtype; None leaves what the original config.json says.
        max_shard_size: bytes, or as "5GB".
        on_bytes, verify, finished: as `write_shards`.
        tokenizer: is written in place of the tokenizer in `source`.
    Raises: ValueError for an unknown layout, for parameters that the family's table of names doesn't know, for values
        that don't fit into `dtype`, or for a disk without enough room.
    """
    if to not in LAYOUTS:
        raise ValueError(f'layout "{to}" is not one of {", ".join(LAYOUTS)}')
    names = names_of(config.family)
    unknown = [name for name in parameters if names.to_hf(name) is None]
    if unknown:
        raise ValueError(
            f"{len(unknown)} parameters have no name in a checkpoint: {listed(unknown)}; "
            "remove what was added to the model, or add a rule to its family's table of names"
        )
    num_bytes = sum(tensor.num_bytes_as(dtype or tensor.dtype) for tensor in parameters.values())
    check_free_space(directory, num_bytes - (finished.num_bytes if finished else 0))
    tensors = parameters if to == "paddle" else _upstream_tensors(parameters, names)
    digests = {}
    for folder, part in (split_parts(tensors) if to == "hf" and config.family.in_parts else {"": tensors}).items():
        (directory / folder).mkdir(exist_ok=True)
        shards = write_shards(
            directory / folder, part, _METADATA_FORMATS[to], dtype, max_shard_size, on_bytes, verify, finished
        )
        digests |= {f"{folder}/{name}".lstrip("/"): digest for name, digest in shards.items()}
    if source is not None:
        _copy_companions(source, directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    write_config(directory, config, to, config_dtype)
    if finished:
        finished.complete()
    name = source.path.name if source is not None else ""
    write_manifest(directory, to, name, digests, finished.attempt if finished else None)


def _copy_companions(source: ModelDirectory, directory: Path) -> None:
    if source.is_paddlemix:  # the code and settings beside its weights are of PaddleMIX and PaddleNLP
        if has_tokenizer(source):
            load_tokenizer(source).save_pretrained(directory)
        return
    for path in companions(source):
        shutil.copyfile(path, directory / path.name)


def _upstream_tensors(parameters: dict[str, LazyTensor], names: NameTable) -> dict[str, LazyTensor]:
    return dict(names.relabelled(name, tensor, "paddle", "hf") for name, tensor in parameters.items())

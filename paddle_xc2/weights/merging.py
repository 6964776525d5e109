"""An adapter into the files of its base: as tensors that are computed when they are read."""

from __future__ import annotations

from paddle_xc2.checkpoint.adapter_files import merge, read_adapter
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.checkpoint.names import POSITION_TABLE, layout_of, to_hf, to_paddle
from paddle_xc2.checkpoint.shards import read_shard
from paddle_xc2.checkpoint.xtuner import with_our_prefixes
from paddle_xc2.families.asked_as import take_settings
from paddle_xc2.hub.directory import ModelDirectory
from paddle_xc2.weights.position_table import resized_table
from paddle_xc2.weights.quantize import as_quantized


def merge_into_base(
    tensors: dict[str, LazyTensor], config, adapter: ModelDirectory, dtype: str | None = None
) -> dict[str, LazyTensor]:
    """The base's tensors with the adapter's change in them, under upstream's names and in upstream's layout.

    Args:
        tensors: of the base, in any layout.
        config: of the base; gets the settings that the adapter was trained with.
        adapter: in PEFT's or PaddleNLP's layout.
        dtype: of the tensors that change; None is the base's.
    Raises: ValueError for what does not fit; FileNotFoundError.
    """
    tensors = _in_upstream_layout(tensors)
    settings = adapter.origin.settings
    take_settings(config, settings)
    if settings.get("img_size") not in (None, config.img_size):
        config.img_size = settings["img_size"]
        config.check()
        name = to_hf(POSITION_TABLE)[0]
        tensors[name] = _resized(tensors[name], config.patches_per_side, name, dtype)
    changes = with_our_prefixes(read_adapter(adapter, read_shard), config)
    return merge(tensors, changes, adapter.path, dtype)


def as_trained_with(
    tensors: dict[str, LazyTensor], adapter: ModelDirectory, dtype: str | None = None
) -> dict[str, LazyTensor]:
    """The base's tensors as QLoRA trains on them: its linear layers quantized and dequantized, in the same layout.

    Args:
        dtype: of the tensors that change; None is the base's.
    Raises: ValueError if the adapter was not trained so.
    """
    if adapter.origin.quantization is None:
        raise ValueError(
            f"{adapter}: --dequantize is for adapters that were trained on a base in four bits, which this one "
            "does not say of itself; leave it out"
        )
    return as_quantized(tensors, layout_of(tensors), dtype)


def _in_upstream_layout(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    layout = layout_of(tensors)
    if layout == "hf":
        return dict(tensors)
    renamed = {}
    for name, tensor in tensors.items():
        ours = to_paddle(name, layout)
        if ours is None:
            renamed[name] = tensor  # what is left out, or unknown, is told of when the checkpoint is balanced
            continue
        upstream, transpose = to_hf(ours[0])
        renamed[upstream] = tensor.transposed() if transpose != ours[1] else tensor
    return renamed


def _resized(table: LazyTensor, patches_per_side: int, name: str, dtype: str | None) -> LazyTensor:
    """The position table for images of another size; dtype: None is its own."""
    return resized_table(table, patches_per_side, name).as_dtype(dtype or table.dtype, name)

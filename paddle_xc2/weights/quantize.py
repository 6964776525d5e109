"""Quantized layers: filled from a checkpoint piece by piece, and read back as the tensors that they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import paddle

from paddle_xc2.checkpoint.lazy_tensor import BLOCK_BYTES, LazyTensor, cast, release_pages
from paddle_xc2.checkpoint.names import to_paddle
from paddle_xc2.models.nf4 import BLOCK, NF4Linear
from paddle_xc2.models.plora import PLoRALinear

QUANTIZATIONS = ("nf4",)
_QUANTIZABLE = re.compile(r"model\.layers\.\d+\.(attention|feed_forward)\.\w+\.linear\.weight")


def check_quantization(quantize: str | None) -> None:
    """Raises: ValueError for a format that there is not; None is none."""
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise ValueError(f'quantize "{quantize}" is not one of {", ".join(QUANTIZATIONS)}')


def quantizable_layers(model) -> dict[str, PLoRALinear]:
    """The layers whose dense weight is quantized, by the name of that weight: the decoder's linear ones.

    PLoRA, norms, embeddings, output head, vision encoder and projector stay as they are, as in QLoRA.
    """
    layers = {name: layer for name, layer in model.named_sublayers() if isinstance(layer, PLoRALinear)}
    return {f"{name}.linear.weight": layer for name, layer in layers.items()}


def fill_quantized(layer: PLoRALinear, tensor: LazyTensor, name: str) -> None:
    """Gives a layer the weight of a checkpoint in NF4; some blocks of it are in memory at a time.

    Args:
        tensor: [in, out], any floating dtype; quantized from its own values, whatever precision the model computes in.
        name: of the tensor, for messages.
    """
    layer.linear = NF4Linear(*tensor.shape)
    layer.linear.quantize(_pieces(tensor, name))


def _pieces(tensor: LazyTensor, name: str) -> Iterator[paddle.Tensor]:
    array = tensor.read().reshape(tensor.shape)
    num_rows = max(1, BLOCK_BYTES // (4 * tensor.shape[1] * BLOCK)) * BLOCK
    for start in range(0, len(array), num_rows):
        rows = array[start : start + num_rows]
        piece = replace(tensor, shape=rows.shape, read=lambda rows=rows: rows)
        yield paddle.to_tensor(piece.load("float32", name))
        release_pages(array)


def dequantized_tensors(model, dtype: str) -> dict[str, LazyTensor]:
    """The weights that the quantized layers of a model compute with, by the names of dense ones.

    Args:
        dtype: that the model computes in.
    """
    layers = {
        name: layer.linear for name, layer in quantizable_layers(model).items() if isinstance(layer.linear, NF4Linear)
    }
    return {
        name: LazyTensor(dtype, (layer.in_features, layer.out_features), _reader(layer, dtype))
        for name, layer in layers.items()
    }


def as_quantized(tensors: dict[str, LazyTensor], layout: str, dtype: str | None = None) -> dict[str, LazyTensor]:
    """A checkpoint with the values that its quantized layers compute with; names and layout stay.

    Args:
        tensors: of the checkpoint, by its names.
        layout: that of the checkpoint, one of name_map.LAYOUTS.
        dtype: of the tensors that change; None is each one's own.
    """
    changed = {}
    for name, tensor in tensors.items():
        target, transpose = to_paddle(name, layout) or ("", False)
        if _QUANTIZABLE.fullmatch(target):
            to = dtype or tensor.dtype
            tensor = _rounded(tensor.transposed(), name, to).transposed() if transpose else _rounded(tensor, name, to)
        changed[name] = tensor
    return changed


def _rounded(tensor: LazyTensor, name: str, dtype: str) -> LazyTensor:
    """A weight [in, out] quantized and dequantized, to `dtype`, when it is read."""

    def read() -> np.ndarray:
        layer = NF4Linear(*tensor.shape)
        layer.quantize(_pieces(tensor, name))
        return cast(layer.dequantize().numpy(), "float32", dtype, name)

    return replace(tensor, dtype=dtype, read=read)


def _reader(layer: NF4Linear, dtype: str):
    return lambda: layer.dequantize(dtype).numpy()

"""Quantized layers: filled from a checkpoint piece by piece, and read back as the tensors that they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import paddle
from paddle import nn

from paddle_xc2.checkpoint.lazy_tensor import BLOCK_BYTES, LazyTensor, cast, release_pages
from paddle_xc2.checkpoint.names import names_of_tensors
from paddle_xc2.models.lora import checkpoint_name, is_linear, layer_at, replace_layer
from paddle_xc2.models.nf4 import BLOCK, NF4Linear

QUANTIZATIONS = ("nf4",)
# Weights of the decoder's linear layers, PLoRA's not among them; norms have the same names and one dimension.
_QUANTIZABLE = re.compile(r"model\.layers\.\d+\.(?!.*\.plora_[ab]\.)[\w.]+\.weight")


def check_quantization(quantize: str | None) -> None:
    """Raises: ValueError for a format that there is not; None is none."""
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise ValueError(f'quantize "{quantize}" is not one of {", ".join(QUANTIZATIONS)}')


def quantizable_layers(model) -> dict[str, nn.Layer]:
    """The layers whose dense weight is quantized, or was, by the name of that weight: the decoder's linear ones.

    PLoRA, norms, embeddings, output head, vision encoder and projector stay as they are, as in QLoRA.
    """
    layers = {checkpoint_name(f"{path}.weight"): layer for path, layer in model.named_sublayers() if is_linear(layer)}
    return {name: layer for name, layer in layers.items() if _QUANTIZABLE.fullmatch(name)}


def fill_quantized(model, name: str, tensor: LazyTensor) -> None:
    """Puts a layer with the weight of a checkpoint in NF4 in the place of one; some blocks are in memory at a time.

    Args:
        name: of the weight, one of `quantizable_layers`.
        tensor: [in, out], any floating dtype; quantized from its own values, whatever precision the model computes in.
    """
    path = name.removesuffix(".weight")
    layer = NF4Linear(*tensor.shape, bias=layer_at(model, path).bias)
    layer.quantize(_pieces(tensor, name))
    replace_layer(model, path, layer)


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
    layers = {name: layer for name, layer in quantizable_layers(model).items() if isinstance(layer, NF4Linear)}
    return {
        name: LazyTensor(dtype, (layer.in_features, layer.out_features), _reader(layer, dtype))
        for name, layer in layers.items()
    }


def as_quantized(tensors: dict[str, LazyTensor], dtype: str | None = None) -> dict[str, LazyTensor]:
    """A checkpoint with the values that its quantized layers compute with; names and layout stay.

    Args:
        tensors: of the checkpoint, by its names.
        dtype: of the tensors that change; None is each one's own.
    """
    changed, (table, layout) = {}, names_of_tensors(tensors)
    for name, tensor in tensors.items():
        target, transpose = table.to_paddle(name, layout) or ("", False)
        if len(tensor.shape) == 2 and _QUANTIZABLE.fullmatch(target):
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

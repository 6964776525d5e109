"""An adapter's directory -> LoRA layers, rows of new tokens, and replaced parameters, of a model in memory."""

from __future__ import annotations

import math
from pathlib import Path

import paddle

from paddle_xc2.checkpoint.adapter_files import Adapter, LowRank, check_fits, read_adapter
from paddle_xc2.checkpoint.base_fingerprint import check_base
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.checkpoint.names import names_of
from paddle_xc2.checkpoint.shards import read_shard
from paddle_xc2.checkpoint.xtuner import with_our_prefixes
from paddle_xc2.hub.directory import ModelDirectory, open_model
from paddle_xc2.models.lora import (
    LoRALinear,
    is_linear,
    layer_at,
    merge_lora,
    named_parameters,
    remove_lora,
    replace_layer,
    weight_shape,
)
from paddle_xc2.models.token_rows import ROW_LAYERS, merge_rows, row_layers
from paddle_xc2.text.load_tokenizer import has_tokenizer, load_tokenizer
from paddle_xc2.weights.provenance import AdapterReport


def load_adapter(model, path: str | Path | ModelDirectory, adapter: Adapter | None = None) -> AdapterReport:
    """Applies an adapter to the model that it was trained on: see `apply_adapter`.

    Args:
        path: a directory in PEFT's or PaddleNLP's layout, a released name, or what `open_model` gave.
        adapter: what is in it, if it was read already.
    Raises: FileNotFoundError, or ValueError naming what does not fit, or if the adapter was trained on another model;
        then the model is as before.
    """
    directory = open_model(path)
    provenance = model.provenance
    if provenance.directory is not None and provenance.holds_the_weights:
        known = provenance.fingerprint
        provenance.fingerprint = check_base(directory, provenance.directory, "to from_pretrained", known)
    tokenizer = load_tokenizer(directory) if has_tokenizer(directory) else None
    provenance.adapter_report = apply_adapter(model, adapter or read_adapter(directory, read_shard), directory.path)
    provenance.tokenizer = tokenizer or provenance.tokenizer
    return provenance.adapter_report


@paddle.no_grad()
def apply_adapter(model, adapter: Adapter, where: Path, keep_replaced: bool = True) -> AdapterReport:
    """Wraps the layers that the adapter updates or holds rows of, and replaces the parameters that it holds whole.

    Args:
        model: XComposer2ForCausalLM without an adapter. Its provenance then names the parameters that the adapter
            holds whole, with the values that they had.
        where: the adapter, for messages.
        keep_replaced: whether those values are kept, for `unload_adapter`.
    Raises: ValueError if the model has an adapter already, if the adapter is empty, or if one of its tensors is not of
        this model; the model is then as before. If its numbers are not finite; then too, if `keep_replaced`.
    """
    if model.has_adapter:
        raise ValueError(f"{where}: the model has an adapter already; merge_adapter() or unload_adapter() first")
    adapter = with_our_prefixes(adapter, model.config)
    parameters, names = named_parameters(model), names_of(model.config.family)
    check_fits(adapter, _upstream_shapes(model), where)
    updates = {names.to_paddle(name)[0].removesuffix(".weight"): update for name, update in adapter.updates.items()}
    unwrappable = [path for path in updates if not is_linear(layer_at(model, path))]
    if unwrappable:
        raise ValueError(f"{where}: updates {unwrappable[0]}, which is no linear layer; merge the adapter with PEFT")
    rows = {names.to_paddle(name)[0].removesuffix(".weight"): rows for name, rows in adapter.rows.items()}
    unknown = [path for path in rows if path not in ROW_LAYERS or path in updates]
    if unknown:
        raise ValueError(
            f"{where}: holds rows of {unknown[0]}, which is no token table, or which it updates too; merge the adapter "
            "with PEFT"
        )
    model.provenance.rslora = adapter.rslora
    square = 0.0
    for path, update in updates.items():
        layer = _wrap(model, path, update, adapter.dropout)
        square += layer.change_norm() ** 2
    for name, tensor in adapter.replaced.items():
        ours, values = names.relabelled(name, tensor, "hf", "paddle")
        parameter = parameters[ours]
        before = parameter.clone()
        _set(parameter, values, name)
        square += float((parameter.astype("float32") - before.astype("float32")).square().sum())
        model.provenance.replaced[ours] = before if keep_replaced else None
    for path, (token_ids, tensor) in rows.items():
        layer = ROW_LAYERS[path](layer_at(model, path), token_ids, model.config.dtype)
        _set(layer.rows, tensor, path)
        square += float((layer.rows.astype("float32") - layer.base_rows().astype("float32")).square().sum())
        replace_layer(model, path, layer)
    if not math.isfinite(square):
        if keep_replaced:
            tokenizer = model.provenance.tokenizer
            unload_adapter(model)
            model.provenance.tokenizer = tokenizer
        raise ValueError(f"{where}: holds numbers that are not finite; its training went wrong, or the file is damaged")
    num_rows = sum(len(token_ids) for token_ids, _ in rows.values())
    return AdapterReport(len(updates), len(adapter.replaced), num_rows, math.sqrt(square))


def merge_adapter(model) -> None:
    """Writes the adapter's change into the weights; the model is then one without an adapter."""
    _check_has_adapter(model, "merge")
    merge_lora(model)
    merge_rows(model)
    model.provenance.replaced = {}
    model.provenance.holds_the_weights = False


@paddle.no_grad()
def unload_adapter(model) -> None:
    """Makes the model what it was before its adapter was loaded, to the bit."""
    _check_has_adapter(model, "unload")
    lost = [name for name, before in model.provenance.replaced.items() if before is None]
    if lost:
        raise ValueError(f"the base's values of {lost[0]} were not kept while training; load the base again")
    remove_lora(model)
    for path, layer in row_layers(model).items():
        replace_layer(model, path, layer.base)
    parameters = dict(model.named_parameters())
    for name, before in model.provenance.replaced.items():
        parameters[name].set_value(before)
    model.provenance.replaced = {}
    model.provenance.tokenizer = None


def _check_has_adapter(model, what: str) -> None:
    if not model.has_adapter:
        raise ValueError(f"the model has no adapter to {what}; load one with load_adapter(path)")


def _upstream_shapes(model) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's tensors under upstream's names and in upstream's layout, quantized weights included."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    shapes |= {f"{path}.weight": weight_shape(layer) for path, layer in model.named_sublayers() if is_linear(layer)}
    names = names_of(model.config.family)
    upstream = {name: names.to_hf(name) for name in shapes}
    return {
        upstream[name][0]: shape[::-1] if upstream[name][1] else shape
        for name, shape in shapes.items()
        if upstream[name] is not None
    }


def _wrap(model, path: str, update: LowRank, dropout: float) -> LoRALinear:
    base = layer_at(model, path)
    rank = update.a.shape[0]
    layer = LoRALinear(base, rank, update.scale, dropout, update.magnitude is not None, model.config.dtype)
    _set(layer.lora_a, update.a.transposed(), path)
    _set(layer.lora_b, update.b.transposed(), path)
    if update.magnitude is not None:
        _set(layer.magnitude, update.magnitude, path)
    layer.training = base.training
    layer.dropout.training = base.training
    replace_layer(model, path, layer)
    return layer


def _set(parameter, tensor: LazyTensor, name: str) -> None:
    parameter.set_value(paddle.to_tensor(tensor.load("float32", name)).astype(parameter.dtype))

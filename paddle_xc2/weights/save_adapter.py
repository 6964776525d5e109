"""LoRA layers, rows of tokens, and what learned beside them, of a model in memory -> a directory in PEFT's layout."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

from paddle_xc2.checkpoint.base_fingerprint import base_fingerprint
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor, check_dtype, tensor_in_memory
from paddle_xc2.checkpoint.manifest import write_manifest
from paddle_xc2.checkpoint.name_table import NameTable
from paddle_xc2.checkpoint.names import names_of
from paddle_xc2.checkpoint.safetensors_file import write_tensors
from paddle_xc2.checkpoint.whole_directory import whole_directory
from paddle_xc2.families.asked_as import SETTINGS
from paddle_xc2.files.json_file import write_json
from paddle_xc2.files.local_path import local_path
from paddle_xc2.hub.adapter_origin import AdapterOrigin
from paddle_xc2.hub.directory import ADAPTER_CONFIG_FILE, ADAPTER_ORIGIN_FILE
from paddle_xc2.hub.weight_files import ADAPTER_FILES
from paddle_xc2.models.lora import LoRALinear, is_linear, lora_layers, named_parameters
from paddle_xc2.models.token_rows import row_layers

_PREFIX = "base_model.model."


def save_adapter(model, directory: str | Path, overwrite: bool = True, dtype: str | None = None) -> None:
    """Writes the model's adapter: adapter_config.json, adapter_model.safetensors, and a file of our own of its origin.

    PEFT reads it but for PLoRA and the separators of tiles, if these were trained: PEFT mistakes their names for its
    own. `merge` makes a checkpoint of all that every program reads. A tokenizer with new tokens is written beside it.

    Args:
        model: XComposer2ForCausalLM with LoRA layers, or parameters that its provenance says are replaced.
        overwrite: as `whole_directory`.
        dtype: "float32", "bfloat16" or "float16"; None is each parameter's own.
    Raises: ValueError as `whole_directory`, for values that don't fit into `dtype`, or if there is nothing to write.
    """
    check_dtype(dtype)
    tensors = {name: tensor.as_dtype(dtype or tensor.dtype, name) for name, tensor in adapter_tensors(model).items()}
    if not tensors:
        raise ValueError("the model has no adapter to save")
    destination = local_path(directory).resolve()
    with whole_directory(destination, overwrite) as partial:
        if model.provenance.tokenizer is not None:
            model.provenance.tokenizer.save_pretrained(partial)
        digest = write_tensors(partial / ADAPTER_FILES[0], tensors, "pt")
        write_json(partial / ADAPTER_CONFIG_FILE, peft_config(model))
        write_json(partial / ADAPTER_ORIGIN_FILE, _origin(model, destination).as_json())
        write_manifest(partial, "adapter", model.provenance.base_name, {ADAPTER_FILES[0]: digest})


def adapter_tensors(model) -> dict[str, LazyTensor]:
    """Everything that belongs to the adapter under PEFT's names and in PyTorch's layout."""
    tensors, names = {}, names_of(model.config.family)
    for path, layer in lora_layers(model).items():
        module = _PREFIX + _upstream_module(path, names)
        tensors[f"{module}.lora_A.weight"] = tensor_in_memory(layer.lora_a).transposed()
        tensors[f"{module}.lora_B.weight"] = tensor_in_memory(layer.lora_b).transposed()
        if layer.magnitude is not None:
            tensors[f"{module}.lora_magnitude_vector"] = tensor_in_memory(layer.magnitude)
    for path, layer in row_layers(model).items():
        name = f"{_PREFIX}{_upstream_module(path, names)}.token_adapter.trainable_tokens_delta"
        tensors[name] = tensor_in_memory(layer.rows)
    parameters = named_parameters(model)
    for name in model.provenance.replaced:
        upstream, tensor = names.relabelled(name, tensor_in_memory(parameters[name]), "paddle", "hf")
        tensors[_PREFIX + upstream] = tensor
    return tensors


def peft_config(model) -> dict:
    """adapter_config.json: the keys of peft 0.12, which later ones read too; with rows of tokens, one of 0.15 too."""
    names = names_of(model.config.family)
    layers = {_upstream_module(path, names): layer for path, layer in lora_layers(model).items()}
    rslora = model.provenance.rslora
    ranks = {module: layer.rank for module, layer in layers.items()}
    alphas = {module: _alpha(layer, rslora) for module, layer in layers.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] if values else 8 for values in (ranks, alphas))
    rows = {_upstream_module(path, names): list(layer.token_ids) for path, layer in row_layers(model).items()}
    return {
        **({"trainable_token_indices": rows} if rows else {}),
        "alpha_pattern": {module: value for module, value in alphas.items() if value != alpha},
        "auto_mapping": None,
        "base_model_name_or_path": model.provenance.base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": alpha,
        "lora_dropout": max((float(layer.dropout.p) for layer in layers.values()), default=0.0),
        "modules_to_save": _modules_to_save(model) or None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {module: value for module, value in ranks.items() if value != rank},
        "revision": None,
        "target_modules": _target_modules(model, set(layers)),
        "task_type": "CAUSAL_LM",
        "use_dora": any(layer.magnitude is not None for layer in layers.values()),
        "use_rslora": rslora,
    }


def _origin(model, destination: Path) -> AdapterOrigin:
    """What PEFT's files have no place for: where the base is and which one it is, and how the model is to be asked."""
    provenance, relative, fingerprint = model.provenance, None, None
    if provenance.directory is not None:
        relative = os.path.relpath(provenance.directory.path.resolve(), destination)
        if provenance.holds_the_weights:
            fingerprint = provenance.fingerprint or base_fingerprint(provenance.directory)
    settings = {name: getattr(model.config, name) for name in SETTINGS}
    return AdapterOrigin(provenance.base_name, relative, provenance.quantization, fingerprint, settings)


def _upstream_module(path: str, names: NameTable) -> str:
    return names.to_hf(f"{path}.weight")[0].removesuffix(".weight")


def _alpha(layer: LoRALinear, rslora: bool) -> float:
    """The alpha that gives the layer's scaling; without the last digit's noise of dividing and multiplying."""
    alpha = round(layer.scaling * (math.sqrt(layer.rank) if rslora else layer.rank), 9)
    return int(alpha) if alpha == int(alpha) else alpha


def _target_modules(model, wrapped: set[str]) -> list[str]:
    """Ends of names that PEFT finds exactly the wrapped modules by, or whole names where no end does."""
    paths = {path.removesuffix(".base") for path, layer in model.named_sublayers() if is_linear(layer)}
    names = names_of(model.config.family)
    modules = {_upstream_module(path, names) for path in paths if names.to_hf(f"{path}.weight") is not None} | wrapped
    targets = set()
    for module in wrapped:
        end = ".".join(module.split(".")[-2:])
        named_so = {other for other in modules if other == end or other.endswith(f".{end}")}
        targets.add(end if named_so <= wrapped else module)
    return sorted(targets)


def _modules_to_save(model) -> list[str]:
    """The modules of upstream's model whose tensors are saved whole; a whole part by its own name."""
    names = names_of(model.config.family)
    upstream = {name: names.to_hf(name)[0] for name in named_parameters(model) if names.to_hf(name) is not None}
    saved = {upstream[name] for name in model.provenance.replaced}
    modules = set()
    for part in ("vit", "vision_proj"):
        inside = {name for name in upstream.values() if name.startswith(f"{part}.")}
        if inside and inside <= saved:
            modules.add(part)
            saved -= inside
    owners = {name.rpartition(".")[0] for name in saved}
    return sorted(modules | {owner for owner in owners if owner and "Plora_" not in owner})

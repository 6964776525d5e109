"""LoRA in a fine-tuning run: which layers it wraps, and what learns whole beside it.

Defaults are those of upstream's LoRA script: the five linear layers of every decoder layer, rank 64, alpha 64, dropout
0.05, everything else frozen. There, `fix_vit` and `fix_sampler` have no effect with LoRA, and what they would train is
not saved; here they are honoured, and what is trained is in the adapter.
"""

from __future__ import annotations

import re

from paddle_xc2 import runtime
from paddle_xc2.checkpoint.adapter_files import read_adapter
from paddle_xc2.checkpoint.name_table import NameTable
from paddle_xc2.checkpoint.names import names_of
from paddle_xc2.checkpoint.shards import read_shard
from paddle_xc2.families.table import Family
from paddle_xc2.hub.directory import ModelDirectory
from paddle_xc2.messages import counted
from paddle_xc2.models.lora import LoRALinear, is_linear, layer_at, lora_layers, lora_scaling, replace_layer
from paddle_xc2.models.token_rows import is_rows
from paddle_xc2.text.load_tokenizer import has_tokenizer, load_tokenizer
from paddle_xc2.weights.load_adapter import apply_adapter

# Names for the linear layers of a part; those that never run are not among them.
PRESETS = ("language_model", "vit", "projector", "output")
DEFAULT_TARGETS = ("language_model",)


def check_starts_from_a_base(arguments, directory: ModelDirectory) -> None:
    """Raises: ValueError if `directory`, model_name_or_path, holds an adapter: it has a key of its own."""
    if not directory.is_adapter:
        return
    if arguments.lora:
        raise ValueError(_has_one_already(arguments))
    raise ValueError(
        f"model_name_or_path {directory} is an adapter, which can't be trained whole; merge it first (paddle-xc2 "
        'merge), or set "lora": true with its base as model_name_or_path and it as lora_path'
    )


def _has_one_already(arguments) -> str:
    return (
        f"model_name_or_path {arguments.model_name_or_path} has an adapter already; go on training it with lora_path, "
        "or merge it first: paddle-xc2 merge"
    )


def add_lora(model, arguments) -> None:
    """Wraps the layers that `lora_target_modules` names with new LoRA layers, which change nothing yet.

    Args:
        model: XComposer2ForCausalLM without an adapter.
        arguments: FinetuneArguments.
    Raises: ValueError for a target that names no layer.
    """
    if model.has_adapter:
        raise ValueError(_has_one_already(arguments))
    model.provenance.rslora = arguments.rslora
    runtime.set_seed(arguments.seed)  # the same on every process
    paths = target_layers(model, arguments.lora_target_modules or DEFAULT_TARGETS)
    for name in ("vit_lora_rank", "vit_lora_alpha"):
        if getattr(arguments, name) is not None and not any(path.startswith("vit.") for path in paths):
            raise ValueError(
                f'"{name}" is set, but lora_target_modules names no layer of the vision encoder; add "vit" to it, or '
                f"leave {name} out"
            )
    for path in paths:
        rank, alpha = arguments.lora_rank, arguments.lora_alpha
        if path.startswith("vit."):
            rank, alpha = arguments.vit_lora_rank or rank, arguments.vit_lora_alpha or alpha
        scaling = lora_scaling(alpha, rank, arguments.rslora)
        settings = (rank, scaling, arguments.lora_dropout, arguments.use_dora)
        replace_layer(model, path, LoRALinear(layer_at(model, path), *settings))


def continue_adapter(model, directory: ModelDirectory, arguments) -> None:
    """Applies an adapter and takes its tokenizer, if it has one, to go on training it with this run's dropout.

    Raises: as `apply_adapter`.
    """
    apply_adapter(model, read_adapter(directory, read_shard), directory.path, keep_replaced=False)
    if has_tokenizer(directory):
        model.provenance.tokenizer = load_tokenizer(directory)
    for layer in lora_layers(model).values():
        layer.dropout.p = arguments.lora_dropout


def check_continues(model, directory, arguments) -> None:
    """Args:
        model: with the adapter of `directory`, which lora_path names.
    Raises: ValueError naming what is set otherwise than in the adapter, which decides it.
    """
    layers, rslora = lora_layers(model), model.provenance.rslora
    wrong = []
    if arguments.rslora and not rslora:
        wrong.append('"rslora" is true, and its updates are scaled by alpha / rank')
    if arguments.use_dora and not any(layer.magnitude is not None for layer in layers.values()):
        wrong.append('"use_dora" is true, and it is LoRA')
    if targets := arguments.lora_target_modules:
        targeted = set(target_layers(model, targets))
        if lacking := sorted(targeted - layers.keys()):
            wrong.append(f'"lora_target_modules" names {counted(len(lacking), "layer")} like {lacking[0]} without any')
        if others := sorted(path for path in layers.keys() - targeted if not path.startswith(_idle(model))):
            wrong.append(f'"lora_target_modules" leaves out {counted(len(others), "layer")} like {others[0]}')
    of_vit = [layer for path, layer in layers.items() if path.startswith("vit.")]
    rank, alpha = arguments.vit_lora_rank, arguments.vit_lora_alpha
    if rank is not None and {layer.rank for layer in of_vit} != {rank}:
        wrong.append(f'"vit_lora_rank" is {rank}, and it has another, or none')
    scales = {lora_scaling(alpha, layer.rank, rslora) / layer.scaling for layer in of_vit} if alpha else {1.0}
    if alpha is not None and (not of_vit or any(abs(scale - 1) > 1e-6 for scale in scales)):
        wrong.append(f'"vit_lora_alpha" is {alpha:g}, and it has another, or none')
    if wrong:
        raise ValueError(f"lora_path {directory} goes on as it is, but {'; '.join(wrong)}; leave that out")


def remember_trained(model) -> None:
    """Notes what learns whole, for it to be saved with the adapter; what an earlier adapter held whole stays noted."""
    learning = {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    whole = {name for name in learning if not is_rows(name)}
    own = {f"{path}.{name}" for path, layer in lora_layers(model).items() for name, _ in layer.named_parameters()}
    model.provenance.replaced |= dict.fromkeys(sorted(whole - own - model.provenance.replaced.keys()))


def target_layers(model, targets) -> list[str]:
    """Paths of the linear layers that the targets name, in the model's order.

    A target is one of PRESETS, the name or the end of the name of a module, or a regular expression for a whole name;
    names are upstream's (as in PEFT) or ours (as in PaddleNLP). PLoRA's matrices are never among them; layers that
    never run are among those of a name or an expression, not of a preset: no update of them would learn anything.

    Raises: ValueError for a target that names nothing, listing what there is.
    """
    paths = (path for path, layer in model.named_sublayers() if is_linear(layer))
    table = names_of(model.config.family)
    layers = {
        path: _names(table, path) for path in (re.sub(r"(\.base)+$", "", path) for path in paths)
    }  # wrapped, or not
    layers = {path: names for path, names in layers.items() if not re.search(r"\.plora_[ab]$", path)}
    idle, presets = _idle(model), _presets(model.config.family)
    chosen: set[str] = set()
    for target in targets:
        pattern = presets.get(target, target)
        found = {path for path, names in layers.items() if any(_matches(pattern, name) for name in names)}
        if target in PRESETS:
            found = {path for path in found if not path.startswith(idle)}
        if not found:
            like = sorted({re.sub(r"\.\d+\.", ".*.", names[0]) for names in layers.values()})
            raise ValueError(
                f'lora_target_modules: "{target}" names no linear layer; it may be {", ".join(PRESETS)}, or a name, '
                f"the end of a name or a regular expression for one of {', '.join(like)}"
            )
        chosen |= found
    return [path for path in layers if path in chosen]


def _presets(family: Family) -> dict[str, str]:
    """What PRESETS stand for, as patterns of our names: of the decoder, the layers that upstream's LoRA updates."""
    decoder = "|".join(map(re.escape, family.lora_targets))
    patterns = (rf"model\.layers\.\d+\.({decoder})(\.linear)?", r"vit\..*", r"vision_proj\..*", "output")
    return dict(zip(PRESETS, patterns, strict=True))


def _idle(model) -> tuple[str, ...]:
    """What the paths of layers that never run begin with: LLaVA takes what enters the last of its vision encoder."""
    return tuple(f"vit.layers.{index}." for index in range(model.vit.num_layers_run, len(model.vit.layers)))


def _names(table: NameTable, path: str) -> list[str]:
    """A layer's name upstream, and here with and without the member that holds a PLoRA layer's weight."""
    return [table.to_hf(f"{path}.weight")[0].removesuffix(".weight"), path, path.removesuffix(".linear")]


def _matches(target: str, name: str) -> bool:
    if name == target or name.endswith(f".{target}"):
        return True
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise ValueError(f'lora_target_modules: "{target}" is no regular expression ({error})') from None

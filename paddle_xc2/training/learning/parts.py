"""Which parameters learn, and how fast."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from paddle_xc2.models.lora import is_lora, lora_layers, named_parameters
from paddle_xc2.models.nf4 import NF4Linear
from paddle_xc2.models.token_rows import is_rows, row_layers
from paddle_xc2.training.learning.add_lora import remember_trained

# Parts of the model, by the names of their parameters; the first pattern that matches decides.
MODEL_PARTS = (
    ("PLoRA", r"model\..*\.plora_[ab]\."),
    ("embeddings", r"(model\.tok_embeddings|output)\."),  # the output head is one of them
    ("language model", r"model\."),
    ("ViT", r"vit\."),
    ("projector", r"vision_proj\."),
    ("other", r""),  # the separators of families with tiles
)
LORA, TOKENS = "LoRA", "rows of tokens"
# Arguments that hold the learning rate of a part.
PART_LEARNING_RATES = {
    "ViT": "vit_lr",
    "projector": "mm_projector_lr",
    "PLoRA": "plora_lr",
    "other": "separators_lr",
    "embeddings": "embeddings_lr",
}


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to; of LoRA's own, the part that it updates."""
    return next(part for part, pattern in MODEL_PARTS if re.match(pattern, name))


def choose_trainable(model, arguments) -> dict[str, tuple[int, int]]:
    """Sets what learns, and how fast. Returns: as `set_trainable`. Raises: as it, and for a part that is not there."""
    beside_lora = None
    if arguments.lora:
        keys = {"PLoRA": "train_plora", "other": "train_separators", "embeddings": "train_embeddings"}
        beside_lora = [part for part, key in keys.items() if getattr(arguments, key)]
    patterns = (arguments.freeze_include, arguments.freeze_exclude)
    learning = set_trainable(model, arguments.fix_vit, arguments.fix_sampler, *patterns, beside_lora)
    for part in beside_lora or ():
        if part not in learning:
            raise ValueError(f'"{keys[part]}" is true, but {model.config.family.name} has none; leave it out')
    set_learning_rates(model, arguments)
    if arguments.lora:
        remember_trained(model)
    return learning


def set_trainable(
    model, fix_vit: bool = False, fix_sampler: bool = False, freeze_include=None, freeze_exclude=None, beside_lora=None
) -> dict[str, tuple[int, int]]:
    """Sets `stop_gradient` of every parameter.

    `fix_vit` and `fix_sampler` freeze the vision encoder and the projector. Then patterns (fnmatch, on whole names)
    freeze what only `freeze_include` matches and free what only `freeze_exclude` matches, as in PaddleMIX.

    Args:
        beside_lora: parts that learn whole beside LoRA, of "PLoRA", "embeddings" and "other", in a run that trains
            LoRA: its own parameters and rows of tokens learn always, the language model never. None is a run without
            LoRA, in which all of them learn.
    Returns: {part: (parameters that learn, all its parameters)}, counted in numbers; LoRA and rows of tokens are parts.
    Raises: ValueError for a pattern that matches no parameter, if nothing is left to learn, or if a layer is to learn
        both whole and by LoRA.
    """
    named = named_parameters(model)
    include = _matches(freeze_include, named, "freeze_include")
    exclude = _matches(freeze_exclude, named, "freeze_exclude")
    counts = dict.fromkeys((LORA, TOKENS, *(part for part, _ in MODEL_PARTS)), (0, 0))
    for name, parameter in named.items():
        part = LORA if is_lora(name) else TOKENS if is_rows(name) else part_of(name)
        frozen = part == "ViT" and fix_vit or part == "projector" and fix_sampler
        if beside_lora is not None and part not in (LORA, TOKENS, "ViT", "projector"):
            frozen = part not in beside_lora
        if (name in include) != (name in exclude):
            frozen = name in include
        parameter.stop_gradient = bool(frozen)
        size = parameter.size
        counts[part] = (counts[part][0] + size * (not frozen), counts[part][1] + size)
    for path, layer in model.named_sublayers():
        if isinstance(layer, NF4Linear):  # its weight is no parameter
            learning, size = counts[part_of(path)]
            counts[part_of(path)] = (learning, size + layer.in_features * layer.out_features)
    if not any(learning for learning, _ in counts.values()):
        raise ValueError("every parameter is frozen, nothing is left to train; check freeze_include")
    _check_not_both(model)
    return {part: count for part, count in counts.items() if count[1]}


_HOW_TO_FREEZE = {
    "ViT": 'set "fix_vit": true',
    "projector": 'set "fix_sampler": true',
    "embeddings": 'set "train_embeddings": false',
}


def _check_not_both(model) -> None:
    for path, layer in lora_layers(model).items():
        if any(not parameter.stop_gradient for parameter in layer.base.parameters()):
            part = part_of(f"{path}.")
            freeze = _HOW_TO_FREEZE.get(part, f'take "{path}.*" out of freeze_exclude')
            raise ValueError(
                f"{path} would learn whole and by LoRA at once; {freeze}, or leave the {part} out of "
                "lora_target_modules"
            )
    for path, layer in row_layers(model).items():
        if any(not parameter.stop_gradient for parameter in layer.base.parameters()):
            raise ValueError(
                f"{path} would learn whole and in rows at once; take it out of freeze_exclude, or set "
                '"train_tokens": []'
            )


_HOW_TO_LEARN = {
    "ViT": 'set "fix_vit": false, or ',
    "projector": 'set "fix_sampler": false, or ',
    "PLoRA": 'set "train_plora": true, or ',
}
_SPOKEN = {"other": "separators"}


def set_learning_rates(model, arguments) -> None:
    """Gives every parameter its factor of the run's learning rate: by part, and of LoRA's B by lora_plus_scale.

    Args:
        arguments: FinetuneArguments.
    Raises: ValueError for a learning rate of a part of which nothing learns.
    """
    named = named_parameters(model)
    learning = {part_of(name) for name, parameter in named.items() if not parameter.stop_gradient}
    for part, key in PART_LEARNING_RATES.items():
        # Rows of the tables learn by need: where the data needs none, their learning rate asks for nothing wrong.
        by_need = part == "embeddings" and arguments.lora and arguments.train_tokens is None
        if getattr(arguments, key) is not None and part not in learning and not by_need:
            how = _HOW_TO_LEARN.get(part, "")
            raise ValueError(
                f'"{key}" is {getattr(arguments, key):g}, but nothing of the {_SPOKEN.get(part, part)} learns; '
                f"{how}leave {key} out"
            )
    for name, parameter in named.items():
        own = getattr(arguments, PART_LEARNING_RATES.get(part_of(name), ""), None)
        factor = 1.0 if own in (None, arguments.learning_rate) else own / arguments.learning_rate
        if name.endswith(".lora_b"):
            factor *= arguments.lora_plus_scale  # LoRA+, arXiv:2402.12354
        parameter.optimize_attr["learning_rate"] = factor


def _matches(patterns, names, key: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns or ():
        matching = {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            candidates = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names})
            like = ", ".join(candidates)
            raise ValueError(f'{key}: the pattern "{pattern}" matches no parameter; names are like {like}')
        found |= matching
    return found


def trainable_table(counts: dict[str, tuple[int, int]]) -> list[str]:
    """Lines of a table of what `set_trainable` returned."""
    total = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    return [
        f"{part:<16}{learning:>14,} of {size:>14,}{'' if learning else '   frozen'}"
        for part, (learning, size) in [*counts.items(), ("all", total)]
    ]

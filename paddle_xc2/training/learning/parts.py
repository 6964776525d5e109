"""Which parameters learn, and how fast."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

from paddle_xc2.models.lora import is_lora, lora_layers, named_parameters
from paddle_xc2.models.nf4 import NF4Linear
from paddle_xc2.models.token_rows import is_rows, row_layers
from paddle_xc2.training.learning.add_lora import remember_trained


class Part(NamedTuple):
    """A part of the model, and the keys of the argument file that are about it.

    Attributes:
        name: as the plan shows it.
        pattern: that names of its parameters begin with; the first part that matches has a parameter.
        learning_rate: the key of its learning rate.
        fix: the key that keeps it as it is.
        beside_lora: the key with which it learns whole beside LoRA; without LoRA it learns in any case.
        spoken: what messages call it, if that is another name.
    """

    name: str
    pattern: str
    learning_rate: str | None = None
    fix: str | None = None
    beside_lora: str | None = None
    spoken: str | None = None


MODEL_PARTS = (
    Part("PLoRA", r"model\..*\.plora_[ab]\.", "plora_lr", beside_lora="train_plora"),
    # The output head is one of them.
    Part("embeddings", r"(model\.tok_embeddings|output)\.", "embeddings_lr", beside_lora="train_embeddings"),
    Part("language model", r"model\."),
    # With what makes image tokens of the resampler's output: Qwen-VL's finetune.py freezes that with its ViT.
    Part("ViT", r"vit\.|vision_proj\.(ln_post\.|proj$)", "vit_lr", fix="fix_vit"),
    Part("projector", r"vision_proj\.", "mm_projector_lr", fix="fix_sampler"),
    # Of families with tiles.
    Part("other", r"", "separators_lr", beside_lora="train_separators", spoken="separators"),
)
LORA, TOKENS = "LoRA", "rows of tokens"


def part_of(name: str) -> Part:
    """The part of the model that a parameter belongs to; of LoRA's own, the part that it updates."""
    return next(part for part in MODEL_PARTS if re.match(part.pattern, name))


def choose_trainable(model, arguments) -> dict[str, tuple[int, int]]:
    """Sets what learns, and how fast. Returns: as `set_trainable`. Raises: as it, and for a part that is not there."""
    beside_lora = None
    if arguments.lora:
        beside_lora = [part for part in MODEL_PARTS if part.beside_lora and getattr(arguments, part.beside_lora)]
    patterns = (arguments.freeze_include, arguments.freeze_exclude)
    names = None if beside_lora is None else [part.name for part in beside_lora]
    learning = set_trainable(model, arguments.fix_vit, arguments.fix_sampler, *patterns, names)
    for part in beside_lora or ():
        if part.name not in learning:
            raise ValueError(f'"{part.beside_lora}" is true, but {model.config.family.name} has none; leave it out')
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
    counts = dict.fromkeys((LORA, TOKENS, *(part.name for part in MODEL_PARTS)), (0, 0))
    for name, parameter in named.items():
        part = LORA if is_lora(name) else TOKENS if is_rows(name) else part_of(name).name
        frozen = part == "ViT" and fix_vit or part == "projector" and fix_sampler or name in model.fixed
        if beside_lora is not None and part not in (LORA, TOKENS, "ViT", "projector"):
            frozen = part not in beside_lora
        if (name in include) != (name in exclude):
            frozen = name in include
        parameter.stop_gradient = bool(frozen)
        size = parameter.size
        counts[part] = (counts[part][0] + size * (not frozen), counts[part][1] + size)
    for path, layer in model.named_sublayers():
        if isinstance(layer, NF4Linear):  # its weight is no parameter
            part = part_of(path).name
            counts[part] = (counts[part][0], counts[part][1] + layer.in_features * layer.out_features)
    if not any(learning for learning, _ in counts.values()):
        raise ValueError("every parameter is frozen, nothing is left to train; check freeze_include")
    _check_not_both(model)
    return {part: count for part, count in counts.items() if count[1]}


def _check_not_both(model) -> None:
    for path, layer in lora_layers(model).items():
        if any(not parameter.stop_gradient for parameter in layer.base.parameters()):
            part = part_of(f"{path}.")
            freeze = f'take "{path}.*" out of freeze_exclude'
            if part.fix:
                freeze = f'set "{part.fix}": true'
            elif part.beside_lora:
                freeze = f'set "{part.beside_lora}": false'
            raise ValueError(
                f"{path} would learn whole and by LoRA at once; {freeze}, or leave the {part.name} out of "
                "lora_target_modules"
            )
    for path, layer in row_layers(model).items():
        if any(not parameter.stop_gradient for parameter in layer.base.parameters()):
            raise ValueError(
                f"{path} would learn whole and in rows at once; take it out of freeze_exclude, or set "
                '"train_tokens": []'
            )


def set_learning_rates(model, arguments) -> None:
    """Gives every parameter its factor of the run's learning rate: by part, and of LoRA's B by lora_plus_scale.

    Args:
        arguments: FinetuneArguments.
    Raises: ValueError for a learning rate of a part of which nothing learns.
    """
    named = named_parameters(model)
    learning = {part_of(name) for name, parameter in named.items() if not parameter.stop_gradient}
    for part, own in part_learning_rates(arguments).items():
        # Rows of the tables learn by need: where the data needs none, their learning rate asks for nothing wrong.
        by_need = part.name == "embeddings" and arguments.lora and arguments.train_tokens is None
        if part not in learning and not by_need:
            raise ValueError(
                f'"{part.learning_rate}" is {own:g}, but nothing of the {part.spoken or part.name} learns; '
                f"{_how_to_learn(part, arguments.lora)}leave {part.learning_rate} out"
            )
    for name, parameter in named.items():
        own = part_learning_rates(arguments).get(part_of(name))
        factor = 1.0 if own in (None, arguments.learning_rate) else own / arguments.learning_rate
        if name.endswith(".lora_b"):
            factor *= arguments.lora_plus_scale  # LoRA+, arXiv:2402.12354
        parameter.optimize_attr["learning_rate"] = factor


def part_learning_rates(arguments) -> dict[Part, float]:
    """Those that are set."""
    rates = {part: getattr(arguments, part.learning_rate) for part in MODEL_PARTS if part.learning_rate}
    return {part: rate for part, rate in rates.items() if rate is not None}


def _how_to_learn(part: Part, lora: bool) -> str:
    if part.fix:
        return f'set "{part.fix}": false, or '
    return f'set "{part.beside_lora}": true, or ' if lora and part.beside_lora else ""


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

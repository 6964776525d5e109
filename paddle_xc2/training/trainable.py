"""Which parameters learn."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

# Parts of the model, by the names of their parameters; the first pattern that matches decides.
PARTS = (
    ("PLoRA", r"model\..*\.plora_[ab]\."),
    ("language model", r"(model|output)\."),
    ("ViT", r"vit\."),
    ("projector", r"vision_proj\."),
    ("other", r""),  # the separators of families with tiles
)


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to."""
    return next(part for part, pattern in PARTS if re.match(pattern, name))


def set_trainable(
    model, fix_vit: bool = False, fix_sampler: bool = False, freeze_include=None, freeze_exclude=None
) -> dict[str, tuple[int, int]]:
    """Sets `stop_gradient` of every parameter.

    `fix_vit` and `fix_sampler` freeze the vision encoder and the projector. Then patterns (fnmatch, on whole names)
    freeze what only `freeze_include` matches and free what only `freeze_exclude` matches, as in PaddleMIX.

    Returns: {part: (parameters that learn, all its parameters)}, counted in numbers.
    Raises: ValueError for a pattern that matches no parameter, or if nothing is left to learn.
    """
    named = dict(model.named_parameters())
    include = _matches(freeze_include, named, "freeze_include")
    exclude = _matches(freeze_exclude, named, "freeze_exclude")
    counts = {part: (0, 0) for part, _ in PARTS}
    for name, parameter in named.items():
        part = part_of(name)
        frozen = part == "ViT" and fix_vit or part == "projector" and fix_sampler
        if (name in include) != (name in exclude):
            frozen = name in include
        parameter.stop_gradient = bool(frozen)
        size = parameter.size
        counts[part] = (counts[part][0] + size * (not frozen), counts[part][1] + size)
    if not any(learning for learning, _ in counts.values()):
        raise ValueError("every parameter is frozen, nothing is left to train; check freeze_include")
    return {part: count for part, count in counts.items() if count[1]}


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

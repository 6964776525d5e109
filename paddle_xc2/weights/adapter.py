"""LoRA adapters in PEFT's layout: what they change, and a checkpoint with the change merged in.

Follows arXiv:2106.09685 and PEFT's files: adapter_config.json and adapter_model.safetensors (or .bin).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddle_xc2.checkpoint_config import ADAPTER_CONFIG_FILE, read_json
from paddle_xc2.weights.lazy_tensor import LazyTensor, cast

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# PEFT writes ".default" into names of a model in memory, which XTuner's checkpoints keep.
_LORA_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_PEFT_PREFIX = "base_model.model."


class LowRank(NamedTuple):
    """An update of a weight: `scale` * b @ a.

    Attributes:
        a: float [rank, in].
        b: float [out, rank].
        scale: alpha / rank, or alpha / sqrt(rank).
    """

    a: LazyTensor
    b: LazyTensor
    scale: float


@dataclass
class Adapter:
    """What training changed of a base.

    Attributes:
        updates: low-rank updates by the name of the weight.
        replaced: whole tensors by name.
        base: what the adapter says it was trained on: a name or a path; "" if it doesn't say.
    """

    updates: dict[str, LowRank] = field(default_factory=dict)
    replaced: dict[str, LazyTensor] = field(default_factory=dict)
    base: str = ""


def read_adapter(directory: Path, read_shard) -> Adapter:
    """An adapter directory of PEFT's.

    Args:
        read_shard: file -> {name: LazyTensor}.
    Raises: FileNotFoundError, or ValueError for what can't be merged exactly.
    """
    config = read_json(directory / ADAPTER_CONFIG_FILE)
    path = next((directory / name for name in ADAPTER_FILES if (directory / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{directory}: there is no {' or '.join(ADAPTER_FILES)}; copy the whole adapter")
    for key, neutral in (("peft_type", "LORA"), ("use_dora", False), ("bias", "none"), ("fan_in_fan_out", False)):
        if config.get(key, neutral) != neutral:
            raise ValueError(
                f"{directory / ADAPTER_CONFIG_FILE}: {key} is {config[key]!r}, only {neutral!r} is supported"
            )
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            raise ValueError(f"{directory / ADAPTER_CONFIG_FILE}: {key} is not supported; merge the adapter with PEFT")
    alpha, rslora = config.get("lora_alpha", 8), config.get("use_rslora", False)
    tensors = {name.removeprefix(_PEFT_PREFIX): tensor for name, tensor in read_shard(path).items()}
    adapter = split_updates(tensors, lambda rank: alpha / (math.sqrt(rank) if rslora else rank), path)
    adapter.base = config.get("base_model_name_or_path") or ""
    return adapter


def split_updates(tensors: dict[str, LazyTensor], scale_of, where: Path) -> Adapter:
    """Pairs lora_A with lora_B; everything else replaces a tensor of its name.

    Args:
        tensors: by names without PEFT's prefix.
        scale_of: rank -> factor of the update.
        where: the file, for messages.
    Raises: ValueError for half a pair, or a pair that doesn't fit together.
    """
    adapter, halves = Adapter(), {}
    for name, tensor in tensors.items():
        found = _LORA_NAME.fullmatch(name)
        if found is None:
            adapter.replaced[name] = tensor
        else:
            halves.setdefault(f"{found['module']}.weight", {})[found["side"]] = tensor
    for name, sides in halves.items():
        if sides.keys() != {"A", "B"}:
            raise ValueError(f"{where}: {name} has a lora_{next(iter(sides))} without its other half; copy it again")
        a, b = sides["A"], sides["B"]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise ValueError(f"{where}: lora_A {list(a.shape)} and lora_B {list(b.shape)} of {name} don't fit together")
        adapter.updates[name] = LowRank(a, b, scale_of(a.shape[0]))
    return adapter


def merge(tensors: dict[str, LazyTensor], adapter: Adapter, where: Path) -> dict[str, LazyTensor]:
    """The base with the adapter's change in it; computed in float32 when a tensor is read, in the base's dtype.

    Raises: ValueError if the adapter changes a tensor that the base doesn't have, or one of another shape.
    """
    merged = dict(tensors)
    shapes = {name: (update.b.shape[0], update.a.shape[1]) for name, update in adapter.updates.items()}
    shapes |= {name: tensor.shape for name, tensor in adapter.replaced.items()}
    wrong = [name for name, shape in shapes.items() if name not in tensors or tensors[name].shape != tuple(shape)]
    if wrong:
        name = wrong[0]
        found = f"is {list(tensors[name].shape)} there" if name in tensors else "is not there"
        raise ValueError(
            f"{where}: {len(wrong)} of its {len(shapes)} tensors don't fit the base model, first {name} "
            f"{list(shapes[name])}, which {found}; was it trained on another base?"
        )
    merged |= adapter.replaced
    for name, update in adapter.updates.items():
        base = tensors[name]
        merged[name] = LazyTensor(base.dtype, base.shape, _reader(name, base, update))
    return merged


def _reader(name: str, base: LazyTensor, update: LowRank):
    def read() -> np.ndarray:
        a, b = (side.load("float32", name) for side in (update.a, update.b))
        return cast(base.load("float32", name) + np.float32(update.scale) * (b @ a), "float32", base.dtype, name)

    return read

"""Where XTuner's training starts and what it leaves: a LLaVA with a fresh projector, and `iter_*.pth`.

A `.pth` holds only what was trained, and much that is no tensor: mmengine pickles its loggers and settings beside the
state dict. They are read as objects that do nothing; any global that is not one of theirs is refused as in every other
torch file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddle_xc2.checkpoint.adapter_files import Adapter, split_updates
from paddle_xc2.checkpoint.deepspeed import are_empty, state_files
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.checkpoint.torch_files import BadTorchFile, StateDictUnpickler, read_archive, tensors_of
from paddle_xc2.checkpoint.xtuner import XTUNER_PREFIXES
from paddle_xc2.families.llava_settings import clip_settings
from paddle_xc2.families.settings import ModelSettings
from paddle_xc2.families.table import detect_family
from paddle_xc2.families.upstream_settings import settings_of
from paddle_xc2.hub.directory import CONFIG_FILE, ModelDirectory

# Modules and single globals whose objects hold nothing that is needed.
_INERT_MODULES = ("mmengine.", "addict.", "yapf.", "deepspeed.")
_INERT_GLOBALS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
    ("builtins", "set"),
    ("__builtin__", "set"),
    ("collections", "deque"),
    ("collections", "defaultdict"),
    ("datetime", "datetime"),
    ("torch", "Size"),
    ("torch", "device"),
}


class _Inert:
    """Takes whatever a pickle does to an object, and does nothing."""

    def __new__(cls, *_args, **_kwargs):
        return super().__new__(cls)

    def __init__(self, *_args, **_kwargs):
        pass

    def __setstate__(self, _state):
        pass

    def __setitem__(self, _key, _value):
        pass

    def append(self, _item):
        pass

    def extend(self, _items):
        pass


class TrainingUnpickler(StateDictUnpickler):
    def find_class(self, module, name):
        if module.startswith(_INERT_MODULES) or (module, name) in _INERT_GLOBALS:
            return _Inert
        return super().find_class(module, name)


def read_training_checkpoint(path: Path, lora_alpha: dict[str, float | None]) -> Adapter:
    """What an `iter_*.pth` changes of its base, under XComposer2's names.

    Args:
        path: a file, or the folder that XTuner writes under this name when it trains with DeepSpeed.
        lora_alpha: {"llm": alpha, "visual_encoder": alpha} of the run's LoRA; the file does not tell.
    Raises: ValueError if the file is damaged, asks for a forbidden global, or holds LoRA of a part whose alpha is None.
    """
    whole = Adapter()
    tensors, unknown = _trained_tensors(path), []
    for part, prefixes in XTUNER_PREFIXES.items():
        own = {
            name.removeprefix(f"{part}."): tensors.pop(name) for name in list(tensors) if name.startswith(f"{part}.")
        }
        own = {name.removeprefix("base_model.model."): tensor for name, tensor in own.items()}
        if any(".lora_" in name for name in own) and lora_alpha.get(part) is None:
            raise ValueError(
                f"{path}: holds LoRA matrices of {part}, but not their alpha; give the run's "
                f"--{'lora_alpha' if part == 'llm' else 'visual_lora_alpha'} (XTuner's LLaVA configs: llm 256, ViT 16)"
            )
        alpha = lora_alpha.get(part)
        trained = split_updates(own, lambda module, rank, alpha=alpha: alpha / rank, path)
        for target, source in ((whole.updates, trained.updates), (whole.replaced, trained.replaced)):
            for name, value in source.items():
                theirs, ours = prefixes
                unknown += [f"{part}.{name}"] if not name.startswith(theirs) else []
                target[ours + name.removeprefix(theirs)] = value
    unknown += list(tensors)
    if unknown:
        raise ValueError(f"{path}: holds {len(unknown)} tensors of no part of a LLaVA, first {unknown[0]}")
    return whole


def _trained_tensors(path: Path) -> dict[str, LazyTensor]:
    if not path.is_dir():
        return _state_of(path)
    tensors = {}
    try:
        for file in state_files(path):
            tensors |= _state_of(file)
    except BadTorchFile as error:
        raise BadTorchFile(f"{path}: is a checkpoint of DeepSpeed: {error}") from error
    return tensors


def _state_of(path: Path) -> dict[str, LazyTensor]:
    """The tensors of the state dict in a file: mmengine's, DeepSpeed's, or one that is nothing else."""
    content = read_archive(path, TrainingUnpickler)
    holders = [key for key in ("state_dict", "module") if isinstance(content, dict) and key in content]
    state = content[holders[0]] if holders else content
    parts = tuple(f"{part}." for part in XTUNER_PREFIXES)
    plain = isinstance(state, dict) and any(isinstance(name, str) and name.startswith(parts) for name in state)
    if not isinstance(state, dict) or not state or not (holders or plain):
        raise BadTorchFile(f"{path}: holds no state_dict; it is no checkpoint of XTuner's training")
    tensors = tensors_of(path, state)
    if fault := are_empty(tensors):
        raise BadTorchFile(f"{path}: {fault}")
    return tensors


def assemble_llava(
    llm: ModelDirectory, clip: ModelDirectory, seed: int = 0
) -> tuple[dict[str, LazyTensor], ModelSettings]:
    """A LLaVA before its training: an InternLM2, CLIP's vision encoder, and a projector with random weights.

    Args:
        llm: directory of an InternLM2.
        clip: directory of a CLIP, whole or its vision encoder alone.
        seed: of the projector.
    Returns: (tensors under XComposer2's names, configuration).
    Raises: ValueError if one of the two is something else; FileNotFoundError.
    """
    theirs, ours = XTUNER_PREFIXES["visual_encoder"]
    vision = {name: tensor for name, tensor in read_checkpoint(clip).items() if name.startswith(theirs)}
    if not vision:
        raise ValueError(f"{clip}: has no tensor that begins with {theirs}; give a CLIP with a vision transformer")
    content = llm.config()
    original = dict(content)
    content["vision_config"] = clip_settings(clip.json(CONFIG_FILE), str(clip / CONFIG_FILE))
    content["img_size"] = content["vision_config"].pop("image_size")
    content["xc2_family"] = detect_family(content, source=str(llm)).name
    config = ModelSettings(**settings_of(content, str(llm.config_path)), hf_config=original, hf_part_files={})
    if not config.family.in_parts:
        raise ValueError(f"{llm}: is a {config.family.name}, which has a vision encoder; give an InternLM2 alone")
    tensors = read_checkpoint(llm) | {ours + name.removeprefix(theirs): tensor for name, tensor in vision.items()}
    random = np.random.default_rng(seed)
    for name, width in (("0", config.projector_inputs), ("2", config.hidden_size)):
        # As torch's nn.Linear begins, which XTuner's projector is made of.
        bound, size = width**-0.5, config.hidden_size
        for part, shape in (("weight", (size, width)), ("bias", (size,))):
            values = random.uniform(-bound, bound, shape).astype(np.float32)
            tensors[f"vision_proj.{name}.{part}"] = LazyTensor("float32", shape, lambda values=values: values)
    return tensors, config

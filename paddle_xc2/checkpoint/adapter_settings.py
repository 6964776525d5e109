"""Which settings of an adapter are understood: of PEFT's `LoraConfig` up to 0.21, and of PaddleNLP's `LoRAConfig`.

Everything else is refused by name, because an adapter is no longer what its tensors say alone: PiSSA, OLoRA, CorDA and
LoftQ change the base, aLoRA acts behind certain tokens only, QALoRA on averages of the input. A key that stands in no
list here is of a later version; with a value that can't mean anything it is passed over, with any other refused.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from paddle_xc2.messages import short_repr, shown

# Read by checkpoint/adapter_files.py.
_PEFT_READ = (
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_dropout"),
    *("trainable_token_indices", "base_model_name_or_path"),
)
# Which modules were trained, which the tensors tell; settings of training and of other programs; settings of something
# that is refused, or without effect, itself.
_PEFT_WITHOUT_MEANING = (
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("task_type", "inference_mode", "auto_mapping", "peft_version", "revision", "megatron_core", "runtime_config"),
    *("qalora_group_size", "loftq_config", "corda_config", "lora_ga_config", "eva_config", "ensure_weight_tying"),
    *("merge_weights", "enable_lora"),  # of the first versions
    *("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"),  # ms-swift's
)
_PEFT_UNDERSTOOD = {
    "peft_type": ("LORA",),
    "bias": ("none", "all", "lora_only"),
    # How A and B began; those that are left out here begin with a part of the base, which is taken out of it.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    "fan_in_fan_out": (False, None),
    "exclude_bias": (False, None),
}
_PADDLENLP_READ = ("r", "lora_alpha", "rslora", "lora_dropout", "base_model_name_or_path")
_PADDLENLP_WITHOUT_MEANING = (
    *("target_modules", "trainable_modules", "trainable_bias", "dtype", "head_dim", "scaling", "merge_weights"),
    *("use_quick_lora", "lora_plus_scale"),
    *("nola_basis_num", "mora_type", "mixer_num", "lorapro_x_mode", "lorapro_scaling_factor"),
)
_PADDLENLP_UNDERSTOOD = {"tensor_parallel_degree": (-1, 0, 1, None)}
_FLAGS = ("use_rslora", "use_dora", "rslora")
MAX_PATTERNS = 10_000
_MAX_PATTERN_LENGTH = 200


def check_peft(path: Path, config: dict) -> None:
    """Raises: ValueError naming every setting of an adapter_config.json that can't be carried out."""
    _check(path, config, (*_PEFT_READ, *_PEFT_WITHOUT_MEANING), _PEFT_UNDERSTOOD)


def check_paddlenlp(path: Path, config: dict) -> None:
    """Raises: ValueError naming every setting of a lora_config.json that can't be carried out."""
    _check(path, config, (*_PADDLENLP_READ, *_PADDLENLP_WITHOUT_MEANING), _PADDLENLP_UNDERSTOOD)


def _check(path: Path, config: dict, known: tuple[str, ...], understood: dict[str, tuple]) -> None:
    wrong = []
    for name, value in config.items():
        if name in understood:
            if not any(value == one and type(value) is type(one) for one in understood[name]):
                allowed = " or ".join(repr(one) for one in understood[name] if one is not None)
                wrong.append(f"{name} is {short_repr(value)}, only {allowed} is understood")
        elif name in _FLAGS and value not in (None, True, False):
            wrong.append(f"{name} is {short_repr(value)}, expected true or false")
        elif name not in known and not (value is None or value is False or value in ("", [], {})):
            wrong.append(f"{shown(name)} is {short_repr(value)}, which is not understood")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, (str, type(None))):
        wrong.append(f"base_model_name_or_path is {short_repr(base)}, expected a name or a path")
    dropout = config.get("lora_dropout")
    if dropout is not None and not (type(dropout) in (int, float) and 0 <= dropout < 1):
        wrong.append(f"lora_dropout is {short_repr(dropout)}, expected a number from 0 to 1")
    if wrong:
        raise ValueError(
            f"{path}: {'; '.join(wrong)}; merge the adapter with the library that wrote it, and convert the result"
        )


def positive(path: Path, config: dict, name: str) -> float:
    """The setting, which PEFT and PaddleNLP have 8 as default of. Raises: ValueError if it is no positive number."""
    value = config.get(name, 8)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        found = f"{shown(name)} is {short_repr(value)}"
        raise ValueError(f"{path}: {found}, expected a number above 0; copy the adapter again")
    return value


def patterns(path: Path, config: dict, name: str) -> dict[re.Pattern, float]:
    """PEFT's rank_pattern or alpha_pattern: which module names have a value of their own."""
    given = config.get(name) or {}
    if not isinstance(given, dict) or len(given) > MAX_PATTERNS:
        raise ValueError(
            f"{path}: {name} is {short_repr(given)}, expected an object of at most {MAX_PATTERNS} names and numbers"
        )
    compiled = {}
    for pattern in given:
        value = positive(path, given, pattern)
        if _is_involved(pattern):
            raise ValueError(f"{path}: {name}: the regular expression {short_repr(pattern)} is too involved")
        try:
            compiled[re.compile(rf"(?:.*\.)?(?:{pattern})")] = value
        except re.error as error:
            raise ValueError(f'{path}: {name}: "{pattern}" is no regular expression ({error})') from None
    return compiled


def _is_involved(pattern: str) -> bool:
    """Whether a regular expression could take years on a name that it doesn't match: it repeats repetitions."""
    repeated = re.search(r"[)*+?}][*+{]", pattern)
    return len(pattern) > _MAX_PATTERN_LENGTH or repeated is not None or len(re.findall(r"[*+{]", pattern)) > 3


def by_pattern(compiled: dict[re.Pattern, float], module: str, otherwise: float) -> float:
    """The value of the first pattern that names `module`."""
    return next((value for pattern, value in compiled.items() if pattern.fullmatch(module)), otherwise)

"""What a config.json says, in the words of `ModelSettings`: nothing that bears on the numbers is passed over.

Written by upstream, by any version of transformers, or by us. A key is either understood, or of no meaning to
upstream's model (and kept), or refused by name. What is not there has the default of upstream's class
(`InternLMXcomposer2Config`, `InternLM2Config`: the same values), which is not the released models' value.
"""

from __future__ import annotations

import inspect

from paddle_xc2.families.quantized_base import check_not_quantized
from paddle_xc2.families.qwen_vl_settings import QwenVLSettings, qwen_vl_settings
from paddle_xc2.families.rope_settings import NESTED, read_rope
from paddle_xc2.families.settings import BaseSettings, ModelSettings
from paddle_xc2.families.table import Family, detect_family
from paddle_xc2.messages import nearest, short_repr, shown

# Upstream's `bias` is True by default. It is left out here: biases that a checkpoint lacks begin, and stay, as zeros.
UPSTREAM_DEFAULTS = {
    "vocab_size": 103168,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
# Null is "not there", but for these: upstream's class takes it as the value, and its model can't compute with it.
_NEVER_NULL = tuple(name for name in UPSTREAM_DEFAULTS if name != "num_key_value_heads")
_ALMOST = 0.9  # how near a key must be to the name of a setting to be taken for a slip, as difflib's ratio
# What a model is built with, beside the arguments of ModelSettings.
_TAKEN = ("architectures", "model_type", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
KNOWN = tuple(name for name in inspect.signature(ModelSettings).parameters if name != "kwargs") + _TAKEN
# Settings of other model classes, and the values that leave the numbers as they are here.
_NEUTRAL = {
    "tie_word_embeddings": (False,),
    "attention_bias": (False,),
    "qkv_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "sliding_window": (),
    "use_sliding_window": (False,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "query_pre_attn_scalar": (),
    "attention_multiplier": (),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "use_qk_norm": (False,),
    "use_logn_attn": (False,),
    "use_dynamic_ntk": (False,),
    "pruned_heads": ({},),
}


# Families whose settings are others than XComposer2's: their class, and what reads a config.json in its words.
_OTHERS = {"qwen-vl": (QwenVLSettings, qwen_vl_settings)}


def settings_class(family: Family) -> type[BaseSettings]:
    """The class of a family's settings."""
    return _OTHERS[family.name][0] if family.name in _OTHERS else ModelSettings


def model_settings(
    content: dict,
    source: str,
    tensor_names=(),
    kind: type[BaseSettings] | None = None,
    **others,
) -> BaseSettings:
    """The settings of a checkpoint.

    Args:
        content: of its config.json, with the sizes of the vision encoder under "vision_config".
        source: the file, for messages.
        tensor_names: of the checkpoint, which tell families apart.
        kind: of the result, for a model; None is the family's `settings_class`.
        others: what else the result is to remember.
    Raises: ValueError as `settings_of`, for an unsupported family, for values that are wrong or contradict each other.
    """
    family = detect_family(content, tuple(tensor_names), source)
    own = settings_class(family)
    if kind is not None and not issubclass(kind, own):
        raise ValueError(f"{source}: {family.name} is no {kind.__name__}; load it with paddle_xc2.load_model")
    read = _OTHERS[family.name][1] if family.name in _OTHERS else settings_of
    settings = read({**content, "xc2_family": family.name}, source)
    try:
        return (kind or own)(**settings, **others)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def settings_of(content: dict, source: str) -> dict:
    """Arguments of ModelSettings (or XComposer2Config).

    Args:
        content: of a config.json. One with "xc2_layout" is ours: what it lacks has our default, as it always had.
        source: the file, for messages.
    Raises: ValueError naming every key that can't be carried out, and settings that stand there twice and differ.
    """
    check_not_quantized(content, source)
    wrong = [
        f"{name} is null, which is no number; write it, or leave the key out for upstream's default "
        f"{UPSTREAM_DEFAULTS[name]}"
        for name in _NEVER_NULL
        if name in content and content[name] is None and not (name == "rope_theta" and content.get(NESTED))
    ]
    values = {name: value for name, value in content.items() if value is not None}
    for name, neutral in _NEUTRAL.items():
        if name in values and values[name] not in neutral:
            wrong.append(f"{name} is {short_repr(values[name])}, which is not supported{_only(neutral)}")
    rope, complaints = read_rope(values)
    settings = {name: values[name] for name in KNOWN if name in values and name not in ("rope_theta", "rope_scaling")}
    if content.get("num_key_value_heads", 1) is None:
        settings["num_key_value_heads"] = None  # as many as there are heads, also where our default is another number
    settings = {**({} if "xc2_layout" in content else UPSTREAM_DEFAULTS), **settings, **rope}
    wrong += complaints + _head_dim(values, settings) + _misspelt(values)
    if wrong:
        raise ValueError(f"{source}: {'; '.join(wrong)}")
    return settings


def _only(neutral: tuple) -> str:
    return f", only {' or '.join(map(repr, neutral))}" if neutral else ", only null"


def _misspelt(values: dict) -> list[str]:
    """Keys that are almost the name of a setting that is not there, in whose place a default would step in."""
    missing = [name for name in UPSTREAM_DEFAULTS if name not in values]
    others = [name for name in values if name not in KNOWN]
    near = {name: nearest(name, missing, _ALMOST) for name in others}
    return [f'"{shown(name)}" is no setting; did you mean "{meant}"?' for name, meant in near.items() if meant]


def _head_dim(values: dict, settings: dict) -> list[str]:
    """Upstream has no such setting, later versions of its code would use it."""
    hidden, heads = settings.get("hidden_size"), settings.get("num_attention_heads")
    if "head_dim" not in values or not (
        isinstance(hidden, int) and isinstance(heads, int) and hidden > 0 and heads > 0
    ):
        return []
    if values["head_dim"] == hidden // heads:
        return []
    return [
        f"head_dim is {short_repr(values['head_dim'])}, which is not supported, only hidden_size / num_attention_heads "
        f"= {hidden // heads}"
    ]

"""Which values a setting of a model can have: kinds and ranges, whatever file they come from.

The largest values are far above any model of this architecture, and small enough that a config.json of some bytes
can't ask for all memory before the weights have been looked at.
"""

from __future__ import annotations

from paddle_xc2.messages import short_repr

# Whole numbers above 0, and how large they can be.
_COUNTS = {
    "vocab_size": 10**7,
    "hidden_size": 2**16,
    "intermediate_size": 2**20,
    "num_hidden_layers": 1000,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "max_position_embeddings": 2**31,
    "max_length": 2**31,
    "img_size": 2**14,
    "patch_size": 2**10,
    "hd_num": 10**4,
    "kv_channels": 2**12,
    "seq_length": 2**31,
    "num_queries": 2**14,
}
# Numbers that need not be whole: (at least, at most).
_RANGES = {
    "rms_norm_eps": (0.0, 1.0),
    "layer_norm_eps": (0.0, 1.0),
    "rope_theta": (1.0, 1e12),
    "initializer_range": (0.0, 1e3),
    "plora_dropout": (0.0, 1.0),
    "layer_norm_epsilon": (0.0, 1.0),
    "rotary_emb_base": (1.0, 1e12),
}
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bias": ((bool,), "true or false"),
    "use_recompute": ((bool,), "true or false"),
    "use_dynamic_ntk": ((bool,), "true or false"),
    "use_logn_attn": ((bool,), "true or false"),
    "pad_image_to_square": ((bool,), "true, false or null"),
    "exif": ((bool,), "true, false or null"),
    "background": ((str,), "the name of a colour, or null"),
    "rope_scaling": ((dict,), "an object of settings, or null"),
    "vision_config": ((dict,), "an object of settings, or null"),
    "hidden_act": ((str,), "a name"),
    "chat_layout": ((str,), "a name"),
}
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_OPTIONAL = (
    *("num_key_value_heads", "max_length", "img_size", "hd_num", "pad_image_to_square", "exif", "background"),
    *("rope_scaling", "vision_config", "chat_layout"),
)


def wrong_values(settings: dict) -> list[str]:
    """A sentence for every value that its setting can't have; settings with other names are not looked at.

    Args:
        settings: of a model, or of its vision encoder.
    """
    wrong = []
    for name, value in settings.items():
        expected = None if value is None and name in _OPTIONAL else _expected(name, value, settings)
        if expected:
            wrong.append(f"{name} is {short_repr(value)}, but must be {expected}")
    return wrong


def _expected(name: str, value: object, settings: dict) -> str | None:
    """What the setting must be, if the value is something else."""
    if name in _COUNTS:
        if type(value) is not int or value < 1:
            return "a whole number above 0"
        return f"{_COUNTS[name]} at most" if value > _COUNTS[name] else None
    if name in _RANGES:
        least, most = _RANGES[name]
        sound = isinstance(value, (int, float)) and type(value) is not bool and least <= value <= most
        return None if sound else f"a number from {least:g} to {most:g}"
    if name in _KINDS:
        kinds, expected = _KINDS[name]
        return None if isinstance(value, kinds) else expected
    if name in _TOKEN_IDS:
        ids = value if isinstance(value, list) and name == "eos_token_id" and value else [value]
        size = settings.get("vocab_size")
        size = size if type(size) is int else _COUNTS["vocab_size"]
        sound = all(type(token) is int and 0 <= token < size for token in ids)
        return None if sound else f"the id of a token, from 0 to {size - 1}"
    return None

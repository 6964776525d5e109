"""Weights that somebody else quantized: named as what they are, from a config.json or from names of tensors.

None of their formats is read; a model is quantized here when it is loaded (models/nf4.py), from the original weights.
"""

from __future__ import annotations

import re

from paddle_xc2.messages import short_repr

_WAY_OUT = (
    'take the model as it was before (to save memory, load that with quantize="nf4", or train it with '
    '"quantization": "nf4")'
)
# Last parts of names in quantized checkpoints; the first method that has one is meant.
_TENSORS = (
    ("GPTQ or AWQ", ("qweight", "qzeros", "g_idx")),
    ("bitsandbytes, 4 bits", ("absmax", "quant_map", "nested_absmax", "bitsandbytes__nf4", "bitsandbytes__fp4")),
    ("bitsandbytes, 8 bits", ("SCB", "weight_format")),
    ("compressed-tensors", ("weight_packed", "weight_shape", "weight_zero_point")),
    ("FP8", ("weight_scale", "weight_scale_inv", "input_scale")),
)
_SETTINGS = ("quantization_config", "compression_config")
# Keys of them, transformers' and PaddleNLP's, that say how; PaddleNLP writes all of its own, without a value.
_METHODS = ("quant_method", "weight_quantize_algo", "quant_type", "load_in_4bit", "load_in_8bit", "bits", "w_bit")


def check_not_quantized(content: dict, source: str) -> None:
    """Args:
        content: of a config.json.
        source: the file, for messages.
    Raises: ValueError if it says that the weights are quantized.
    """
    for name in _SETTINGS:
        settings = content.get(name)
        named = [settings.get(key) for key in _METHODS] if isinstance(settings, dict) else [settings]
        method = next((value for value in named if value), None)
        if method is None:
            continue
        raise ValueError(
            f"{source}: {name} ({short_repr(method)}): the weights are quantized, which can't be read; {_WAY_OUT}; if "
            f"they are not quantized any more, remove {name}"
        )


def quantized_by(names) -> str | None:
    """How the weights with tensors of these names were quantized; None if the names are of no known method."""
    ends = {re.split(r"[./]", name)[-1] for name in names if isinstance(name, str)}
    method = next((method for method, theirs in _TENSORS if not ends.isdisjoint(theirs)), None)
    return method and f"the weights are quantized ({method}), which can't be read; {_WAY_OUT}"

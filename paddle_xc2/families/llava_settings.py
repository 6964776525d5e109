"""The settings in the folders of XTuner's LLaVA: of CLIP's vision encoder, of the projector, of the pixels.

What is not there has the default of the class that reads it in upstream's: transformers' `CLIPVisionConfig` and
`CLIPImageProcessor`, XTuner's `ProjectorConfig`. What this package computes otherwise is refused by name.
"""

from __future__ import annotations

from dataclasses import fields
from math import isclose

from paddle_xc2.families.setting_values import wrong_values
from paddle_xc2.families.settings import VisionConfig
from paddle_xc2.messages import short_repr

_CLIP_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 32,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
    "image_size": 224,
}
# The values that are carried out, or change nothing.
_CLIP_ONLY = {
    "model_type": ("clip_vision_model", "clip"),
    "num_channels": (3,),
    "attention_dropout": (0,),
    "dropout": (0,),
}
_PROJECTOR_ONLY = {"model_type": ("projector",), "depth": (2,), "hidden_act": ("gelu",), "bias": (True,)}
_PIXELS_ONLY = {
    "image_processor_type": ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor"),
    "feature_extractor_type": ("CLIPFeatureExtractor",),
    "do_convert_rgb": (True,),
    "do_resize": (True,),
    "do_center_crop": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_pad": (False,),
    "resample": (3,),  # bicubic
}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip_settings(content: dict, source: str) -> dict:
    """Values of `VisionConfig`, and `image_size`, of CLIP's config.json, whole or of the vision encoder alone.

    Raises: ValueError naming what is not carried out, and values that can't be; `ModelSettings` checks the rest.
    """
    if isinstance(content.get("vision_config"), dict):
        content = content["vision_config"]
    _check_only(content, _CLIP_ONLY, source)
    known = {field.name for field in fields(VisionConfig)} | {"image_size"}
    found = {name: value for name, value in content.items() if name in known and value is not None}
    settings = {**_CLIP_DEFAULTS, **found}
    if wrong := wrong_values({"img_size": settings["image_size"]}) + wrong_values(settings):
        raise ValueError(f"{source}: {'; '.join(wrong)}".replace(": img_size", ": image_size"))
    return settings


def check_projector(content: dict, source: str) -> None:
    """Raises: ValueError if a projector's config.json asks for another one than two layers with GELU between."""
    _check_only(content, _PROJECTOR_ONLY, source)


def check_pixels(content: dict, image_size: int, source: str) -> None:
    """Args:
        content: of a preprocessor_config.json.
        image_size: pixels, side of the square that the vision encoder takes.
    Raises: ValueError if it asks for other pixels than CLIP's of that size.
    """
    expected = {
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "rescale_factor": (1 / 255,),
        "size": (image_size,),
        "crop_size": (image_size,),
    }
    wrong = []
    for name, numbers in expected.items():
        value = content.get(name)
        if value is not None and not _are(value, numbers):
            supported = numbers[0] if len(numbers) == 1 else list(numbers)
            wrong.append(f"{name} is {short_repr(value)}, only {supported} is supported")
    _check_only(content, _PIXELS_ONLY, source, wrong)


def _are(value: object, numbers: tuple[float, ...]) -> bool:
    """Whether a setting holds these numbers; a size may be written as one, or by the sides that it is of."""
    found = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if isinstance(value, dict):
        numbers = numbers * len(found)
    if not len(found) == len(numbers) > 0 or any(type(one) not in (int, float) for one in found):
        return False
    return all(isclose(one, number, rel_tol=1e-4) for one, number in zip(found, numbers, strict=True))


def _check_only(content: dict, only: dict[str, tuple], source: str, wrong: list[str] | None = None) -> None:
    wrong = list(wrong or [])
    for name, values in only.items():
        value = content.get(name)
        if value is not None and value not in values:
            wrong.append(f"{name} is {short_repr(value)}, only {' or '.join(map(repr, values))} is supported")
    if wrong:
        raise ValueError(f"{source}: {'; '.join(wrong)}")

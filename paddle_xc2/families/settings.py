"""Settings of a model: sizes of the language model, the vision encoder and the projector; they check themselves.

Without Paddle, whose import takes seconds and 0.6 GB, so that files are converted without it.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from paddle_xc2.families.asked_as import CHAT_LAYOUTS
from paddle_xc2.families.setting_values import wrong_values
from paddle_xc2.families.table import (
    INTERNLM2_ARCHITECTURE,
    XCOMPOSER2_ARCHITECTURE,
    Family,
    detect_family,
    family_named,
)
from paddle_xc2.messages import short_repr, shown


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the CLIP vision transformer; the defaults are those of CLIP ViT-L/14.

    Attributes:
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: the usual ones.
        patch_size: pixels, side of a patch.
        layer_norm_eps: epsilon of every layer norm.
        hidden_act: "quick_gelu" is CLIP's.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    patch_size: int = 14
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"

    @classmethod
    def from_dict(cls, values: dict) -> VisionConfig:
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


# What upstream's config.json holds beside the model's own settings; for models that were not loaded from one.
UPSTREAM_CONSTANTS: dict[str, Any] = {
    "architectures": [XCOMPOSER2_ARCHITECTURE],
    "auto_map": {
        "AutoConfig": "configuration_internlm_xcomposer2.InternLMXcomposer2Config",
        "AutoModel": f"modeling_internlm_xcomposer2.{XCOMPOSER2_ARCHITECTURE}",
        "AutoModelForCausalLM": f"modeling_internlm_xcomposer2.{XCOMPOSER2_ARCHITECTURE}",
    },
    "model_type": "internlm",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
# Of the language model, where it is a part of its own.
LANGUAGE_MODEL_CONSTANTS = {
    **UPSTREAM_CONSTANTS,
    "architectures": [INTERNLM2_ARCHITECTURE],
    "auto_map": {
        "AutoConfig": "configuration_internlm2.InternLM2Config",
        "AutoModel": f"modeling_internlm2.{INTERNLM2_ARCHITECTURE}",
        "AutoModelForCausalLM": f"modeling_internlm2.{INTERNLM2_ARCHITECTURE}",
    },
    "model_type": "internlm2",
}
ROPE_SCALING_TYPES = ("linear", "dynamic")
_DEFAULTS_OF_OTHERS = {
    name: UPSTREAM_CONSTANTS[name]
    for name in ("architectures", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
}
_SPELLED_OTHERWISE = ("rope_parameters",)  # as rope_theta and rope_scaling; files are read by upstream_settings.py


class BaseSettings:
    """What the settings of every family have: how they are kept and copied, and what follows from them.

    A family's own class sets, beside its sizes, `xc2_family`, `img_size`, `vision` with at least `patch_size`, and the
    settings of `AskedAs`, and has `upstream_constants`, which here only says what it gives. Its `__init__` says which
    keys of upstream's config.json it takes.

    Attributes:
        own_names: arguments of `__init__` that upstream's config.json doesn't have, or has otherwise.
        keeps_prompt_angles: whether an answer's tokens are rotated as their prompt was, however long it grows.
    """

    own_names: ClassVar[tuple[str, ...]] = ("xc2_family", "use_recompute", "kwargs")
    keeps_prompt_angles: ClassVar[bool] = False

    xc2_family: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    vision: Any
    img_size: int

    @property
    def upstream_constants(self) -> dict:
        """What upstream's config.json holds beside the settings, for models that were not loaded from one."""
        raise NotImplementedError

    @property
    def beside_upstream(self) -> dict:
        """Sizes that upstream's config.json doesn't hold, as keys of ours."""
        return {}

    def _keep(self, others: dict) -> None:
        """Takes in the keys that this package has no use for."""
        self.__dict__.update(others)

    @classmethod
    def upstream_names(cls) -> list[str]:
        """Settings that upstream's config.json has under the same name."""
        names = inspect.signature(cls.__init__).parameters
        return [name for name in names if name not in ("self", *cls.own_names)]

    @classmethod
    def is_taken(cls, name: str) -> bool:
        """Whether a key of a config.json has the name of something that this class is or does, and can't be kept."""
        if name in ("self", "kwargs", *_SPELLED_OTHERWISE):
            return True
        return name != "model_type" and (name.startswith("__") or hasattr(cls, name))

    @property
    def family(self) -> Family:
        return family_named(self.xc2_family)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def mlp_width(self) -> int:
        """Of the inner layer of the decoder's MLP."""
        return self.intermediate_size

    @property
    def context_length(self) -> int:
        """Tokens that the model was made for, prompt and answer together."""
        return self.max_position_embeddings

    @property
    def patches_per_side(self) -> int:
        return self.img_size // self.vision.patch_size

    @property
    def num_image_tokens(self) -> int:
        """Slots that a square image of img_size pixels takes in the sequence."""
        return self.family.num_image_tokens(self.img_size, self.img_size, self.vision.patch_size)

    def rotates_by_length(self, length: int) -> bool:
        """Whether the rotary angles of so many tokens depend on how many they are: then they are run at once."""
        return False

    def copy(self):
        return copy.deepcopy(self)


class ModelSettings(BaseSettings):
    """What config.json says of an XComposer2 model.

    Follows upstream's `configuration_internlm_xcomposer2.py`; unknown keys of a config.json are kept and written back.

    Args:
        vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads:
            decoder sizes.
        img_size: pixels, side of the square image; None takes the family's.
        max_length: tokens of a training sample, image slots included; None takes the family's.
        vision_config: sizes of the ViT, keys as in `VisionConfig`.
        rope_scaling: None or {"type": "linear" | "dynamic", "factor": float}.
        xc2_family: name of the row in `families/table.py`; None detects it.
        hd_num: tiles that an image may take, where the model was fine-tuned here with another number than upstream's.
        pad_image_to_square: of LLaVA, where the model was fine-tuned here with another choice than upstream's chat.
        exif, background: how pictures are read (`PictureReading`), where the model was fine-tuned here otherwise than
            upstream reads them.
        plora_dropout: dropout on the input of PLoRA's update while training; upstream's is 0.05.
        chat_layout: None (upstream's own chat layout) or "as_trained" (the layout of the fine-tuning data).
    Raises: ValueError naming every value that contradicts another.
    """

    own_names = ("vision_config", *BaseSettings.own_names)

    architectures: list[str] | None
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    hidden_act: str
    max_position_embeddings: int
    rms_norm_eps: float
    bias: bool
    rope_theta: float
    rope_scaling: dict | None
    chat_layout: str | None
    hd_num: int | None
    pad_image_to_square: bool | None
    exif: bool | None
    background: str | None
    plora_dropout: float
    tie_word_embeddings: bool

    def __init__(
        self,
        vocab_size: int = 92544,
        hidden_size: int = 4096,
        intermediate_size: int = 14336,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = 8,
        hidden_act: str = "silu",
        max_position_embeddings: int = 32768,
        initializer_range: float = 0.02,
        rms_norm_eps: float = 1e-5,
        bias: bool = False,
        rope_theta: float = 1000000.0,
        rope_scaling: dict | None = None,
        max_length: int | None = None,
        img_size: int | None = None,
        vision_config: dict | None = None,
        xc2_family: str | None = None,
        chat_layout: str | None = None,
        hd_num: int | None = None,
        pad_image_to_square: bool | None = None,
        exif: bool | None = None,
        background: str | None = None,
        plora_dropout: float = 0.05,
        use_recompute: bool = False,
        **kwargs,
    ):
        given = dict(locals())  # every argument by its name
        others = {**_DEFAULTS_OF_OTHERS, **given.pop("kwargs")}
        del given["self"]
        wrong = wrong_values({**given, **others})
        vision = vision_config if isinstance(vision_config, dict) else {}
        wrong += [f"vision_config: {complaint}" for complaint in wrong_values(vision)]
        wrong += [f'"{name}" has a meaning of its own here; leave it out' for name in others if self.is_taken(name)]
        if wrong:
            raise ValueError("the model configuration is wrong: " + "; ".join(wrong))
        self._keep(others)
        for name, value in given.items():
            setattr(self, name, value)
        if num_key_value_heads is None:
            self.num_key_value_heads = num_attention_heads
        if xc2_family is None:
            detected = {
                "architectures": self.architectures,
                "img_size": img_size,
                "model_type": others.get("model_type"),
            }
            xc2_family = detect_family(detected, source="XComposer2Config").name
        self.xc2_family = xc2_family
        self.max_length = self.family.max_length if max_length is None else max_length
        # Upstream's configs of tiled families hold anything there, or nothing: the tile's size is the family's.
        self.img_size = self.family.image_size if img_size is None or self.family.tiling else img_size
        self.vision_config = asdict(VisionConfig.from_dict(vision_config or {}))
        self.check()

    @property
    def upstream_constants(self) -> dict:
        return LANGUAGE_MODEL_CONSTANTS if self.family.in_parts else UPSTREAM_CONSTANTS

    @property
    def beside_upstream(self) -> dict:
        return {"vision_config": self.vision_config}

    @property
    def vision(self) -> VisionConfig:
        return VisionConfig.from_dict(self.vision_config)

    @property
    def projector_inputs(self) -> int:
        """Width of what the projector takes: the merged patches of one image token."""
        return self.vision.hidden_size * self.family.merge**2

    @property
    def context_length(self) -> int:
        return int(self.max_position_embeddings * (self.rope_scaling or {}).get("factor", 1.0))

    def rotates_by_length(self, length: int) -> bool:
        return (self.rope_scaling or {}).get("type") == "dynamic" and length > self.max_position_embeddings

    def check(self) -> None:
        """Raises: ValueError naming every value that contradicts another."""
        wrong = []
        vision = self.vision
        if self.hidden_size % self.num_attention_heads:
            wrong.append(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}"
            )
        elif self.head_dim % 2:
            wrong.append(
                f"hidden_size / num_attention_heads is {self.head_dim}, but rotary embedding needs an even number"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            wrong.append(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if vision.hidden_size % vision.num_attention_heads:
            wrong.append(
                f"vision_config: hidden_size {vision.hidden_size} is no multiple of "
                f"num_attention_heads {vision.num_attention_heads}"
            )
        if self.img_size % (vision.patch_size * self.family.merge):
            wrong.append(
                f"img_size {self.img_size} is no multiple of {vision.patch_size * self.family.merge} pixels, "
                "the side of an image token"
            )
        if vision.hidden_act != "quick_gelu":
            wrong.append(f'vision_config: hidden_act "{shown(vision.hidden_act)}" is not supported, only "quick_gelu"')
        if self.hidden_act != "silu":
            wrong.append(f'hidden_act "{shown(self.hidden_act)}" is not supported, only "silu"')
        if self.rope_scaling is not None:
            kind, factor = self.rope_scaling.get("type"), self.rope_scaling.get("factor")
            if kind not in ROPE_SCALING_TYPES:
                wrong.append(f'rope_scaling: type "{shown(kind)}" is not one of {", ".join(ROPE_SCALING_TYPES)}')
            if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 1 <= factor <= 1e6:
                wrong.append(f"rope_scaling: factor is {short_repr(factor)}, but must be a number of at least 1")
            if kind == "dynamic" and self.head_dim == 2:
                wrong.append('rope_scaling: type "dynamic" needs heads of more than 2 numbers')
        if self.tie_word_embeddings:
            wrong.append("tie_word_embeddings true is not supported: output and embedding are two matrices here")
        if self.bias:
            wrong.append("bias true is not supported: no released checkpoint has biases in the language model")
        if self.chat_layout not in (None, *CHAT_LAYOUTS):
            wrong.append(f'chat_layout "{shown(self.chat_layout)}" is not one of {", ".join(CHAT_LAYOUTS)}')
        if wrong:
            raise ValueError("the model configuration does not hold together: " + "; ".join(wrong))

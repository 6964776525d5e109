"""Settings of a Qwen-VL model, in the words of upstream's `configuration_qwen.py`, and what its config.json may say."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace

import numpy as np

from paddle_xc2.families.asked_as import CHAT_LAYOUTS
from paddle_xc2.families.quantized_base import check_not_quantized
from paddle_xc2.families.setting_values import wrong_values
from paddle_xc2.families.settings import BaseSettings
from paddle_xc2.families.table import QWEN_ARCHITECTURE, Family, family_named
from paddle_xc2.messages import short_repr, shown

_FROM_ENDOFTEXT = 214  # places from <|endoftext|> to <img>: the vocabulary's control tokens, and six marks of places
UPSTREAM_CONSTANTS = {
    "architectures": [QWEN_ARCHITECTURE],
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": f"modeling_qwen.{QWEN_ARCHITECTURE}",
    },
    "model_type": "qwen",
    "tokenizer_type": "QWenTokenizer",
    "tie_word_embeddings": False,
}
# Settings that upstream's code reads, and the values that this one computes with.
_NEUTRAL = {
    "tie_word_embeddings": (False,),
    "no_bias": (True,),
    "rotary_pct": (1,),
    "scale_attn_weights": (True,),
    "attn_dropout_prob": (0,),
    "emb_dropout_prob": (0,),
}


@dataclass(frozen=True)
class QwenVisionConfig:
    """Sizes of the vision transformer and its resampler.

    Attributes:
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, patch_size: of the transformer.
        output_size: width of an image token, the language model's hidden size.
        num_queries: image tokens of an image.
        num_positions: rows of the position table, that of a square of 16 x 16 patches whatever the image size.
        layer_norm_eps: epsilon of every layer norm.
    """

    hidden_size: int = 1664
    intermediate_size: int = 8192
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    patch_size: int = 14
    output_size: int = 4096
    num_queries: int = 256
    num_positions: int = 256
    layer_norm_eps: float = 1e-6

    @property
    def num_resampler_heads(self) -> int:
        return max(1, self.output_size // 128)

    def position_sines(self) -> np.ndarray:
        """The resampler's fixed table, `get_2d_sincos_pos_embed` upstream: float32 [num_queries, output_size].

        The first half of the channels is of the column, the second of the row; of each half sines, then cosines.
        """
        side, quarter = math.isqrt(self.num_queries), self.output_size // 4
        frequencies = 1.0 / 10000 ** (np.arange(quarter, dtype=np.float32) / np.float32(quarter))
        angles = np.arange(side, dtype=np.float32)[:, None] * frequencies
        one = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        columns, rows = np.tile(one, (side, 1)), np.repeat(one, side, axis=0)
        return np.concatenate([columns, rows], axis=1).astype(np.float32)


_RELEASED_VISUAL = {
    "heads": 16,
    "image_size": 448,
    "image_start_id": 151857,
    "layers": 48,
    "mlp_ratio": 4.9231,
    "output_dim": 4096,
    "patch_size": 14,
    "width": 1664,
}


class QwenVLSettings(BaseSettings):
    """What config.json says of a Qwen-VL model; unknown keys are kept and written back.

    Args:
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads: decoder sizes.
        intermediate_size: of the MLP; each of its two inner matrices has half of it.
        kv_channels: of a head; hidden_size / num_attention_heads.
        seq_length: tokens up to which the model was trained; beyond, use_dynamic_ntk and use_logn_attn act.
        visual: sizes of the vision transformer, in upstream's words; "n_queries" is 256 where it isn't there.
        img_size: pixels, side of the square image; None is that in `visual`.
        max_length: tokens of a training sample, image slots included; None takes the family's.
        chat_layout, exif, background: as of `ModelSettings`. hd_num and pad_image_to_square are None: it has neither
            tiles nor padding.
    Raises: ValueError naming every value that is wrong or contradicts another.
    """

    own_names = ("img_size", *BaseSettings.own_names)
    keeps_prompt_angles = True

    vocab_size: int
    kv_channels: int
    seq_length: int
    layer_norm_epsilon: float
    rotary_emb_base: float
    use_dynamic_ntk: bool
    use_logn_attn: bool
    chat_layout: str | None
    visual: dict

    def __init__(
        self,
        vocab_size: int = 151936,
        hidden_size: int = 4096,
        intermediate_size: int = 22016,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 32,
        kv_channels: int = 128,
        max_position_embeddings: int = 8192,
        seq_length: int = 2048,
        layer_norm_epsilon: float = 1e-6,
        rotary_emb_base: float = 10000,
        use_dynamic_ntk: bool = True,
        use_logn_attn: bool = True,
        initializer_range: float = 0.02,
        visual: dict | None = None,
        img_size: int | None = None,
        max_length: int | None = None,
        xc2_family: str = "qwen-vl",
        chat_layout: str | None = None,
        hd_num: int | None = None,
        pad_image_to_square: bool | None = None,
        exif: bool | None = None,
        background: str | None = None,
        use_recompute: bool = False,
        **kwargs,
    ):
        given = dict(locals())  # every argument by its name
        others = {**UPSTREAM_CONSTANTS, **given.pop("kwargs")}
        for name in ("self", "visual", "img_size"):
            del given[name]
        visual = dict(_RELEASED_VISUAL if visual is None else visual)
        if img_size is not None:
            visual["image_size"] = img_size
        wrong = wrong_values({**given, **others}) + _wrong_sizes(visual)
        wrong += [f'"{name}" has a meaning of its own here; leave it out' for name in others if self.is_taken(name)]
        if wrong:
            raise ValueError("the model configuration is wrong: " + "; ".join(wrong))
        end = visual["image_start_id"] - _FROM_ENDOFTEXT  # <|endoftext|>, then <|im_start|> and <|im_end|>
        ids = {"bos_token_id": None, "pad_token_id": end, "eos_token_id": [end, end + 1, end + 2]}
        self._keep({**others, **ids})
        for name, value in given.items():
            setattr(self, name, value)
        self.visual = visual
        self.max_length = self.family.max_length if max_length is None else max_length
        self.check()

    @property
    def family(self) -> Family:
        return replace(family_named(self.xc2_family), num_queries=self.vision.num_queries)

    @property
    def upstream_constants(self) -> dict:
        return UPSTREAM_CONSTANTS

    @property
    def img_size(self) -> int:
        """Pixels, side of the square image."""
        return self.visual["image_size"]

    @img_size.setter
    def img_size(self, size: int) -> None:
        self.visual = {**self.visual, "image_size": size}

    @property
    def num_key_value_heads(self) -> int:
        return self.num_attention_heads

    @property
    def mlp_width(self) -> int:
        """Of the MLP's inner layer."""
        return self.intermediate_size // 2

    @property
    def vision(self) -> QwenVisionConfig:
        visual = self.visual
        return QwenVisionConfig(
            hidden_size=visual["width"],
            intermediate_size=int(visual["width"] * visual["mlp_ratio"]),
            num_hidden_layers=visual["layers"],
            num_attention_heads=visual["heads"],
            patch_size=visual["patch_size"],
            output_size=visual["output_dim"],
            num_queries=visual.get("n_queries", QwenVisionConfig.num_queries),
        )

    def rotates_by_length(self, length: int) -> bool:
        return self.use_dynamic_ntk and length > self.seq_length

    def check(self) -> None:
        """Raises: ValueError naming every value that contradicts another."""
        wrong, vision = [], self.vision
        if self.kv_channels * self.num_attention_heads != self.hidden_size:
            wrong.append(
                f"kv_channels {self.kv_channels} times num_attention_heads {self.num_attention_heads} is not "
                f"hidden_size {self.hidden_size}"
            )
        elif self.kv_channels % 2 or self.kv_channels < 4:
            wrong.append(f"kv_channels is {self.kv_channels}, but rotary embedding needs an even number of at least 4")
        if self.intermediate_size % 2:
            wrong.append(f"intermediate_size {self.intermediate_size} is odd; its matrices have half of it each")
        if vision.output_size != self.hidden_size:
            wrong.append(f"visual: output_dim {vision.output_size} is not hidden_size {self.hidden_size}")
        if vision.output_size % 4 or vision.output_size % vision.num_resampler_heads:
            wrong.append(f"visual: output_dim {vision.output_size} can't be split into heads of 128")
        if vision.hidden_size % vision.num_attention_heads:
            wrong.append(f"visual: width {vision.hidden_size} is no multiple of heads {vision.num_attention_heads}")
        if math.isqrt(vision.num_queries) ** 2 != vision.num_queries:
            wrong.append(f"visual: n_queries {vision.num_queries} is not the number of fields of a square")
        if self.img_size % vision.patch_size:
            wrong.append(f"visual: image_size {self.img_size} is no multiple of patch_size {vision.patch_size}")
        if self.chat_layout not in (None, *CHAT_LAYOUTS):
            wrong.append(f'chat_layout "{shown(self.chat_layout)}" is not one of {", ".join(CHAT_LAYOUTS)}')
        if wrong:
            raise ValueError("the model configuration does not hold together: " + "; ".join(wrong))


# Sizes in `visual`, and what `wrong_values` knows them as.
_SIZES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "patch_size": "patch_size",
    "output_dim": "hidden_size",
    "image_size": "img_size",
    "n_queries": "num_queries",
}


def _wrong_sizes(visual: dict) -> list[str]:
    """A sentence for every value of `visual` that there can't be, or that is missing."""
    missing = [name for name in (*_RELEASED_VISUAL,) if visual.get(name) is None]
    if missing:
        return [f"visual has no {', '.join(missing)}"]
    wrong = []
    for name, known_as in _SIZES.items():
        if name in visual:
            wrong += [
                f"visual: {name}{sentence.removeprefix(known_as)}"
                for sentence in wrong_values({known_as: visual[name]})
            ]
    if type(visual["mlp_ratio"]) not in (int, float) or not 0 < visual["mlp_ratio"] <= 64:
        wrong.append(f"visual: mlp_ratio is {short_repr(visual['mlp_ratio'])}, but must be a number up to 64")
    start = visual["image_start_id"]
    if type(start) is not int or start < _FROM_ENDOFTEXT + 256:
        wrong.append(f"visual: image_start_id is {short_repr(start)}, but must be the id of <img>")
    return wrong


_ARGUMENTS = tuple(name for name in inspect.signature(QwenVLSettings).parameters if name != "kwargs")


def qwen_vl_settings(content: dict, source: str) -> dict:
    """Arguments of QwenVLSettings (or QwenVLConfig). What isn't there has upstream's default.

    Args:
        content: of a config.json, upstream's or ours.
        source: the file, for messages.
    Raises: ValueError naming every key that can't be carried out.
    """
    check_not_quantized(content, source)
    values = {name: value for name, value in content.items() if value is not None}
    wrong = [
        f"{name} is {short_repr(values[name])}, which is not supported, only {' or '.join(map(repr, neutral))}"
        for name, neutral in _NEUTRAL.items()
        if name in values and values[name] not in neutral
    ]
    if not isinstance(values.get("visual", {}), dict):
        wrong.append(f"visual is {short_repr(values['visual'])}, but must be an object of settings")
    if wrong:
        raise ValueError(f"{source}: {'; '.join(wrong)}")
    return {name: values[name] for name in _ARGUMENTS if name in values}

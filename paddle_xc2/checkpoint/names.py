"""One table between the names of a checkpoint and our parameters, read in both directions.

A checkpoint has one of three layouts: "hf", upstream's; "paddle", ours; "paddlemix", that of PaddleMIX's port, which
names the ViT as PaddleNLP's CLIP does, everything else as upstream, and stores weights as Paddle does.

"{}" stands for a layer index. Everything not in RULES or DROPPED is an error for the caller: nothing is guessed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LAYOUTS = ("hf", "paddlemix", "paddle")


class Rule(NamedTuple):
    """A tensor under its upstream, its Paddle and its PaddleMIX name; the last is "" where it is upstream's.

    `transpose` is stated, not guessed from the shape: upstream stores a linear weight [out, in], Paddle [in, out].
    """

    hf: str
    paddle: str
    transpose: bool = False
    paddlemix: str = ""

    def name_in(self, layout: str) -> str:
        return {"hf": self.hf, "paddle": self.paddle, "paddlemix": self.paddlemix or self.hf}[layout]


class Dropped(NamedTuple):
    """A tensor under its upstream and its PaddleMIX name that our model has no use for, and why."""

    hf: str
    reason: str
    paddlemix: str = ""

    def name_in(self, layout: str) -> str:
        return self.hf if layout == "hf" else self.paddlemix or self.hf


def _plora(module: str) -> tuple[Rule, ...]:
    """A PLoRA layer: upstream's subclasses the linear layer, ours holds it as a member."""
    name = "model.layers.{}." + module
    return (
        Rule(f"{name}.weight", f"{name}.linear.weight", transpose=True),
        Rule(f"{name}.Plora_A.weight", f"{name}.plora_a.weight", transpose=True),
        Rule(f"{name}.Plora_B.weight", f"{name}.plora_b.weight", transpose=True),
    )


def _weight_and_bias(hf: str, paddle: str, paddlemix: str, transpose: bool) -> tuple[Rule, ...]:
    return (
        Rule(f"{hf}.weight", f"{paddle}.weight", transpose, f"{paddlemix or hf}.weight"),
        Rule(f"{hf}.bias", f"{paddle}.bias", False, f"{paddlemix or hf}.bias"),
    )


def _linear(hf: str, paddle: str, paddlemix: str = "") -> tuple[Rule, ...]:
    return _weight_and_bias(hf, paddle, paddlemix, transpose=True)


def _layer_norm(hf: str, paddle: str, paddlemix: str = "") -> tuple[Rule, ...]:
    return _weight_and_bias(hf, paddle, paddlemix, transpose=False)


LANGUAGE_MODEL = (
    Rule("model.tok_embeddings.weight", "model.tok_embeddings.weight"),
    *_plora("attention.wqkv"),
    *_plora("attention.wo"),
    *_plora("feed_forward.w1"),
    *_plora("feed_forward.w2"),
    *_plora("feed_forward.w3"),
    Rule("model.layers.{}.attention_norm.weight", "model.layers.{}.attention_norm.weight"),
    Rule("model.layers.{}.ffn_norm.weight", "model.layers.{}.ffn_norm.weight"),
    Rule("model.norm.weight", "model.norm.weight"),
    Rule("output.weight", "output.weight", transpose=True),
)

_VIT = "vit.vision_tower.vision_model."
_VIT_LAYER = _VIT + "encoder.layers.{}."
_MIX_LAYER = _VIT + "transformer.layers.{}."
POSITION_TABLE = "vit.position_embedding.weight"

VISION = (
    Rule(_VIT + "embeddings.class_embedding", "vit.class_embedding", paddlemix=_VIT + "class_embedding"),
    Rule(_VIT + "embeddings.patch_embedding.weight", "vit.patch_embedding.weight", paddlemix=_VIT + "conv1.weight"),
    Rule(_VIT + "embeddings.position_embedding.weight", POSITION_TABLE, paddlemix=_VIT + "positional_embedding.weight"),
    *_layer_norm(_VIT + "pre_layrnorm", "vit.pre_layrnorm", _VIT + "ln_pre"),  # upstream's spelling
    *_linear(_VIT_LAYER + "self_attn.q_proj", "vit.layers.{}.self_attn.q_proj", _MIX_LAYER + "self_attn.q_proj"),
    *_linear(_VIT_LAYER + "self_attn.k_proj", "vit.layers.{}.self_attn.k_proj", _MIX_LAYER + "self_attn.k_proj"),
    *_linear(_VIT_LAYER + "self_attn.v_proj", "vit.layers.{}.self_attn.v_proj", _MIX_LAYER + "self_attn.v_proj"),
    *_linear(_VIT_LAYER + "self_attn.out_proj", "vit.layers.{}.self_attn.out_proj", _MIX_LAYER + "self_attn.out_proj"),
    *_layer_norm(_VIT_LAYER + "layer_norm1", "vit.layers.{}.layer_norm1", _MIX_LAYER + "norm1"),
    *_layer_norm(_VIT_LAYER + "layer_norm2", "vit.layers.{}.layer_norm2", _MIX_LAYER + "norm2"),
    *_linear(_VIT_LAYER + "mlp.fc1", "vit.layers.{}.mlp.fc1", _MIX_LAYER + "linear1"),
    *_linear(_VIT_LAYER + "mlp.fc2", "vit.layers.{}.mlp.fc2", _MIX_LAYER + "linear2"),
)

PROJECTOR = (
    *_linear("vision_proj.0", "vision_proj.0"),
    *_linear("vision_proj.2", "vision_proj.2"),
)

# Separators between the rows and views of tiled images.
SEPARATORS = (
    Rule("plora_glb_GN", "plora_glb_GN"),
    Rule("plora_sub_GN", "plora_sub_GN"),
)

RULES = (*LANGUAGE_MODEL, *VISION, *PROJECTOR, *SEPARATORS)

_UNUSED_NORM = "never influences an output: image features are taken before this norm"
DROPPED = (
    Dropped(_VIT + "post_layernorm.weight", _UNUSED_NORM, _VIT + "ln_post.weight"),
    Dropped(_VIT + "post_layernorm.bias", _UNUSED_NORM, _VIT + "ln_post.bias"),
    Dropped(
        _VIT + "embeddings.position_ids",
        "a constant range, saved by old versions of transformers",
        _VIT + "position_ids",
    ),
    Dropped("model.layers.{}.attention.rotary_emb.inv_freq", "recomputed from rope_theta"),
)


_RULE_OF = {layout: {rule.name_in(layout): rule for rule in RULES} for layout in LAYOUTS}
_DROPPED_OF = {"paddle": {}} | {
    layout: {dropped.name_in(layout): dropped for dropped in DROPPED} for layout in ("hf", "paddlemix")
}
_LAYER_INDEX = re.compile(r"(?<=\.layers\.)\d+(?=\.)")


def _pattern(name: str) -> tuple[str, str]:
    """`name` with "{}" for its layer index, and the index ("" if it has none)."""
    found = _LAYER_INDEX.search(name)
    return (name, "") if found is None else (f"{name[: found.start()]}{{}}{name[found.end() :]}", found[0])


def to_paddle(name: str, layout: str = "hf") -> tuple[str, bool] | None:
    """(our parameter's name, transpose) of a tensor in a checkpoint of `layout`, or None if no rule knows it."""
    return _translate(name, layout, "paddle")


def from_paddle(name: str, layout: str) -> tuple[str, bool] | None:
    """(name in `layout`, transpose) of one of our parameters, or None if no rule knows it."""
    return _translate(name, "paddle", layout)


def to_hf(paddle_name: str) -> tuple[str, bool] | None:
    """(upstream's name, transpose) of one of our parameters, or None if no rule knows it."""
    return from_paddle(paddle_name, "hf")


def _translate(name: str, source: str, target: str) -> tuple[str, bool] | None:
    pattern, index = _pattern(name)
    rule = _RULE_OF[source].get(pattern)
    if rule is None:
        return None
    return rule.name_in(target).replace("{}", index), rule.transpose and "hf" in (source, target)


def reason_dropped(name: str, layout: str = "hf") -> str | None:
    """Why a tensor in a checkpoint of `layout` is left out, or None if it is not to be; ours has no such tensors."""
    dropped = _DROPPED_OF[layout].get(_pattern(name)[0])
    return None if dropped is None else dropped.reason


def layout_of(names) -> str:
    """The one of LAYOUTS that knows most of the names.

    A count, so that one renamed tensor is reported as that, and not as a checkpoint of another layout.
    """
    names = list(names)
    return max(LAYOUTS, key=lambda layout: sum(to_paddle(name, layout) is not None for name in names))

"""One table between the names of an upstream checkpoint and our parameters, read in both directions.

"{}" stands for a layer index. Everything not in RULES or DROPPED is an error for the caller: nothing is guessed.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """A tensor under its upstream and its Paddle name.

    `transpose` is stated, not guessed from the shape: upstream stores a linear weight [out, in], Paddle [in, out].
    """

    hf: str
    paddle: str
    transpose: bool = False


class Dropped(NamedTuple):
    """An upstream tensor that our model has no use for, and why."""

    hf: str
    reason: str


def _plora(module: str) -> tuple[Rule, ...]:
    """A PLoRA layer: upstream's subclasses the linear layer, ours holds it as a member."""
    name = "model.layers.{}." + module
    return (
        Rule(f"{name}.weight", f"{name}.linear.weight", transpose=True),
        Rule(f"{name}.Plora_A.weight", f"{name}.plora_a.weight", transpose=True),
        Rule(f"{name}.Plora_B.weight", f"{name}.plora_b.weight", transpose=True),
    )


def _linear(hf: str, paddle: str) -> tuple[Rule, ...]:
    return Rule(f"{hf}.weight", f"{paddle}.weight", transpose=True), Rule(f"{hf}.bias", f"{paddle}.bias")


def _layer_norm(hf: str, paddle: str) -> tuple[Rule, ...]:
    return Rule(f"{hf}.weight", f"{paddle}.weight"), Rule(f"{hf}.bias", f"{paddle}.bias")


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
POSITION_TABLE = "vit.position_embedding.weight"

VISION = (
    Rule(_VIT + "embeddings.class_embedding", "vit.class_embedding"),
    Rule(_VIT + "embeddings.patch_embedding.weight", "vit.patch_embedding.weight"),
    Rule(_VIT + "embeddings.position_embedding.weight", POSITION_TABLE),
    *_layer_norm(_VIT + "pre_layrnorm", "vit.pre_layrnorm"),  # upstream's spelling
    *_linear(_VIT_LAYER + "self_attn.q_proj", "vit.layers.{}.self_attn.q_proj"),
    *_linear(_VIT_LAYER + "self_attn.k_proj", "vit.layers.{}.self_attn.k_proj"),
    *_linear(_VIT_LAYER + "self_attn.v_proj", "vit.layers.{}.self_attn.v_proj"),
    *_linear(_VIT_LAYER + "self_attn.out_proj", "vit.layers.{}.self_attn.out_proj"),
    *_layer_norm(_VIT_LAYER + "layer_norm1", "vit.layers.{}.layer_norm1"),
    *_layer_norm(_VIT_LAYER + "layer_norm2", "vit.layers.{}.layer_norm2"),
    *_linear(_VIT_LAYER + "mlp.fc1", "vit.layers.{}.mlp.fc1"),
    *_linear(_VIT_LAYER + "mlp.fc2", "vit.layers.{}.mlp.fc2"),
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
    Dropped(_VIT + "post_layernorm.weight", _UNUSED_NORM),
    Dropped(_VIT + "post_layernorm.bias", _UNUSED_NORM),
    Dropped(_VIT + "embeddings.position_ids", "a constant range, saved by old versions of transformers"),
    Dropped("model.layers.{}.attention.rotary_emb.inv_freq", "recomputed from rope_theta"),
)


def _match(pattern: str, name: str) -> str | None:
    """The layer index in `name` if it fits the whole pattern ("" for a pattern without one), else None."""
    found = re.fullmatch(re.escape(pattern).replace(r"\{\}", r"(\d+)"), name)
    return None if found is None else "".join(found.groups())


def to_paddle(hf_name: str) -> tuple[str, bool] | None:
    """(our parameter's name, transpose) of an upstream tensor, or None if no rule knows it."""
    for rule in RULES:
        index = _match(rule.hf, hf_name)
        if index is not None:
            return rule.paddle.replace("{}", index), rule.transpose
    return None


def to_hf(paddle_name: str) -> tuple[str, bool] | None:
    """(upstream's name, transpose) of one of our parameters, or None if no rule knows it."""
    for rule in RULES:
        index = _match(rule.paddle, paddle_name)
        if index is not None:
            return rule.hf.replace("{}", index), rule.transpose
    return None


def reason_dropped(hf_name: str) -> str | None:
    """Why an upstream tensor is left out, or None if it is not to be."""
    return next((dropped.reason for dropped in DROPPED if _match(dropped.hf, hf_name) is not None), None)


def layout_of(names) -> str:
    """ "paddle" or "hf": the side of the table that knows more of the names.

    A count, so that one renamed tensor is reported as that, and not as a checkpoint of the other layout.
    """
    names = list(names)
    num_hf = sum(to_paddle(name) is not None for name in names)
    num_paddle = sum(to_hf(name) is not None for name in names)
    return "paddle" if num_paddle > num_hf else "hf"

"""The names of InternLM-XComposer2, 2.5, 4KHD and LLaVA. PaddleMIX's port names the ViT as PaddleNLP's CLIP does."""

from __future__ import annotations

from paddle_xc2.checkpoint.name_table import Dropped, NameTable, Rule


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

XCOMPOSER2_NAMES = NameTable(
    RULES, DROPPED, parts=("tok_embeddings", "output", "vision_proj", "vit"), resized=POSITION_TABLE
)

"""The names of Qwen-VL and Qwen-VL-Chat."""

from __future__ import annotations

from paddle_xc2.checkpoint.name_table import NameTable, Rule


def _weight(hf: str, paddle: str, transpose: bool = False) -> Rule:
    return Rule(f"{hf}.weight", f"{paddle}.weight", transpose)


def _weight_and_bias(hf: str, paddle: str, transpose: bool = False, join: str = ".") -> tuple[Rule, ...]:
    return Rule(f"{hf}{join}weight", f"{paddle}.weight", transpose), Rule(f"{hf}{join}bias", f"{paddle}.bias")


_LAYER, _OUR_LAYER = "transformer.h.{}.", "model.layers.{}."
LANGUAGE_MODEL = (
    _weight("transformer.wte", "model.tok_embeddings"),
    _weight(_LAYER + "ln_1", _OUR_LAYER + "ln_1"),
    *_weight_and_bias(_LAYER + "attn.c_attn", _OUR_LAYER + "attn.c_attn", transpose=True),
    _weight(_LAYER + "attn.c_proj", _OUR_LAYER + "attn.c_proj", transpose=True),
    _weight(_LAYER + "ln_2", _OUR_LAYER + "ln_2"),
    _weight(_LAYER + "mlp.w1", _OUR_LAYER + "mlp.w1", transpose=True),
    _weight(_LAYER + "mlp.w2", _OUR_LAYER + "mlp.w2", transpose=True),
    _weight(_LAYER + "mlp.c_proj", _OUR_LAYER + "mlp.c_proj", transpose=True),
    _weight("transformer.ln_f", "model.norm"),
    _weight("lm_head", "output", transpose=True),
)

_VISUAL = "transformer.visual."
_VIT_LAYER, _OUR_VIT_LAYER = _VISUAL + "transformer.resblocks.{}.", "vit.layers.{}."
VISION = (
    _weight(_VISUAL + "conv1", "vit.patch_embedding"),
    Rule(_VISUAL + "positional_embedding", "vit.position_embedding"),
    *_weight_and_bias(_VISUAL + "ln_pre", "vit.ln_pre"),
    *_weight_and_bias(_VIT_LAYER + "ln_1", _OUR_VIT_LAYER + "ln_1"),
    *_weight_and_bias(_VIT_LAYER + "attn.in_proj", _OUR_VIT_LAYER + "attn.in_proj", transpose=True),
    *_weight_and_bias(_VIT_LAYER + "attn.out_proj", _OUR_VIT_LAYER + "attn.out_proj", transpose=True),
    *_weight_and_bias(_VIT_LAYER + "ln_2", _OUR_VIT_LAYER + "ln_2"),
    *_weight_and_bias(_VIT_LAYER + "mlp.c_fc", _OUR_VIT_LAYER + "mlp.c_fc", transpose=True),
    *_weight_and_bias(_VIT_LAYER + "mlp.c_proj", _OUR_VIT_LAYER + "mlp.c_proj", transpose=True),
)

_POOL, _OUR_POOL = _VISUAL + "attn_pool.", "vision_proj.attn_pool."
PROJECTOR = (
    Rule(_POOL + "query", _OUR_POOL + "query"),
    Rule(_POOL + "pos_embed", _OUR_POOL + "pos_embed"),
    _weight(_POOL + "kv_proj", _OUR_POOL + "kv_proj", transpose=True),
    *_weight_and_bias(_POOL + "ln_q", _OUR_POOL + "ln_q"),
    *_weight_and_bias(_POOL + "ln_kv", _OUR_POOL + "ln_kv"),
    *_weight_and_bias(_POOL + "attn.in_proj", _OUR_POOL + "attn.in_proj", transpose=True, join="_"),
    *_weight_and_bias(_POOL + "attn.out_proj", _OUR_POOL + "attn.out_proj", transpose=True),
    *_weight_and_bias(_VISUAL + "ln_post", "vision_proj.ln_post"),
    Rule(_VISUAL + "proj", "vision_proj.proj"),
)

QWEN_VL_NAMES = NameTable(
    (*LANGUAGE_MODEL, *VISION, *PROJECTOR), parts=("wte", "lm_head", "visual", "attn_pool"), layouts=("hf", "paddle")
)

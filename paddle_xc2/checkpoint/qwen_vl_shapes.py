"""Shapes of a Qwen-VL model's parameters, in the model's order."""

from __future__ import annotations

from paddle_xc2.checkpoint.layer_shapes import layer_norm, linear
from paddle_xc2.families.qwen_vl_settings import QwenVisionConfig, QwenVLSettings


def qwen_vl_shapes(config: QwenVLSettings) -> dict[str, list[int]]:
    """Of every parameter by its name."""
    hidden, width = config.hidden_size, config.mlp_width
    shapes = {"model.tok_embeddings.weight": [config.vocab_size, hidden]}
    for index in range(config.num_hidden_layers):
        name = f"model.layers.{index}"
        shapes |= {
            f"{name}.ln_1.weight": [hidden],
            **linear(f"{name}.attn.c_attn", hidden, 3 * hidden),
            f"{name}.attn.c_proj.weight": [hidden, hidden],
            f"{name}.ln_2.weight": [hidden],
            f"{name}.mlp.w1.weight": [hidden, width],
            f"{name}.mlp.w2.weight": [hidden, width],
            f"{name}.mlp.c_proj.weight": [width, hidden],
        }
    shapes["model.norm.weight"] = [hidden]
    shapes["output.weight"] = [hidden, config.vocab_size]
    return shapes | _vision(config.vision) | _projector(config.vision)


def _vision(vision: QwenVisionConfig) -> dict[str, list[int]]:
    size = vision.hidden_size
    shapes = {
        "vit.position_embedding": [vision.num_positions, size],
        "vit.patch_embedding.weight": [size, 3, vision.patch_size, vision.patch_size],
        **layer_norm("vit.ln_pre", size),
    }
    for index in range(vision.num_hidden_layers):
        name = f"vit.layers.{index}"
        shapes |= {
            **layer_norm(f"{name}.ln_1", size),
            **linear(f"{name}.attn.in_proj", size, 3 * size),
            **linear(f"{name}.attn.out_proj", size, size),
            **layer_norm(f"{name}.ln_2", size),
            **linear(f"{name}.mlp.c_fc", size, vision.intermediate_size),
            **linear(f"{name}.mlp.c_proj", vision.intermediate_size, size),
        }
    return shapes


def _projector(vision: QwenVisionConfig) -> dict[str, list[int]]:
    size, pool = vision.output_size, "vision_proj.attn_pool"
    kv_proj = {} if vision.hidden_size == size else {f"{pool}.kv_proj.weight": [vision.hidden_size, size]}
    return {
        "vision_proj.proj": [size, size],
        f"{pool}.query": [vision.num_queries, size],
        f"{pool}.pos_embed": [vision.num_queries, size],
        **kv_proj,
        **layer_norm(f"{pool}.ln_q", size),
        **layer_norm(f"{pool}.ln_kv", size),
        **linear(f"{pool}.attn.in_proj", size, 3 * size),
        **linear(f"{pool}.attn.out_proj", size, size),
        **layer_norm("vision_proj.ln_post", size),
    }

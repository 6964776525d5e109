"""Shapes of the parameters of InternLM-XComposer2, 2.5, 4KHD and LLaVA, in the model's order."""

from __future__ import annotations

from paddle_xc2.checkpoint.layer_shapes import layer_norm, linear
from paddle_xc2.checkpoint.xcomposer2_names import POSITION_TABLE
from paddle_xc2.families.settings import ModelSettings


def xcomposer2_shapes(config: ModelSettings) -> dict[str, list[int]]:
    """Of every parameter by its name."""
    hidden, vision = config.hidden_size, config.vision
    shapes = {"model.tok_embeddings.weight": [config.vocab_size, hidden]}
    for index in range(config.num_hidden_layers):
        shapes |= _decoder_layer(f"model.layers.{index}", config)
    shapes["model.norm.weight"] = [hidden]
    shapes["output.weight"] = [hidden, config.vocab_size]
    shapes["vit.class_embedding"] = [vision.hidden_size]
    shapes["vit.patch_embedding.weight"] = [vision.hidden_size, 3, vision.patch_size, vision.patch_size]
    shapes[POSITION_TABLE] = [1 + config.patches_per_side**2, vision.hidden_size]
    shapes |= layer_norm("vit.pre_layrnorm", vision.hidden_size)
    for index in range(vision.num_hidden_layers):
        name = f"vit.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{name}.self_attn.{part}", vision.hidden_size, vision.hidden_size)
        shapes |= linear(f"{name}.mlp.fc1", vision.hidden_size, vision.intermediate_size)
        shapes |= linear(f"{name}.mlp.fc2", vision.intermediate_size, vision.hidden_size)
        for part in ("layer_norm1", "layer_norm2"):
            shapes |= layer_norm(f"{name}.{part}", vision.hidden_size)
    shapes |= linear("vision_proj.0", config.projector_inputs, hidden)
    shapes |= linear("vision_proj.2", hidden, hidden)
    if config.family.tiling:
        shapes["plora_glb_GN"] = [1, 1, config.projector_inputs]
        shapes["plora_sub_GN"] = [1, 1, 1, config.projector_inputs]
    return shapes


def _decoder_layer(name: str, config: ModelSettings) -> dict[str, list[int]]:
    hidden, between, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim
    matrices = {
        "attention.wqkv": (hidden, heads + 2 * config.num_key_value_heads * config.head_dim),
        "attention.wo": (heads, hidden),
        "feed_forward.w1": (hidden, between),
        "feed_forward.w3": (hidden, between),
        "feed_forward.w2": (between, hidden),
    }
    shapes, rank = {}, config.family.plora_rank
    for module, (inputs, outputs) in matrices.items():
        shapes[f"{name}.{module}.linear.weight"] = [inputs, outputs]
        if rank:
            shapes[f"{name}.{module}.plora_a.weight"] = [inputs, rank]
            shapes[f"{name}.{module}.plora_b.weight"] = [rank, outputs]
    return shapes | {f"{name}.{norm}.weight": [hidden] for norm in ("attention_norm", "ffn_norm")}

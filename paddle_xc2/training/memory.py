"""What training is going to take of a device's memory, estimated before it does."""

from __future__ import annotations

import paddle

from paddle_xc2.families.config import XComposer2Config
from paddle_xc2.models.loss import CHUNK_ELEMENTS
from paddle_xc2.models.nf4 import NUM_BYTES as NF4_BYTES
from paddle_xc2.training.plan import Plan

PADDLE_BYTES = 550_000_000  # what a process has when Paddle, PaddleNLP and what they bring are imported: measured


def expected_memory(plan: Plan, config: XComposer2Config, learning: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Bytes that training takes in one process, by what takes them."""
    num_parameters = sum(size for _, size in learning.values())
    num_learning = sum(size for size, _ in learning.values())
    num_quantized = num_decoder_weights(config) if plan.arguments.quantization else 0
    stored = 4 if plan.weight_dtype == "float32" else 2
    # What learns is float32. Cast for a product, it is kept for the backward pass, unless that computes it again.
    casts = num_learning * stored if stored < 4 and not plan.arguments.recompute else 0
    num_tokens = _largest_batch(plan)
    # What a decoder layer keeps for the backward pass, per token: fitted to the peaks of 10 float32 steps on a CPU
    # (hidden 256 and 512, intermediate 704 to 2816, 4 and 8 layers, 1024 and 2048 tokens), which it gives within 12 %.
    # In 16 bits, norms and rotary angles stay float32, hence three bytes a number: that is not measured.
    per_token = 16 * config.hidden_size + 5.6 * config.intermediate_size + 19 * config.family.plora_rank
    layer = num_tokens * per_token * (3 if plan.computes_in_half else 4)
    between_layers = num_tokens * config.hidden_size * (2 if plan.computes_in_half else 4)
    num_layers = config.num_hidden_layers
    loss = 3 * 4 * min(num_tokens * config.vocab_size, CHUNK_ELEMENTS)
    # Dequantizing holds one layer's weight at a time.
    dense = config.hidden_size * config.intermediate_size * stored if num_quantized else 0
    return {
        "weights": (num_parameters - num_learning - num_quantized) * stored
        + num_learning * 4
        + num_quantized * NF4_BYTES
        + dense
        + casts,
        "gradients": num_learning * 4,
        "optimizer": num_learning * 8,  # two moments
        "activations": loss + (layer + num_layers * between_layers if plan.arguments.recompute else num_layers * layer),
        **({"Paddle itself": PADDLE_BYTES} if paddle.get_device() == "cpu" else {}),  # on a GPU, the host has it
    }


def _largest_batch(plan: Plan) -> int:
    """Tokens of the largest batch, padding included."""
    layout = plan.layout
    longest = layout.row_tokens or int(plan.train.lengths[:, 0].max())
    return layout.batch_tokens or longest * plan.arguments.per_device_train_batch_size


def num_decoder_weights(config: XComposer2Config) -> int:
    """Numbers in the decoder's linear layers, PLoRA not among them: what `quantization` stores in four bits."""
    attention = (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    return config.num_hidden_layers * config.hidden_size * (attention + 3 * config.intermediate_size)

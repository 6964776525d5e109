"""What training is going to take of a device's memory, estimated before it does: by what takes it, in one process."""

from __future__ import annotations

import paddle

from paddle_xc2.families.settings import BaseSettings
from paddle_xc2.models.loss import CHUNK_ELEMENTS
from paddle_xc2.models.nf4 import NUM_BYTES as NF4_BYTES
from paddle_xc2.training.plan import Plan

PADDLE_BYTES = 550_000_000  # what a process has when Paddle, PaddleNLP and what they bring are imported: measured
_FLOAT32 = 4  # bytes: of what learns, of its gradients, and of each of the optimizer's two moments


def expected_memory(plan: Plan, config: BaseSettings, learning: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Bytes that training takes in one process, by what takes them.

    Args:
        config: of the model.
        learning: as `set_trainable` returns it.
    """
    num_learning = sum(size for size, _ in learning.values())
    num_frozen = sum(size for _, size in learning.values()) - num_learning
    return {
        "weights": _weight_bytes(plan, config, num_learning, num_frozen),
        "gradients": num_learning * _FLOAT32,
        "optimizer": num_learning * 2 * _FLOAT32,
        "activations": _activation_bytes(plan, config, largest_batch(plan)),
        **({"Paddle itself": PADDLE_BYTES} if paddle.get_device() == "cpu" else {}),  # on a GPU, the host has it
    }


def _weight_bytes(plan: Plan, config: BaseSettings, num_learning: int, num_frozen: int) -> float:
    """Of the parameters, and of what is made of them to compute with."""
    stored = 4 if plan.weight_dtype == "float32" else 2
    # What learns is float32. Cast for a product, it is kept for the backward pass, unless that computes it again.
    casts = num_learning * stored if stored < 4 and not plan.arguments.recompute else 0
    if not plan.arguments.quantization:
        return num_frozen * stored + num_learning * _FLOAT32 + casts
    num_quantized = num_decoder_weights(config)
    dequantized = config.hidden_size * config.mlp_width * stored  # of one layer at a time
    frozen = (num_frozen - num_quantized) * stored + num_quantized * NF4_BYTES
    return frozen + num_learning * _FLOAT32 + dequantized + casts


def _activation_bytes(plan: Plan, config: BaseSettings, num_tokens: int) -> float:
    """Of what the decoder and the loss keep for the backward pass. num_tokens: of the batch."""
    # Per token and decoder layer: fitted to the peaks of 10 float32 steps on a CPU (hidden 256 and 512, intermediate
    # 704 to 2816, 4 and 8 layers, 1024 and 2048 tokens), which it gives within 12 %. In 16 bits, norms and rotary
    # angles stay float32, hence three bytes a number: that is not measured.
    per_token = 16 * config.hidden_size + 5.6 * config.mlp_width + 19 * config.family.plora_rank
    layer = num_tokens * per_token * (3 if plan.computes_in_half else 4)
    loss = 3 * 4 * min(num_tokens * config.vocab_size, CHUNK_ELEMENTS)
    if not plan.arguments.recompute:
        return loss + config.num_hidden_layers * layer
    between_layers = num_tokens * config.hidden_size * (2 if plan.computes_in_half else 4)
    return loss + layer + config.num_hidden_layers * between_layers


def largest_batch(plan: Plan) -> int:
    """Tokens of the largest batch, padding included."""
    layout = plan.layout
    longest = layout.row_tokens or int(plan.train.lengths[:, 0].max())
    return layout.batch_tokens or longest * plan.arguments.per_device_train_batch_size


def num_decoder_weights(config: BaseSettings) -> int:
    """Numbers in the decoder's linear layers, PLoRA not among them: what `quantization` stores in four bits."""
    attention = (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    return config.num_hidden_layers * config.hidden_size * (attention + 3 * config.mlp_width)

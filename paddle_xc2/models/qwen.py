"""Qwen's first decoder: the language model of Qwen-VL.

Follows arXiv:2309.16609 and `modeling_qwen.py` of the upstream checkpoint. Beyond `seq_length` tokens, and only in
evaluation, the base of the rotary embedding grows (dynamic NTK) and queries are scaled by the logarithm of their
position. Where upstream goes by the index in the padded row, this goes by the position in the sample: padding and
packing change nothing. And nothing of an evaluation stays behind in the model, where upstream trains on with the base
of the last long text.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from paddle_xc2.families.config import QwenVLConfig
from paddle_xc2.models.attention import attention
from paddle_xc2.models.internlm2 import check_columns, count_positions
from paddle_xc2.models.plora import linear
from paddle_xc2.models.rms_norm import RMSNorm
from paddle_xc2.models.rotary import apply_rotary
from paddle_xc2.models.segments import Segments
from paddle_xc2.models.swiglu import swiglu

_NUM_STEPS = 32  # of the rotary base, each for texts twice as long as the one before


class Positions(NamedTuple):
    """What the attention of every layer needs to know of positions.

    Attributes:
        rotary: cosines and sines, float32 [batch or 1, seq, 1, head_dim] each.
        query_scale: float32 [batch or 1, seq, 1, 1], or None for 1.
    """

    rotary: tuple
    query_scale: paddle.Tensor | None


def ntk_steps(lengths, longest: int, seq_length: int):
    """How far the rotary base has grown for texts of so many tokens: int64, 0 up to seq_length, like `lengths`.

    Upstream's alpha is 2 ** (step + 1) - 1, where step is log2(length / seq_length), rounded up.

    Args:
        lengths: int64, none of them above `longest`.
    """
    steps = paddle.zeros_like(lengths)
    while longest > seq_length:
        steps, seq_length = steps + (lengths > seq_length).astype("int64"), 2 * seq_length
    return steps


@functools.lru_cache(maxsize=16)
def _frequencies(base: float, head_dim: int, device: str):
    """Angles per position of each pair of channels at every step of the base: float32 [steps, head_dim / 2]."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    bases = [base * (2.0 ** (step + 1) - 1) ** (head_dim / (head_dim - 2)) for step in range(_NUM_STEPS)]
    table = np.stack([np.float32(1.0) / np.power(np.float32(one), exponents) for one in bases])
    return paddle.to_tensor(table, "float32", place=device)


class QwenAttention(nn.Layer):
    def __init__(self, config: QwenVLConfig):
        super().__init__()
        size, std = config.hidden_size, config.initializer_range
        self.num_heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.c_attn = linear(size, 3 * size, std, bias=True)  # query, key, value, one after the other
        self.c_proj = linear(size, size, std)

    def forward(self, hidden_states, positions: Positions, segments=None, cache=None, layer=0):
        batch, seq, size = hidden_states.shape
        heads = self.c_attn(hidden_states).reshape([batch, seq, 3, self.num_heads, self.head_dim])
        query, key, value = heads.unbind(2)
        query, key = apply_rotary(query, *positions.rotary), apply_rotary(key, *positions.rotary)
        if positions.query_scale is not None:
            query = query * positions.query_scale.astype(query.dtype)
        if cache is None:
            out = attention(query, key, value, segments)
        else:
            out = cache.attend(layer, query, key, value, segments)
        return self.c_proj(out.reshape([batch, seq, size]))


class QwenMLP(nn.Layer):
    """c_proj(w1(x) * silu(w2(x))): the second is the gate."""

    def __init__(self, config: QwenVLConfig):
        super().__init__()
        size, std = config.hidden_size, config.initializer_range
        self.w1 = linear(size, config.mlp_width, std)
        self.w2 = linear(size, config.mlp_width, std)
        self.c_proj = linear(config.mlp_width, size, std)

    def forward(self, hidden_states):
        return self.c_proj(swiglu(self.w2(hidden_states), self.w1(hidden_states)))


class QwenDecoderLayer(nn.Layer):
    def __init__(self, config: QwenVLConfig):
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = QwenAttention(config)
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = QwenMLP(config)

    def forward(self, hidden_states, positions: Positions, segments=None, cache=None, layer=0):
        hidden_states = hidden_states + self.attn(self.ln_1(hidden_states), positions, segments, cache, layer)
        return hidden_states + self.mlp(self.ln_2(hidden_states))


class QwenModel(nn.Layer):
    """Token embedding, decoder layers and the final norm.

    Attributes:
        compute_dtype: what everything after the embedding computes in; None is the embedding's own dtype.
    """

    def __init__(self, config: QwenVLConfig):
        super().__init__()
        self.config = config
        initializer = nn.initializer.Normal(0.0, config.initializer_range)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, weight_attr=initializer)
        self.layers = nn.LayerList([QwenDecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.compute_dtype: str | None = None

    def embed(self, input_ids):
        """int64 [batch, seq] -> float [batch, seq, hidden]."""
        embeddings = self.tok_embeddings(input_ids)
        return embeddings.astype(self.compute_dtype or embeddings.dtype)

    def forward(self, embeddings, segments: Segments | None = None, position_ids=None, cache=None):
        """Args:
            embeddings: float [batch, seq, hidden].
            segments: of cached and new tokens: the samples of a row, and its padding. None is one sample a row without
                padding.
            position_ids: int64 [batch, seq]; None counts within each sample.
            cache: keys and values so far; extended in place.
        Returns: float [batch, seq, hidden] after the final norm.
        """
        batch, seq, _ = embeddings.shape
        start = 0 if cache is None else len(cache)
        segment_ids = None if segments is None else segments.ids
        check_columns(segment_ids, start, seq)
        if position_ids is None:
            position_ids = count_positions(segment_ids, start + seq, start)
        positions = self._positions(position_ids, batch, start + seq, segments, cache)
        hidden_states = embeddings
        for index, layer in enumerate(self.layers):
            if self.config.use_recompute and self.training and not hidden_states.stop_gradient:
                hidden_states = recompute(layer, hidden_states, positions, segments)
            else:
                hidden_states = layer(hidden_states, positions, segments, cache, index)
        return self.norm(hidden_states)

    def _positions(self, position_ids, batch: int, num_keys: int, segments: Segments | None, cache) -> Positions:
        """Args:
        position_ids: int64 [batch or 1, seq].
        num_keys: cached and new tokens of a row.
        segments, cache: as of `forward`.
        """
        config = self.config
        is_long = not self.training and num_keys > config.seq_length
        steps = None
        if config.use_dynamic_ntk and cache is not None and len(cache):
            steps = cache.rope_steps  # those of the prompt: its keys are rotated by them
        elif config.use_dynamic_ntk and is_long:
            steps = ntk_steps(_sample_lengths(position_ids, segments), num_keys, config.seq_length)
            if cache is not None:
                cache.rope_steps = steps[:, -1:].expand([batch, 1])
        frequencies = _frequencies(config.rotary_emb_base, config.head_dim, paddle.device.get_device())
        if steps is None:
            frequencies = frequencies[0]
        else:
            frequencies = paddle.gather(frequencies, steps.flatten()).reshape([*steps.shape, -1])
        angles = position_ids.astype("float32").unsqueeze(-1) * frequencies
        angles = paddle.concat([angles, angles], axis=-1).unsqueeze(2)
        scale = None
        if config.use_logn_attn and is_long:
            scale = (position_ids + 1).astype("float32").log() / math.log(config.seq_length)
            scale = scale.clip(min=1.0).unsqueeze([-1, -2])
        return Positions((angles.cos(), angles.sin()), scale)


def _sample_lengths(position_ids, segments: Segments | None):
    """Tokens of the sample that each token belongs to: int64, like position_ids [batch or 1, seq]."""
    seq = position_ids.shape[1]
    if segments is None:
        return paddle.full_like(position_ids, seq)
    ends = segments.row_bounds.astype("int64").reshape([-1, seq])
    return ends - paddle.arange(seq, dtype="int64") + position_ids

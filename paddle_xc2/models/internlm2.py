"""InternLM2's decoder: norm, rotary embedding, attention, MLP, layer, stack.

Follows arXiv:2403.17297 and `modeling_internlm2.py` of the upstream checkpoint. Shapes are Paddle's:
[batch, seq, heads, head_dim].
"""

from __future__ import annotations

import functools

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer
from paddle.distributed.fleet.utils import recompute

from paddle_xc2.families.config import XComposer2Config
from paddle_xc2.models.attention import attention
from paddle_xc2.models.plora import PLoRALinear
from paddle_xc2.models.segments import Segments


class RMSNorm(nn.Layer):
    """x / rms(x) * weight; the statistics are float32."""

    def __init__(self, hidden_size: int, epsilon: float):
        super().__init__()
        self.weight = self.create_parameter([hidden_size], default_initializer=nn.initializer.Constant(1.0))
        self.epsilon = epsilon

    def forward(self, hidden_states):
        x = hidden_states.astype("float32")
        x = x * paddle.rsqrt(x.square().mean(axis=-1, keepdim=True) + self.epsilon)
        return x.astype(hidden_states.dtype) * self.weight.astype(hidden_states.dtype)


def rotary_frequencies(config: XComposer2Config, num_keys: int) -> np.ndarray:
    """Angles per position of each pair of channels, float32 [head_dim / 2].

    Linear scaling divides them by the factor; dynamic NTK scaling raises the base once `num_keys` exceeds
    max_position_embeddings. Upstream keeps the table of the longest sequence ever seen; here the current one decides.
    """
    dim, base, scaling = config.head_dim, config.rope_theta, config.rope_scaling or {}
    kind, factor = scaling.get("type"), scaling.get("factor", 1.0)
    if kind == "dynamic" and num_keys > config.max_position_embeddings:
        growth = factor * num_keys / config.max_position_embeddings - (factor - 1)
        base = base * growth ** (dim / (dim - 2))
    frequencies = 1.0 / np.power(np.float32(base), np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    return frequencies / np.float32(factor) if kind == "linear" else frequencies


def rotary_tables(config: XComposer2Config, position_ids, num_keys: int):
    """Cosines and sines of the rotary embedding (arXiv:2104.09864), float32.

    Args:
        position_ids: int64 [batch or 1, seq].
        num_keys: length of the whole sequence, cached part included; decides dynamic scaling.
    Returns: (cos, sin), each [batch or 1, seq, 1, head_dim].
    """
    frequencies = _on_device(tuple(rotary_frequencies(config, num_keys).tolist()), paddle.device.get_device())
    angles = position_ids.astype("float32").unsqueeze(-1) * frequencies
    angles = paddle.concat([angles, angles], axis=-1).unsqueeze(2)
    return angles.cos(), angles.sin()


@functools.lru_cache(maxsize=16)
def _on_device(frequencies: tuple[float, ...], device: str):
    """float32 on the device: copied there once, for every copy waits for the device."""
    return paddle.to_tensor(frequencies, "float32", place=device)


def apply_rotary(x, cos, sin):
    """Rotates channel i with channel i + head_dim / 2. x: float [batch, seq, heads, head_dim]; computed in float32."""
    if x.stop_gradient or not paddle.is_grad_enabled():
        return _rotate(x, cos, sin)
    return _Rotation.apply(x, cos, sin)


class _Rotation(PyLayer):
    """Keeps nothing but the tables: the gradient is rotated back by the same angles."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.cos, ctx.sin = cos, sin
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx, grad):
        return _rotate(grad, ctx.cos, -ctx.sin), None, None


def _rotate(x, cos, sin):
    # (a, b) -> (a cos - b sin, b cos + a sin): the halves change places, and the sign goes into the small table.
    first, second = sin.chunk(2, axis=-1)
    x32 = x.astype("float32")
    others = paddle.roll(x32, first.shape[-1], axis=-1).multiply_(paddle.concat([-first, second], axis=-1))
    return (x32 * cos).add_(others).astype(x.dtype)


def silu(x):
    """x sigmoid(x)."""
    if x.stop_gradient or not paddle.is_grad_enabled():
        return F.silu(x)
    return _Silu.apply(x)


class _Silu(PyLayer):
    """Below -88, where exp(-x) overflows, the gradient of Paddle's own is NaN; the right one is 0."""

    @staticmethod
    def forward(ctx, x):
        out = F.silu(x)
        ctx.save_for_backward(x, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, out = (tensor.astype("float32") for tensor in ctx.saved_tensor())
        share = F.sigmoid(x)
        return (1.0 - share).multiply_(out).add_(share).astype(grad.dtype).multiply_(grad)


def _plora_linear(config: XComposer2Config, in_features: int, out_features: int) -> PLoRALinear:
    family = config.family
    return PLoRALinear(
        in_features, out_features, family.plora_rank, family.plora_alpha, config.plora_dropout, config.initializer_range
    )


class InternLM2Attention(nn.Layer):
    def __init__(self, config: XComposer2Config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        # Per key-value head: its group of query heads, then the key, then the value.
        self.wqkv = _plora_linear(config, config.hidden_size, (self.num_heads + 2 * self.num_kv_heads) * self.head_dim)
        self.wo = _plora_linear(config, self.num_heads * self.head_dim, config.hidden_size)

    def forward(self, hidden_states, rotary, segments=None, image_weight=None, cache=None, layer=0):
        batch, seq, _ = hidden_states.shape
        qkv = self.wqkv(hidden_states, image_weight).reshape([batch, seq, self.num_kv_heads, -1, self.head_dim])
        query = qkv[:, :, :, :-2].reshape([batch, seq, self.num_heads, self.head_dim])
        query = apply_rotary(query, *rotary)
        key = apply_rotary(qkv[:, :, :, -2], *rotary)
        value = qkv[:, :, :, -1]
        if cache is None:
            out = attention(query, key, value, segments)
        else:
            out = cache.attend(layer, query, key, value, segments)
        return self.wo(out.reshape([batch, seq, -1]), image_weight)


class InternLM2MLP(nn.Layer):
    def __init__(self, config: XComposer2Config):
        super().__init__()
        self.w1 = _plora_linear(config, config.hidden_size, config.intermediate_size)
        self.w3 = _plora_linear(config, config.hidden_size, config.intermediate_size)
        self.w2 = _plora_linear(config, config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states, image_weight=None):
        gate = silu(self.w1(hidden_states, image_weight))
        return self.w2(gate * self.w3(hidden_states, image_weight), image_weight)


class InternLM2DecoderLayer(nn.Layer):
    def __init__(self, config: XComposer2Config):
        super().__init__()
        self.attention = InternLM2Attention(config)
        self.feed_forward = InternLM2MLP(config)
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states, rotary, segments=None, image_weight=None, cache=None, layer=0):
        hidden_states = hidden_states + self.attention(
            self.attention_norm(hidden_states), rotary, segments, image_weight, cache, layer
        )
        return hidden_states + self.feed_forward(self.ffn_norm(hidden_states), image_weight)


class InternLM2Model(nn.Layer):
    """Token embedding, decoder layers and the final norm.

    Attributes:
        compute_dtype: what everything after the embedding computes in; None is the embedding's own dtype.
    """

    def __init__(self, config: XComposer2Config):
        super().__init__()
        self.config = config
        initializer = nn.initializer.Normal(0.0, config.initializer_range)
        # No padding_idx: Paddle would return zeros for it, PyTorch (upstream) returns the row.
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, weight_attr=initializer)
        self.layers = nn.LayerList([InternLM2DecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.compute_dtype: str | None = None

    def embed(self, input_ids):
        """int64 [batch, seq] -> float [batch, seq, hidden].

        The pad token's row (also `</s>`) is never trained, as upstream.
        """
        embeddings = self.tok_embeddings(input_ids)
        embeddings = embeddings.astype(self.compute_dtype or embeddings.dtype)
        if embeddings.stop_gradient:
            return embeddings
        is_pad = (input_ids == self.config.pad_token_id).unsqueeze(-1)
        return paddle.where(is_pad, embeddings.detach(), embeddings)

    def forward(self, embeddings, segments: Segments | None = None, position_ids=None, image_mask=None, cache=None):
        """Args:
            embeddings: float [batch, seq, hidden].
            segments: of cached and new tokens: the samples of a row, and its padding. None is one sample a row without
                padding.
            position_ids: int64 [batch, seq]; None counts within each sample.
            image_mask: bool [batch, seq], true at image tokens; None where there are none.
            cache: keys and values so far; extended in place.
        Returns: float [batch, seq, hidden] after the final norm.
        """
        seq = embeddings.shape[1]
        num_keys = seq + (len(cache) if cache is not None else 0)
        numbers = None if segments is None else segments.numbers
        check_columns(numbers, num_keys - seq, seq)
        if position_ids is None:
            position_ids = count_positions(numbers, num_keys, num_keys - seq)
        rotary = rotary_tables(self.config, position_ids, num_keys)
        image_weight = None if image_mask is None else image_mask.unsqueeze(-1).astype(embeddings.dtype)
        hidden_states = embeddings
        for index, layer in enumerate(self.layers):
            if self.config.use_recompute and self.training and not hidden_states.stop_gradient:
                hidden_states = recompute(layer, hidden_states, rotary, segments, image_weight)
            else:
                hidden_states = layer(hidden_states, rotary, segments, image_weight, cache, index)
        return self.norm(hidden_states)


def check_columns(segments, num_cached: int, num_new: int) -> None:
    """Raises: ValueError unless there is a number for each cached and new token; None is one sample a row."""
    if segments is not None and segments.shape[1] != num_cached + num_new:
        raise ValueError(
            f"attention_mask has {segments.shape[1]} columns, but there are {num_cached + num_new} tokens "
            f"({num_cached} cached, {num_new} new)"
        )


def count_positions(segments, num_keys: int, start: int = 0):
    """Position of every token from column `start` on within its own sample.

    Args:
        segments: int64 [batch, num_keys], the number of each token's sample, or None for one sample a row.
    Returns: int64 [batch, num_keys - start], of one row where segments is None.
    """
    if segments is None:
        return paddle.arange(start, num_keys, dtype="int64").unsqueeze(0)
    columns = paddle.arange(num_keys, dtype="int64").unsqueeze(0)
    before = paddle.concat([paddle.full_like(segments[:, :1], -1), segments[:, :-1]], axis=1)
    starts = paddle.where(segments != before, columns.expand_as(segments), paddle.zeros_like(segments))
    return (columns - paddle.cummax(starts, axis=1)[0])[:, start:]

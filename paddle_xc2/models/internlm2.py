"""InternLM2's decoder: norm, rotary embedding, attention, MLP, layer, stack.

Follows arXiv:2403.17297 and `modeling_internlm2.py` of the upstream checkpoint. Shapes are Paddle's:
[batch, seq, heads, head_dim].
"""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from paddle_xc2.families.config import XComposer2Config
from paddle_xc2.models.attention import attention
from paddle_xc2.models.plora import ImageTokens, PLoRALinear
from paddle_xc2.models.rms_norm import RMSNorm
from paddle_xc2.models.rotary import RotaryTables, rotary_tables, split_rotated
from paddle_xc2.models.segments import Segments
from paddle_xc2.models.swiglu import swiglu


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

    def forward(self, hidden_states, rotary, segments=None, images=None, cache=None, layer=0):
        batch, seq, _ = hidden_states.shape
        qkv = self.wqkv(hidden_states, images).reshape([batch, seq, self.num_kv_heads, -1, self.head_dim])
        query, key, value = split_rotated(qkv, rotary)
        if cache is None:
            out = attention(query, key, value, segments)
        else:
            out = cache.attend(layer, query, key, value, segments)
        return self.wo(out.reshape([batch, seq, -1]), images)


class InternLM2MLP(nn.Layer):
    def __init__(self, config: XComposer2Config):
        super().__init__()
        self.w1 = _plora_linear(config, config.hidden_size, config.intermediate_size)
        self.w3 = _plora_linear(config, config.hidden_size, config.intermediate_size)
        self.w2 = _plora_linear(config, config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states, images=None):
        gate, up = self.w1(hidden_states, images), self.w3(hidden_states, images)
        return self.w2(swiglu(gate, up), images)


class InternLM2DecoderLayer(nn.Layer):
    def __init__(self, config: XComposer2Config):
        super().__init__()
        self.attention = InternLM2Attention(config)
        self.feed_forward = InternLM2MLP(config)
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states, rotary, segments=None, images=None, cache=None, layer=0):
        hidden_states = hidden_states + self.attention(
            self.attention_norm(hidden_states), rotary, segments, images, cache, layer
        )
        return hidden_states + self.feed_forward(self.ffn_norm(hidden_states), images)


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

    def forward(
        self,
        embeddings,
        segments: Segments | None = None,
        position_ids=None,
        image_mask=None,
        cache=None,
        image_span: range | None = None,
    ):
        """Args:
            embeddings: float [batch, seq, hidden].
            segments: of cached and new tokens: the samples of a row, and its padding. None is one sample a row without
                padding.
            position_ids: int64 [batch, seq]; None counts within each sample.
            image_mask: bool [batch, seq], true at image tokens; None where there are none.
            cache: keys and values so far; extended in place.
            image_span: of the flattened batch, within which image_mask is true, where the host knows it.
        Returns: float [batch, seq, hidden] after the final norm.
        """
        seq = embeddings.shape[1]
        num_keys = seq + (len(cache) if cache is not None else 0)
        segment_ids = None if segments is None else segments.ids
        check_columns(segment_ids, num_keys - seq, seq)
        if position_ids is None:
            position_ids = count_positions(segment_ids, num_keys, num_keys - seq)
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        rotary = RotaryTables(*rotary_tables(self.config, position_ids, num_keys), group)
        images = None if image_mask is None else ImageTokens(image_mask, embeddings.dtype, image_span)
        hidden_states = embeddings
        for index, layer in enumerate(self.layers):
            if self.config.use_recompute and self.training and not hidden_states.stop_gradient:
                hidden_states = recompute(layer, hidden_states, rotary, segments, images)
            else:
                hidden_states = layer(hidden_states, rotary, segments, images, cache, index)
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

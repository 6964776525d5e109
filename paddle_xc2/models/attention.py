"""Softmax attention whose memory grows with the sequence, not with its square.

Scores are computed for a chunk of queries at a time and, where there are several, again in the backward pass
(arXiv:2205.14135 without the fused kernel), so that no large [seq, seq] matrix is ever kept. Grouped key and value
heads are never repeated: the queries of a group are rows of one product. Where Paddle's flash attention serves
(`flash_attention.py`), it does the same; the code here is its reference.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from paddle_xc2.models.flash_attention import flash_attention, flash_attention_serves
from paddle_xc2.models.row_sums import row_sums
from paddle_xc2.models.segments import Segments

# Elements of one chunk of scores. 2^22 float32 are 16 MB: measured best on 2 cores between 2^20 and 2^25, for prompts
# of 1550 to 4096 tokens and for 26 tiles at once.
CHUNK_ELEMENTS = 2**22
# Queries of a chunk at most, where later ones see more keys: the fewer, the less is computed and hidden again.
CAUSAL_QUERIES = 128
# On a GPU, a chunk takes this part of the memory: at 4096 tokens and 32 heads, 16 chunks on a V100 of 32 GB where a
# CPU's would be 256. Some five tensors of this size are alive at once.
GPU_PART = 1 / 256


def attention(query, key, value, segments: Segments | None = None, causal: bool = True):
    """Scaled dot-product attention with grouped key and value heads.

    Query head h uses key head h // (heads / kv_heads). The last query stands at the last key (cached decoding).

    Args:
        query: float [batch, queries, heads, head_dim].
        key, value: float [batch, keys, kv_heads, head_dim], keys >= queries.
        segments: of the keys; a query sees only those of its own. None is one segment a row.
        causal: whether a query sees only keys up to its own position.
    Returns: float [batch, queries, heads, head_dim], dtype of `query`. Softmax is float32.
    """
    if flash_attention_serves(query, key, segments, causal):
        return flash_attention(query, key, value, segments, causal)
    batch, num_queries, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    group = heads // kv_heads
    # [batch, kv_heads, queries * group, head_dim]: the heads of a group are neighbouring rows of one product.
    query = (query * (1.0 / math.sqrt(head_dim))).reshape([batch, num_queries, kv_heads, group, head_dim])
    query = query.transpose([0, 2, 1, 3, 4]).reshape([batch, kv_heads, num_queries * group, head_dim])
    key = key.transpose([0, 2, 1, 3])
    value = value.transpose([0, 2, 1, 3])
    if num_queries == 1 and segments is None:
        weights = F.softmax(paddle.matmul(query, key, transpose_y=True).astype("float32"), axis=-1)
        out = paddle.matmul(weights.astype(value.dtype), value)
    else:
        out = _ChunkedAttention.apply(query, key, value, segments, group, causal)
    out = out.reshape([batch, kv_heads, num_queries, group, head_dim]).transpose([0, 2, 1, 3, 4])
    return out.reshape([batch, num_queries, heads, head_dim])


class _ChunkedAttention(PyLayer):
    """query [batch, kv_heads, queries * group, head_dim], already scaled.

    Key, value [batch, kv_heads, keys, head_dim].
    """

    @staticmethod
    def forward(ctx, query, key, value, segments, group, causal):
        # Once, or every chunk would copy what it takes from them.
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        ctx.save_for_backward(query, key, value)
        ctx.segments, ctx.group, ctx.causal = segments, group, causal
        ctx.learns = [not tensor.stop_gradient for tensor in (query, key, value)]
        # Kept where they are small, and computed again elsewhere, which short sequences would feel.
        keeps = key.size // key.shape[-1] * query.shape[2] <= _chunk_elements(query.place)
        ctx.chunks, out = [] if keeps else None, []
        for chunk in _weight_chunks(query, key, segments, group, causal):
            _, seen, weights = chunk
            out.append(paddle.matmul(weights, value[:, :, seen]))
            if keeps:
                ctx.chunks.append(chunk)
        return out[0] if len(out) == 1 else paddle.concat(out, axis=2)

    @staticmethod
    def backward(ctx, grad):
        query, key, value = ctx.saved_tensor()
        grad_query, grad_key, grad_value = [], None, None
        chunks = ctx.chunks or _weight_chunks(query, key, ctx.segments, ctx.group, ctx.causal)
        for rows, seen, weights in chunks:
            seen_key, seen_value, grad_rows = key[:, :, seen], value[:, :, seen], grad[:, :, rows]
            grad_weights = paddle.matmul(grad_rows, seen_value, transpose_y=True).astype("float32")
            weights32 = weights.astype("float32")
            mean = row_sums(grad_weights * weights32)
            grad_scores = grad_weights.subtract_(mean).multiply_(weights32).astype(query.dtype)
            grad_query.append(paddle.matmul(grad_scores, seen_key))
            grad_key = _add(grad_key, paddle.matmul(grad_scores, query[:, :, rows], transpose_x=True), seen, key)
            grad_value = _add(grad_value, paddle.matmul(weights, grad_rows, transpose_x=True), seen, key)
        grad_query = grad_query[0] if len(grad_query) == 1 else paddle.concat(grad_query, axis=2)
        # Paddle refuses a gradient for an input that wants none: say, the key where LoRA trains query and value only.
        grads = (grad_query, grad_key, grad_value)
        return tuple(grad if learns else None for grad, learns in zip(grads, ctx.learns, strict=True))


def _weight_chunks(query, key, segments, group, causal):
    """Yields (rows, seen, weights): attention weights of a slice of query rows over a slice of the keys.

    Keys before the sample of the first query are not looked at: in a row of packed samples they are most of the row.
    """
    batch, kv_heads, num_rows, _ = query.shape
    num_queries, num_keys = num_rows // group, key.shape[2]
    offset = num_keys - num_queries
    per_chunk = max(1, min(num_queries, _chunk_elements(query.place) // (batch * kv_heads * group * num_keys)))
    if causal and query.place.is_cpu_place():
        per_chunk = min(per_chunk, CAUSAL_QUERIES)
    skips = causal and segments is not None and per_chunk < num_queries
    first_columns = segments.first_columns if skips else np.zeros([num_keys], np.int64)
    for start in range(0, num_queries, per_chunk):
        stop = min(start + per_chunk, num_queries)
        here = slice(offset + start, offset + stop)  # where the queries of the chunk stand among the keys
        seen = slice(int(first_columns[here.start]), here.stop if causal else num_keys)
        rows = slice(start * group, stop * group)
        scores = paddle.matmul(query[:, :, rows], key[:, :, seen], transpose_y=True).astype("float32")
        bias = _bias(here, seen, segments, causal)
        if bias is not None:
            # Heads of a group are neighbouring rows: [1 or batch, chunk, seen] -> [1 or batch, chunk * group, seen].
            _add_to_all(scores, bias.repeat_interleave(group, axis=1))
        yield rows, seen, F.softmax(scores, axis=-1).astype(query.dtype)


def _bias(queries: slice, keys: slice, segments: Segments | None, causal: bool):
    """What hides from queries the keys that are not theirs.

    Args:
        queries: where they stand among the keys.
    Returns: float32 [1 or batch, queries, keys], 0 or -1e30; None where no key is hidden.
    """
    allowed = None
    if causal and keys.stop > 1:
        positions = paddle.arange(keys.stop)
        allowed = (positions[queries].unsqueeze(1) >= positions[keys]).unsqueeze(0)
    if segments is not None:
        segment_ids = segments.ids
        same = segment_ids[:, queries].unsqueeze(2) == segment_ids[:, keys].unsqueeze(1)
        allowed = same if allowed is None else paddle.logical_and(allowed, same)
    return None if allowed is None else (1.0 - allowed.astype("float32")) * -1e30


def _add_to_all(scores, bias):
    """Adds [1 or batch, rows, seen] to [batch, kv_heads, rows, seen] in place.

    A matrix to a stack of matrices: that has the speed of memory on a CPU, other broadcasting takes 15 times as long.
    """
    if bias.shape[0] == 1:
        scores.add_(bias[0])
        return
    for index in range(bias.shape[0]):
        scores[index].add_(bias[index])


def _add(total, part, seen: slice, like):
    """Adds the gradient of the keys in `seen` to `total`, of the shape of `like`; None is zero."""
    total = paddle.zeros(like.shape, part.dtype) if total is None else total
    # Joined from pieces: writing into a slice takes four times as long on a CPU.
    pieces = [total[:, :, : seen.start], total[:, :, seen] + part, total[:, :, seen.stop :]]
    pieces = [piece for piece in pieces if piece.shape[2]]
    return pieces[0] if len(pieces) == 1 else paddle.concat(pieces, axis=2)


def _chunk_elements(place) -> int:
    return int(_device_memory() * GPU_PART) // 4 if place.is_gpu_place() else CHUNK_ELEMENTS


@functools.cache
def _device_memory() -> int:
    return paddle.device.cuda.get_device_properties().total_memory

"""Rotary position embedding (arXiv:2104.09864), of float32 angles."""

from __future__ import annotations

import functools

import numpy as np
import paddle
from paddle.autograd import PyLayer

from paddle_xc2.families.config import XComposer2Config

SMALL = 2**17  # numbers; below, what an operator takes is its call


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
    """Cosines and sines of the rotary embedding, float32.

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
    x32 = x.astype("float32")
    others = _swapped(x32).multiply_(_signed(sin))
    return (x32 * cos).add_(others).astype(x.dtype)


def _swapped(x):
    """The halves of the last axis in each other's place."""
    return paddle.roll(x, x.shape[-1] // 2, axis=-1)


def _signed(sin):
    first, second = sin.chunk(2, axis=-1)
    return paddle.concat([-first, second], axis=-1)


class RotaryTables:
    """Tables of one forward pass, and the same laid out for `split_rotated`.

    Args:
        cos, sin: as `rotary_tables` gives them.
        group: query heads of a key-value head.
    """

    def __init__(self, cos, sin, group: int):
        self.cos, self.sin, self.group = cos, sin, group

    @functools.cached_property
    def rows(self) -> tuple:
        """(cos, signed sin), each [batch or 1, seq * (group + 2), head_dim]: of a head's value they change nothing."""
        return self._rows(self.cos, 1.0), self._rows(_signed(self.sin), 0.0)

    def _rows(self, table, of_value: float):
        batch, seq, _, head_dim = table.shape
        rotated = table.expand([batch, seq, self.group + 1, head_dim])
        table = paddle.concat([rotated, paddle.full_like(table, of_value)], axis=2)
        return table.reshape([batch, -1, head_dim])


def split_rotated(qkv, tables: RotaryTables):
    """Query, key and value, of which query and key are rotated as by `apply_rotary`.

    All that is done on the way is done at once, and its gradient too: on a CPU, gradients of slices take a quarter of
    the products' time, and multiplying by a table that is broadcast over heads ten times what it takes otherwise.

    Args:
        qkv: float [batch, seq, kv_heads, group + 2, head_dim]: per key-value head its query heads, key and value.
    Returns: query [batch, seq, kv_heads * group, head_dim]; key, value [batch, seq, kv_heads, head_dim].
    """
    if qkv.stop_gradient or not paddle.is_grad_enabled():
        return _split_rotated(qkv, *tables.rows)
    return _SplitRotated.apply(qkv, tables)


class _SplitRotated(PyLayer):
    @staticmethod
    def forward(ctx, qkv, tables):
        ctx.tables = tables
        return _split_rotated(qkv, *tables.rows)

    @staticmethod
    def backward(ctx, grad_query, grad_key, grad_value):
        batch, seq, kv_heads, head_dim = grad_key.shape
        grad_query = grad_query.reshape([batch, seq, kv_heads, -1, head_dim])
        parts = [grad_query, grad_key.unsqueeze(3), grad_value.unsqueeze(3)]
        rows = paddle.concat([part.transpose([0, 2, 1, 3, 4]) for part in parts], axis=3)
        shape, dtype = rows.shape, rows.dtype
        rows = rows.reshape([batch, kv_heads, -1, head_dim]).astype("float32")
        cos, sin = ctx.tables.rows
        grad = _swapped(_times(rows, sin)).add_(_times(rows, cos)).astype(dtype)
        return grad.reshape(shape).transpose([0, 2, 1, 3, 4])


def _split_rotated(qkv, cos, sin):
    batch, seq, kv_heads, _, head_dim = qkv.shape
    heads_first = qkv.transpose([0, 2, 1, 3, 4])
    rows = heads_first.reshape([batch, kv_heads, -1, head_dim]).astype("float32")
    rows = _times(_swapped(rows), sin).add_(_times(rows, cos)).astype(qkv.dtype)
    rows = rows.reshape(heads_first.shape)
    # Made contiguous before they are transposed: a copy of what is sliced and transposed takes ten times as long.
    query, key, value = (rows[:, :, :, place].contiguous() for place in (slice(-2), -2, -1))
    query = query.transpose([0, 2, 1, 3, 4]).reshape([batch, seq, -1, head_dim])
    return query, key.transpose([0, 2, 1, 3]), value.transpose([0, 2, 1, 3])


def _times(x, table):
    """x: float32 [batch, kv_heads, rows, head_dim]; table: float32 [batch or 1, rows, head_dim] -> like x."""
    if len(table) == 1:
        return x * table[0]  # a matrix and a stack of matrices: that has the speed of memory
    if x.size < SMALL:
        return x * table.unsqueeze(1)
    return paddle.stack([x[index] * table[index] for index in range(len(table))])

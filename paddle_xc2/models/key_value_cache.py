"""Keys and values of the tokens so far, for decoding token by token."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F

from paddle_xc2.models.attention import attention
from paddle_xc2.models.flash_attention import flash_attention_serves
from paddle_xc2.models.segments import Segments

BLOCK = 256  # positions by which the memory of a layer grows: it is copied once for so many tokens


class KeyValueCache:
    """Keys and values of the tokens computed so far, without gradients.

    Of each layer float [batch, kv_heads, room, head_dim], of which the first `len(cache)` positions are filled, and
    the others zero. A new token is written into the room, so that nothing is copied for it; the heads stand before the
    positions, so that the products of a step read the memory as it lies.

    Attributes:
        rope_steps: how far the rotary base had grown for the prompts, which later tokens go by too: int64 [batch, 1];
            None where it had not, or never does.
    """

    def __init__(self):
        self._keys: list[paddle.Tensor] = []
        self._values: list[paddle.Tensor] = []
        self.rope_steps: paddle.Tensor | None = None
        self._lengths: list[int] = []  # of each layer: in the middle of a step the first ones are ahead

    def __len__(self) -> int:
        """Number of cached positions."""
        return self._lengths[0] if self._lengths else 0

    def attend(self, layer: int, query, key, value, segments: Segments | None = None):
        """Takes the new positions of a layer, and has their queries look at all: see `attention`.

        Args:
            query: float [batch, new, heads, head_dim].
            key, value: float [batch, new, kv_heads, head_dim].
            segments: of cached and new positions.
        Returns: float [batch, new, heads, head_dim].
        """
        cached = self.append(layer, key, value)
        if not cached:
            return attention(query, key, value, segments)
        # Flash attention keeps scores in float32 whatever the dtype; the others would copy keys and values first.
        if query.shape[1] > 1 or flash_attention_serves(query, key, segments, True):
            return attention(query, *self.keys_and_values(layer), segments)
        return self._attend_one(layer, query, segments)

    def append(self, layer: int, key, value) -> int:
        """Adds new positions to a layer, [batch, new, kv_heads, head_dim]. Returns: how many it had before."""
        if layer == len(self._lengths):
            self._keys.append(_with_room(_heads_first(key)))
            self._values.append(_with_room(_heads_first(value)))
            self._lengths.append(key.shape[1])
            return 0
        start = self._lengths[layer]
        stop = self._lengths[layer] = start + key.shape[1]
        for memory, new in ((self._keys, key), (self._values, value)):
            if stop > memory[layer].shape[2]:
                memory[layer] = _with_room(paddle.concat([memory[layer][:, :, :start], _heads_first(new)], axis=2))
            else:
                memory[layer][:, :, start:stop] = _heads_first(new)
        return start

    def keys_and_values(self, layer: int) -> tuple:
        """All keys and all values of a layer, float [batch, len(cache), kv_heads, head_dim]."""
        length = self._lengths[layer]
        return tuple(memory[layer][:, :, :length].transpose([0, 2, 1, 3]) for memory in (self._keys, self._values))

    @property
    def num_layers(self) -> int:
        return len(self._lengths)

    def select_rows(self, rows, shared: int = 0) -> None:
        """Keeps the given rows of the batch, in the given order.

        Args:
            rows: int64 [new batch].
            shared: so many positions in front are the same in all rows that take each other's place: these stay.
        """
        for memory in (self._keys, self._values):
            for layer, length in enumerate(self._lengths):
                if shared:
                    memory[layer][:, :, shared:length] = paddle.gather(memory[layer][:, :, shared:length], rows)
                else:
                    memory[layer] = paddle.gather(memory[layer], rows)
        if self.rope_steps is not None:
            self.rope_steps = paddle.gather(self.rope_steps, rows)

    def _attend_one(self, layer: int, query, segments):
        """`attention` of one query a row: products over the whole memory, where a part of it would be copied first."""
        batch, _, heads, head_dim = query.shape
        keys, values, length = self._keys[layer], self._values[layer], self._lengths[layer]
        query = (query * (1.0 / math.sqrt(head_dim))).reshape([batch, keys.shape[1], -1, head_dim])
        scores = paddle.matmul(query, keys, transpose_y=True)[..., :length].astype("float32")
        if segments is not None:
            scores = scores + segments.bias_of_last
        weights = F.pad(F.softmax(scores, axis=-1).astype(values.dtype), [0, keys.shape[2] - length])
        return paddle.matmul(weights, values).reshape([batch, 1, heads, head_dim])


def _heads_first(x):
    """[batch, seq, heads, head_dim] -> [batch, heads, seq, head_dim], without its gradient."""
    return x.detach().transpose([0, 2, 1, 3])


def _with_room(x):
    """[batch, heads, seq, head_dim] -> [batch, heads, room, head_dim], zeros in the end."""
    batch, heads, seq, head_dim = x.shape
    return paddle.concat([x, paddle.zeros([batch, heads, BLOCK - seq % BLOCK, head_dim], x.dtype)], axis=2)

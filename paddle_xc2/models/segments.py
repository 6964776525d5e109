"""Which sample every key of a row belongs to, in the forms that attention wants it in."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import paddle

from paddle_xc2.batch_layout import first_columns


class Segments:
    """Made once a forward pass, so that no layer computes any of it again.

    A query sees only keys of its own segment. Padding is a segment like any other, so that no row of scores is ever
    empty. The keys of a segment are neighbours.

    Args:
        ids: int64 [batch, keys].
        columns: int64 [keys], `batch_layout.first_columns` of them; None is looked up when it is needed, which waits
            for the device.
    """

    def __init__(self, ids, columns: np.ndarray | None = None):
        self.ids = ids
        self._columns = columns

    @cached_property
    def first_columns(self) -> np.ndarray:
        """int64 [keys]: from which key on keys matter to the query that stands at a key."""
        return first_columns(self.ids.numpy()) if self._columns is None else self._columns

    @cached_property
    def row_bounds(self):
        """Flashmask's `startend_row_indices` (arXiv:2410.01359): int32 [batch, 1, keys, 1].

        The end of each key's segment: from there on, no query sees the key. Causality hides it from those before.
        """
        ids = self.ids
        num_keys = ids.shape[1]
        last = paddle.ones_like(ids[:, :1], dtype="bool")
        changes = paddle.concat([ids[:, 1:] != ids[:, :-1], last], axis=1)
        ends = paddle.arange(1, num_keys + 1, dtype="int64").expand_as(ids)
        ends = paddle.where(changes, ends, paddle.full_like(ids, num_keys, dtype="int64"))
        ends = paddle.flip(paddle.cummin(paddle.flip(ends, [1]), axis=1)[0], [1])
        return ends.unsqueeze(1).unsqueeze(-1).astype("int32")

    @cached_property
    def bias_of_last(self):
        """What is added to scores so that the last query of a row sees its own segment: float32 [batch, 1, 1, keys]."""
        return (self.ids != self.ids[:, -1:]).astype("float32").unsqueeze([1, 2]) * -1e30

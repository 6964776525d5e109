"""Sums over an axis as products, which take a fifth of `sum`'s time on a CPU.

In float32 in every precision of a run: neither product is one that autocast takes down.
"""

from __future__ import annotations

import paddle


def row_sums(x):
    """float32 [.., width] -> float32 [.., 1]."""
    rows = x.reshape([-1, x.shape[-1]])
    return paddle.mv(rows, paddle.ones([x.shape[-1]], x.dtype)).reshape([*x.shape[:-1], 1])


def column_sums(x, factors):
    """Sum of all rows, each times its factor: float32 [.., width] and [.., 1] -> float32 [width]."""
    rows = x.reshape([-1, x.shape[-1]])
    total = paddle.zeros([1, x.shape[-1]], x.dtype)
    return paddle.addmm(total, factors.reshape([1, -1]), rows, beta=0.0).flatten()

"""Partial LoRA: the low-rank update of XComposer2 that acts on image tokens only."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import nn


class PLoRALinear(nn.Layer):
    """Linear layer with a low-rank update that acts on image tokens only ("Partial LoRA").

        text token:   y = x W
        image token:  y = x W + (alpha / rank) dropout(x) A B

    Follows arXiv:2401.16420 and `PLoRA` in the upstream checkpoint's `build_mlp.py`, dropout included. Rank 0 is a
    family without PLoRA: the linear layer alone, under the same name.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float, dropout: float, std: float):
        super().__init__()
        # A member, not a base class: LoRA tooling replaces whole nn.Linear objects, and would drop A and B with it.
        self.linear = linear(in_features, out_features, std)
        self.rank = rank
        if rank:
            self.plora_a = linear(in_features, rank, std)
            self.plora_b = linear(rank, out_features, 0.0)  # a new update starts as zero
            self.dropout = nn.Dropout(dropout)
            self.scaling = alpha / rank

    def forward(self, x, image_mask=None):
        """Args:
            x: float [batch, seq, in_features].
            image_mask: [batch, seq, 1] in the dtype of `x`, 1 at image tokens and 0 elsewhere: made of the bool mask
                once for all layers. None skips the update: for decoding, where only text can follow. Training always
                passes it, so that every rank has the same graph.
        Returns: float [batch, seq, out_features], dtype of `x`.
        """
        y = self.linear(x)
        if image_mask is None or not self.rank:
            return y
        # Masked, not gathered: gathering copies the token count to the host, five times per decoder layer. The mask is
        # applied between A and B, where the tensor is narrowest.
        inner = self.plora_a(self.dropout(x)) * image_mask
        if self.scaling != 1.0:
            inner = inner * self.scaling
        return y + self.plora_b(inner)


class Linear(nn.Linear):
    """nn.Linear that computes in the dtype of what enters: while it learns, it is itself float32 in every precision."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.astype(x.dtype)
        return F.linear(x, self.weight.astype(x.dtype), bias)


def linear(in_features: int, out_features: int, std: float, bias: bool = False) -> Linear:
    """A linear layer, weight [in, out] drawn from N(0, std^2), bias zero."""
    initializer = nn.initializer.Normal(0.0, std) if std else nn.initializer.Constant(0.0)
    return Linear(in_features, out_features, weight_attr=initializer, bias_attr=None if bias else False)

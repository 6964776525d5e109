"""Partial LoRA: the low-rank update of XComposer2 that acts on image tokens only."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from paddle_xc2.models.dropout import Dropout


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
            self.dropout = Dropout(dropout)
            self.scaling = alpha / rank

    def forward(self, x, images: ImageTokens | None = None):
        """Args:
            x: float [batch, seq, in_features].
            images: which tokens are of images. None skips the update: for decoding, where only text can follow.
                Training always passes it, so that every rank has the same graph.
        Returns: float [batch, seq, out_features], dtype of `x`.
        """
        y = self.linear(x)
        if images is None or not self.rank:
            return y
        # A slice and a mask, no gathering: that copies the token count to the host, five times per decoder layer. The
        # mask is applied between A and B, where the tensor is narrowest.
        inner = self.plora_a(self.dropout(_Slice.apply(x, images.start, images.stop))) * images.weight
        if self.scaling != 1.0:
            inner = inner * self.scaling
        return _AddProduct.apply(y, inner, self.plora_b.weight, images.start)


class ImageTokens:
    """Which tokens of a flattened batch are image tokens.

    Attributes:
        start, stop: all of them lie within.
        weight: float [stop - start, 1], 1 at image tokens and 0 elsewhere.
    """

    def __init__(self, image_mask, dtype, span: range | None = None):
        """Args:
        image_mask: bool [batch, seq].
        dtype: of what the layers take.
        span: within which the mask is true, if the host knows it: it is not looked up.
        """
        span = range(image_mask.size) if span is None else span
        # One token at least: where there are no images, gradients are zero instead of none.
        self.start, self.stop = span.start, max(span.stop, span.start + 1)
        self.weight = image_mask.reshape([-1, 1])[self.start : self.stop].astype(dtype)


class _Slice(PyLayer):
    """x [batch, seq, n] -> [stop - start, n], of the flattened batch. Paddle's own gradient takes ten times as long."""

    @staticmethod
    def forward(ctx, x, start, stop):
        ctx.shape, ctx.start = x.shape, start
        return x.reshape([-1, x.shape[-1]])[start:stop]

    @staticmethod
    def backward(ctx, grad):
        whole = paddle.zeros(ctx.shape, grad.dtype)
        _tokens(whole, ctx.start, len(grad)).copy_(grad, False)
        return whole


class _AddProduct(PyLayer):
    """y [batch, seq, out] + inner [tokens, rank] times weight [rank, out], on the tokens from `start` on."""

    @staticmethod
    def forward(ctx, y, inner, weight, start):
        ctx.learns = [not tensor.stop_gradient for tensor in (y, inner, weight)]
        ctx.dtypes, ctx.start = (inner.dtype, weight.dtype), start
        inner, weight = inner.astype(y.dtype), weight.astype(y.dtype)
        ctx.save_for_backward(inner, weight)
        out = y.clone()
        _tokens(out, start, len(inner)).addmm_(inner, weight)
        return out

    @staticmethod
    def backward(ctx, grad):
        inner, weight = ctx.saved_tensor()
        part = _tokens(grad, ctx.start, len(inner))
        grad_inner = grad_weight = None
        if ctx.learns[1]:
            grad_inner = paddle.matmul(part, weight, transpose_y=True).astype(ctx.dtypes[0])
        if ctx.learns[2]:
            grad_weight = paddle.matmul(inner, part, transpose_x=True).astype(ctx.dtypes[1])
        return grad if ctx.learns[0] else None, grad_inner, grad_weight


def _tokens(x, start: int, number: int):
    """Some tokens of a flattened batch, [number, n], in the memory of `x` [batch, seq, n]."""
    return x.reshape([-1, x.shape[-1]])._slice(start, start + number)


class Linear(nn.Linear):
    """nn.Linear that computes in the dtype of what enters: while it learns, it is itself float32 in every precision."""

    def forward(self, x):
        weight = self.weight.astype(x.dtype)
        if self.bias is None:
            return paddle.matmul(x, weight)  # what F.linear comes to, without asking for flags at every call
        return F.linear(x, weight, self.bias.astype(x.dtype))


def linear(in_features: int, out_features: int, std: float, bias: bool = False) -> Linear:
    """A linear layer, weight [in, out] drawn from N(0, std^2), bias zero."""
    initializer = nn.initializer.Normal(0.0, std) if std else nn.initializer.Constant(0.0)
    return Linear(in_features, out_features, weight_attr=initializer, bias_attr=None if bias else False)

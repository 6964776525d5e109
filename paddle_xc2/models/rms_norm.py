"""RMSNorm (arXiv:1910.07467) in few passes over memory."""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from paddle_xc2.models.row_sums import column_sums, row_sums


class RMSNorm(nn.Layer):
    """x / rms(x) * weight; the statistics are float32."""

    def __init__(self, hidden_size: int, epsilon: float):
        super().__init__()
        self.weight = self.create_parameter([hidden_size], default_initializer=nn.initializer.Constant(1.0))
        self.epsilon = epsilon

    def forward(self, hidden_states):
        """float [.., hidden] -> the same shape and dtype."""
        if paddle.is_grad_enabled() and not (hidden_states.stop_gradient and self.weight.stop_gradient):
            return _RMSNorm.apply(hidden_states, self.weight, self.epsilon)
        return _normalized(hidden_states, self.weight, self.epsilon)[0]


class _RMSNorm(PyLayer):
    """Keeps only what enters. Its gradient, of y = x r w with r = (mean(x^2) + epsilon)^-1/2, written out:

    dx = r (g w) - x r^3 mean(g w x), dw = sum over tokens of r (g x).
    """

    @staticmethod
    def forward(ctx, x, weight, epsilon):
        out, ctx.inverse = _normalized(x, weight, epsilon)
        ctx.save_for_backward(x, weight)
        ctx.learns = [not tensor.stop_gradient for tensor in (x, weight)]
        return out

    @staticmethod
    def backward(ctx, grad):
        (x, weight), inverse = ctx.saved_tensor(), ctx.inverse
        grad32, x32 = grad.astype("float32"), x.astype("float32")
        grad_x = grad_weight = None
        if ctx.learns[1]:
            grad_weight = column_sums(grad32 * x32, inverse).astype(weight.dtype)
        if ctx.learns[0]:
            grad_normalized = grad32 * weight.astype("float32")
            share = row_sums(grad_normalized * x32) * inverse**3 * (1.0 / x.shape[-1])
            grad_x = grad_normalized.multiply_(inverse).subtract_(x32 * share).astype(x.dtype)
        return grad_x, grad_weight


def _normalized(x, weight, epsilon: float):
    """(what RMSNorm gives, float32 [.., 1]: what its rows were multiplied with)."""
    x32 = x.astype("float32")
    inverse = paddle.rsqrt(row_sums(x32.square()) * (1.0 / x.shape[-1]) + epsilon)
    return (x32 * inverse).astype(x.dtype).multiply_(weight.astype(x.dtype)), inverse

"""The gated unit of the decoders' feed-forward layers (arXiv:2002.05202) in few passes over memory."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer


def swiglu(gate, x):
    """silu(gate) * x, with silu(x) = x sigmoid(x). Both float, of one shape and dtype."""
    if not paddle.is_grad_enabled() or gate.stop_gradient and x.stop_gradient:
        return F.silu(gate).multiply_(x)
    return _SwiGLU.apply(gate, x)


class _SwiGLU(PyLayer):
    """Keeps only what enters. Below -88, where exp(-x) overflows, Paddle's silu has a gradient of NaN: here it is 0."""

    @staticmethod
    def forward(ctx, gate, x):
        ctx.save_for_backward(gate, x)
        ctx.learns = [not tensor.stop_gradient for tensor in (gate, x)]
        return F.silu(gate).multiply_(x)

    @staticmethod
    def backward(ctx, grad):
        gate, x = ctx.saved_tensor()
        gate = gate.astype("float32")
        share = F.sigmoid(gate)
        out = gate * share
        grad_gate = grad_x = None
        if ctx.learns[1]:
            grad_x = out.astype(grad.dtype) * grad
        if ctx.learns[0]:
            slope = (1.0 - share).multiply_(out).add_(share)
            grad_gate = slope.astype(grad.dtype).multiply_(x).multiply_(grad)
        return grad_gate, grad_x

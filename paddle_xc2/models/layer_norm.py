"""Layer norm whose gradient is right where its weight is frozen."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn


class LayerNorm(nn.LayerNorm):
    """As nn.LayerNorm (arXiv:1607.06450), with the right gradient below a frozen weight.

    Paddle 3.3's kernel on a CPU gives the input the gradient of weight 1 where the weight wants none. So it is always
    asked for the weight's, where there is one to pass on; of a frozen weight that is thrown away. It costs nothing that
    could be measured: 28 ms for [2, 577, 1024] forward and backward either way, 46 ms written out in single operations.
    """

    def forward(self, hidden_states):
        """float [.., normalized_shape] -> the same shape and dtype."""
        weight = self.weight
        if weight.stop_gradient and paddle.is_grad_enabled() and not hidden_states.stop_gradient:
            weight = weight.detach()  # the same numbers; its gradient goes with it, after the backward pass
            weight.stop_gradient = False
        # Both are float32 in every precision while they learn.
        weight, bias = weight.astype(hidden_states.dtype), self.bias.astype(hidden_states.dtype)
        return F.layer_norm(hidden_states, self._normalized_shape, weight, bias, self._epsilon)

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddle_xc2.models.swiglu import swiglu


@pytest.mark.parametrize("frozen", [None, 0, 1])
def test_swiglu_and_its_gradients_are_those_of_the_formula(frozen):
    inputs = [paddle.randn([2, 3, 5]) * 4 for _ in range(2)]
    weight = paddle.randn([2, 3, 5])

    def outcome(function):
        tensors = [x.clone().detach() for x in inputs]
        for index, tensor in enumerate(tensors):
            tensor.stop_gradient = index == frozen
        out = function(*tensors)
        (out * weight).sum().backward()
        return [out.numpy(), *(x.grad.numpy() for x in tensors if not x.stop_gradient)]

    outcomes = outcome(swiglu)
    for got, want in zip(outcomes, outcome(lambda gate, x: gate * F.sigmoid(gate) * x), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-6)  # 9.5e-7 measured
    with paddle.no_grad():
        np.testing.assert_array_equal(swiglu(*inputs).numpy(), outcomes[0])


def test_the_gradient_of_swiglu_is_finite_everywhere():
    gate = paddle.to_tensor([-1e30, -1000.0, -89.0, -88.0, 0.0, 1000.0], stop_gradient=False)
    x = paddle.full([6], 2.0)
    x.stop_gradient = False
    swiglu(gate, x).sum().backward()
    np.testing.assert_allclose(gate.grad.numpy(), [0, 0, 0, 0, 1, 2], atol=1e-30)
    np.testing.assert_allclose(x.grad.numpy(), [0, 0, 0, 0, 0, 1000], atol=1e-30)

import numpy as np
import paddle
import pytest

from paddle_xc2.models.rms_norm import RMSNorm


def formula(norm, x):
    """Operator by operator, with Paddle's own gradients."""
    x32 = x.astype("float32")
    x32 = x32 * paddle.rsqrt(x32.square().mean(axis=-1, keepdim=True) + norm.epsilon)
    return x32.astype(x.dtype) * norm.weight.astype(x.dtype)


def test_rms_norm():
    norm, x = RMSNorm(5, epsilon=0.5), paddle.randn([2, 3, 5])
    norm.weight.set_value(paddle.arange(1.0, 6.0))
    want = x.numpy() / np.sqrt((x.numpy() ** 2).mean(-1, keepdims=True) + 0.5) * np.arange(1, 6)
    np.testing.assert_allclose(norm(x).numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("frozen", [None, "x", "weight"])
def test_the_gradients_are_those_of_the_formula(frozen):
    norm, values, weight = RMSNorm(64, epsilon=1e-3), 3 * paddle.randn([2, 5, 64]), paddle.randn([2, 5, 64])
    norm.weight.set_value(paddle.randn([64]))
    norm.weight.stop_gradient = frozen == "weight"

    def outcome(function):
        x = values.clone().detach()
        x.stop_gradient = frozen == "x"
        norm.clear_gradients()
        out = function(x)
        (out * weight).sum().backward()
        return [out.numpy(), *(y.grad.numpy() for y in (x, norm.weight) if not y.stop_gradient)]

    got, want = outcome(norm), outcome(lambda x: formula(norm, x))
    assert len(got) == (3 if frozen is None else 2)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)  # 1.9e-6 measured
    with paddle.no_grad():
        np.testing.assert_array_equal(norm(values).numpy(), got[0])


def test_statistics_are_float32_under_autocast():
    """Autocast takes products down to half precision, but not these: sums of 64 squares of 100 overflow float16."""
    norm, x = RMSNorm(64, epsilon=1e-6), paddle.full([1, 64], 100.0)
    with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
        out = norm(x)
    np.testing.assert_allclose(out.numpy(), np.ones([1, 64]), rtol=1e-6)

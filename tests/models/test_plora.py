"""PLoRA: the formula, where it acts, and what it does while training."""

import numpy as np
import paddle
import pytest

from paddle_xc2.batch_layout import BatchLayout
from paddle_xc2.models.plora import ImageTokens, PLoRALinear, linear

# float32 on a CPU: largest difference over 20 seeds was 3.8e-6, of values of up to 60; 4x.
ATOL = 1.5e-5


def tokens(weights, span=None):
    """weights: [batch, seq] of 0 and 1."""
    return ImageTokens(paddle.to_tensor(weights).astype("bool"), "float32", span)


def layer(rank=5, alpha=10.0, dropout=0.0):
    layer = PLoRALinear(6, 7, rank, alpha, dropout, std=0.5)
    layer.plora_b.weight.set_value(paddle.randn([rank, 7]))
    return layer


def test_formula():
    plora, x = layer(), paddle.randn([2, 3, 6])
    image_weight = np.array([[0, 1, 1], [1, 0, 0]])
    got = plora(x, tokens(image_weight)).numpy()
    w, a, b = (part.weight.numpy() for part in (plora.linear, plora.plora_a, plora.plora_b))
    text = x.numpy() @ w
    image = text + 10.0 / 5 * (x.numpy() @ a @ b)
    np.testing.assert_allclose(got, np.where(image_weight[:, :, None] == 1, image, text), rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    "mask", [[[0, 1, 1], [1, 0, 0]], [[0, 0, 1], [0, 1, 0]], [[0, 0, 0], [1, 1, 0]], [[1] * 3] * 2]
)
@pytest.mark.parametrize("frozen", [(), ("linear",), ("plora_a", "plora_b"), ("x",)])
def test_where_the_span_of_images_is_known_nothing_else_is_computed(mask, frozen):
    plora, values = layer(), paddle.randn([2, 3, 6])
    for name in set(frozen) - {"x"}:
        getattr(plora, name).weight.stop_gradient = True

    def outcome(images):
        x = values.clone().detach()
        x.stop_gradient = "x" in frozen
        plora.clear_gradients()
        out = plora(x, images)
        (out * out).sum().backward()
        learning = [tensor for tensor in (x, *plora.parameters()) if not tensor.stop_gradient]
        return [out.numpy(), *(tensor.grad.numpy() for tensor in learning)]

    known = tokens(mask, BatchLayout.of(image_mask=mask).image_span)
    assert known.stop - known.start == np.ptp(np.flatnonzero(mask)) + 1
    for got, want in zip(outcome(known), outcome(tokens(mask)), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=4 * ATOL)  # 1.5e-5 measured, of gradients of up to 400


def test_text_tokens_are_those_of_the_plain_layer():
    plora, x = layer(), paddle.randn([2, 3, 6])
    plain = plora(x)
    np.testing.assert_array_equal(plain.numpy(), plora.linear(x).numpy())
    np.testing.assert_array_equal(plora(x, tokens([[0, 0, 0]] * 2)).numpy(), plain.numpy())
    mixed = plora(x, tokens([[1, 0, 0]] * 2))
    np.testing.assert_array_equal(mixed[:, 1:].numpy(), plain[:, 1:].numpy())
    assert (mixed[:, 0] - plain[:, 0]).abs().max() > 0.1


@pytest.mark.parametrize("span", [None, range(0)])
def test_text_only_batch_gives_zero_gradients_not_none(span):
    """Every rank of a data-parallel run reduces the same parameters, and AdamW decays them as upstream's does."""
    plora = layer(dropout=0.05)
    plora(paddle.randn([1, 3, 6]), tokens([[0, 0, 0]], span)).sum().backward()
    assert (plora.plora_a.weight.grad == 0).all() and (plora.plora_b.weight.grad == 0).all()
    plora.clear_gradients()
    plora(paddle.randn([1, 3, 6])).sum().backward()
    assert plora.plora_a.weight.grad is None or (plora.plora_a.weight.grad == 0).all()


def test_dropout_touches_the_update_alone():
    plora, x = layer(dropout=0.5), paddle.ones([1, 200, 6])
    on, off = tokens(np.ones([1, 200])), tokens(np.zeros([1, 200]))
    plora.train()
    dropped = plora(x, on)
    np.testing.assert_array_equal(plora(x, off).numpy(), plora.linear(x).numpy())
    plora.eval()
    kept = plora(x, on)
    different = (dropped - kept).abs().max(axis=-1) > 1e-3
    assert 0.9 < different.astype("float32").mean() <= 1.0  # six inputs: all are kept once in 64 times


def test_a_new_update_is_zero():
    plora, x = PLoRALinear(6, 7, 5, 10.0, 0.0, std=0.5), paddle.randn([1, 2, 6])
    np.testing.assert_array_equal(plora(x, tokens([[1, 1]])).numpy(), plora(x).numpy())


def test_parameter_names_and_layout():
    shapes = {name: list(parameter.shape) for name, parameter in layer().named_parameters()}
    assert shapes == {"linear.weight": [6, 7], "plora_a.weight": [6, 5], "plora_b.weight": [5, 7]}


@pytest.mark.parametrize("bias", [True, False])
def test_linear_initial_values(bias):
    made = linear(300, 200, std=0.25, bias=bias)
    assert abs(float(made.weight.std()) - 0.25) < 0.01  # 60,000 draws: three standard errors are 0.002
    assert (made.bias is None) != bias
    if bias:
        assert (made.bias == 0).all()

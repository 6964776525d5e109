"""Chunked cross-entropy against the plain one, values and gradients."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_xc2.batch_layout import BatchLayout
from paddle_xc2.families.special_tokens import IGNORE_INDEX
from paddle_xc2.models import loss as module
from paddle_xc2.models.loss import token_loss_sum

# float32 on a CPU: over 200 drawn cases the largest relative difference of the sum was 5.0e-6, the largest absolute one
# of a gradient (of up to 7.7) was 2.4e-6; 4x.
RTOL, ATOL = 2e-5, 1e-5


def plain_loss_sum(hidden_states, weight, labels, reduction="sum"):
    logits = paddle.matmul(hidden_states, weight)[:, :-1].reshape([-1, weight.shape[1]])
    return F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction=reduction)


def draw(batch=2, seq=7, hidden=5, vocab=11, ignored=0.5, seed=0, learning=(True, True)):
    paddle.seed(seed)
    rng = np.random.default_rng(seed)
    hidden_states, weight = paddle.randn([batch, seq, hidden]), paddle.randn([hidden, vocab])
    hidden_states.stop_gradient, weight.stop_gradient = not learning[0], not learning[1]
    labels = np.where(rng.random([batch, seq]) < ignored, IGNORE_INDEX, rng.integers(0, vocab, [batch, seq]))
    labels[0, -1] = 3  # at least one is trained
    return hidden_states, weight, paddle.to_tensor(labels)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    seq=st.integers(2, 9),
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    rows_a_chunk=st.sampled_from([1, 3, 1000]),
    seed=st.integers(0, 1000),
)
def test_chunked_is_plain(batch, seq, ignored, rows_a_chunk, seed):
    hidden_states, weight, labels = draw(batch, seq, ignored=ignored, seed=seed)
    before = module.CHUNK_ELEMENTS
    module.CHUNK_ELEMENTS = rows_a_chunk * 11
    try:
        got, losses = token_loss_sum(hidden_states, weight, labels)
    finally:
        module.CHUNK_ELEMENTS = before
    want = plain_loss_sum(hidden_states, weight, labels)
    alone = plain_loss_sum(hidden_states, weight, labels, reduction="none").numpy()
    trained = (labels[:, 1:] != IGNORE_INDEX).flatten().numpy()
    assert losses.stop_gradient
    np.testing.assert_allclose(losses.numpy(), alone[trained], rtol=RTOL, atol=ATOL)
    assert got.dtype == paddle.float32 and got.shape == []
    np.testing.assert_allclose(float(got), float(want), rtol=RTOL, atol=ATOL)
    tensors = [hidden_states, weight]
    for ours, theirs in zip(paddle.grad(got / 3.0, tensors), paddle.grad(want / 3.0, tensors), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=ATOL)


@pytest.mark.parametrize("learning", [(True, True), (True, False), (False, True), (False, False)])
def test_frozen_parts_get_no_gradient(learning):
    hidden_states, weight, labels = draw(learning=learning)
    got, _ = token_loss_sum(hidden_states, weight, labels)
    assert got.stop_gradient is not any(learning)
    all_learning = draw()
    want = plain_loss_sum(*all_learning)
    np.testing.assert_allclose(float(got), float(want), rtol=RTOL)
    if any(learning):
        got.backward()
    grads = paddle.grad(want, list(all_learning[:2]))
    for tensor, learns, grad in zip((hidden_states, weight), learning, grads, strict=True):
        assert (tensor.grad is not None) == learns
        if learns:
            np.testing.assert_allclose(tensor.grad.numpy(), grad.numpy(), rtol=0, atol=ATOL)


def test_evaluation_computes_no_gradient(monkeypatch):
    """The head learns, but nobody asks for its gradient: two of three products are saved."""
    hidden_states, weight, labels = draw()
    products = []
    matmul = paddle.matmul
    monkeypatch.setattr(paddle, "matmul", lambda *args, **kwargs: products.append(1) or matmul(*args, **kwargs))
    with paddle.no_grad():
        got, _ = token_loss_sum(hidden_states, weight, labels)
    assert got.stop_gradient and len(products) == 1


def test_large_logits_stay_finite():
    hidden_states, weight, labels = draw()
    got, _ = token_loss_sum(hidden_states * 1e4, weight, labels)
    got.backward()
    assert np.isfinite(float(got)) and np.isfinite(weight.grad.numpy()).all()


def test_nothing_trained():
    hidden_states, weight, _ = draw()
    labels = paddle.full([2, 7], IGNORE_INDEX, "int64")
    labels[:, 0] = 4  # the first token is predicted from nothing
    with pytest.raises(ValueError, match=r"no trained token: all of labels\[:, 1:\] is -100; .* check the answers"):
        token_loss_sum(hidden_states, weight, labels)


def test_places_that_are_known_already():
    hidden_states, weight, labels = draw(ignored=0.4)
    predicting = paddle.to_tensor(BatchLayout.of(labels.numpy()).predicting)
    got, losses = token_loss_sum(hidden_states, weight, labels, predicting)
    want, want_losses = token_loss_sum(hidden_states, weight, labels)
    assert float(got) == float(want) and losses.tolist() == want_losses.tolist()


def test_gradients_in_half_precision_are_scaled_in_float32(monkeypatch):
    """In place, a piece at a time: no float32 copy as large as the head is made, and the factor is not rounded."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 3 * 8)
    values = np.random.default_rng(0).standard_normal([10, 8]).astype("float32")
    tensor = paddle.to_tensor(values).astype("float16")
    want = (tensor.astype("float32").numpy() * np.float32(65536 / 3)).astype("float16")
    sizes = []
    astype = paddle.Tensor.astype
    monkeypatch.setattr(paddle.Tensor, "astype", lambda x, dtype: sizes.append(x.size) or astype(x, dtype))
    got = module._scale_(tensor, paddle.to_tensor(65536 / 3, "float32"))
    assert got is tensor and max(sizes) == 24
    np.testing.assert_array_equal(got.numpy(), want)


def test_float32_gradients_are_scaled_in_place():
    tensor = paddle.ones([4, 2])
    assert module._scale_(tensor, paddle.to_tensor(0.5)) is tensor
    assert (tensor == 0.5).all()


@pytest.mark.parametrize("in_place", [False, True])
def test_products_are_added(in_place):
    left, right, total = paddle.randn([5, 3]), paddle.randn([5, 4]), paddle.randn([3, 4])
    want = total.numpy() + left.numpy().T @ right.numpy()
    got = module._add_product(total, left, right, total.dtype, in_place)
    assert got is total
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=ATOL)
    alone = module._add_product(None, left, right, total.dtype, in_place)
    np.testing.assert_allclose(alone.numpy(), left.numpy().T @ right.numpy(), rtol=0, atol=ATOL)

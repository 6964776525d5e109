import numpy as np
import paddle
import pytest

from paddle_xc2.models.log_sum import add_to_picked_, logsumexp, pick, softmax_

# A likely word, none that is likely, and scores whose exponentials float32 can't hold.
LOGITS = np.concatenate([np.random.default_rng(0).normal(0, [[1], [5], [300]], (3, 50)), np.full((1, 50), -1e4)])


def test_it_is_the_log_of_the_sum():
    want = np.logaddexp.reduce(LOGITS, axis=1, keepdims=True)
    logits = paddle.to_tensor(LOGITS.astype("float32"))
    # float32: 6e-8 of values of up to 1e4.
    np.testing.assert_allclose(logsumexp(logits).numpy(), want, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(logits.numpy(), LOGITS.astype("float32"))
    np.testing.assert_allclose(softmax_(logits).numpy(), want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(logits.numpy(), np.exp(LOGITS - want), rtol=0, atol=3e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows(value):
    logits = LOGITS.astype("float32")
    logits[1, 7] = value
    finite = np.isfinite(logsumexp(paddle.to_tensor(logits)).numpy())
    assert finite.flatten().tolist() == [True, False, True, True]


def test_numbers_are_picked_and_added_to():
    x, columns = LOGITS.astype("float32"), np.array([[3], [0], [49], [7]])
    given = paddle.to_tensor(x)
    np.testing.assert_array_equal(pick(given, paddle.to_tensor(columns)).numpy(), np.take_along_axis(x, columns, 1))
    got = add_to_picked_(given, paddle.to_tensor(columns), -1.0).numpy()
    np.put_along_axis(x, columns, np.take_along_axis(x, columns, 1) - 1, 1)
    np.testing.assert_array_equal(got, x)

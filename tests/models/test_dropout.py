import numpy as np
import paddle
import pytest

from paddle_xc2.models.dropout import Dropout


def test_what_is_kept_is_scaled_and_the_gradient_goes_the_same_way():
    dropout, x = Dropout(0.25), paddle.full([100, 99], 3.0)
    x.stop_gradient = False
    out = dropout(x)
    out.sum().backward()
    kept = out.numpy() != 0
    np.testing.assert_allclose(out.numpy(), np.where(kept, 4.0, 0.0), rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), np.where(kept, 4.0 / 3.0, 0.0), rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 0.02  # 4.6 standard deviations
    assert abs(np.diff(kept.astype(int), axis=1)).mean() > 0.3  # neighbours are drawn each for itself


def test_the_same_seed_draws_the_same():
    dropout, x = Dropout(0.5), paddle.ones([7, 9])
    outs = []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        outs.append([dropout(x).numpy(), dropout(x).numpy()])
    np.testing.assert_array_equal(outs[0], outs[1])
    assert (outs[0][0] != outs[0][1]).any() and (outs[0][0] != outs[2][0]).any()


@pytest.mark.parametrize("off", [Dropout(0.0), Dropout(0.5)])
def test_where_nothing_is_dropped_nothing_is_done(off):
    x = paddle.ones([3, 4])
    if off.p:
        off.eval()
    assert off(x) is x

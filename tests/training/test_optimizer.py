import numpy as np
import paddle
import pytest

from paddle_xc2.training.optimizer import NormRecordingClip, StepGuard, read_optimizer, write_optimizer
from tests.tiny import tiny_model


def _step(model, optimizer, with_image):
    """One optimizer step on three tokens, with or without an image."""
    slots, pixels = np.zeros((1, 7), bool), []
    if with_image:
        slots[0, :4] = True
        pixels = [paddle.ones([3, 28, 28])]
    ids = paddle.arange(3, 10).unsqueeze(0)
    loss = model(ids, image_mask=paddle.to_tensor(slots), pixel_values=pixels, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.clear_grad(set_to_zero=False)
    optimizer._learning_rate.step()


def _optimizer(model):
    schedule = paddle.optimizer.lr.LambdaDecay(0.01, lambda step: 1 / (1 + step))
    return paddle.optimizer.AdamW(schedule, parameters=model.parameters(), weight_decay=0.1)


def test_optimizer_goes_on_as_it_was(tmp_path):
    """Also for parameters whose first gradient comes after the checkpoint: Paddle's own loading breaks on them."""
    model = tiny_model()
    optimizer = _optimizer(model)
    for _ in range(2):
        _step(model, optimizer, with_image=False)
    write_optimizer(tmp_path, model, optimizer, optimizer._learning_rate)
    again = tiny_model(seed=5)
    for parameter, value in zip(again.parameters(), model.parameters(), strict=True):
        parameter.set_value(value)
    restored = _optimizer(again)
    read_optimizer(tmp_path, again, restored, restored._learning_rate)
    assert restored.get_lr() == optimizer.get_lr()
    for one, other in ((model, optimizer), (again, restored)):
        for with_image in (True, False, True):
            _step(one, other, with_image)
    for (name, value), other in zip(model.named_parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(value.numpy(), other.numpy(), err_msg=name)


def test_loss_scale_is_kept(tmp_path):
    model = tiny_model()
    optimizer = _optimizer(model)
    _step(model, optimizer, with_image=True)
    guard = StepGuard(1024.0)
    guard.in_a_row, guard._good_steps = 2, 7
    write_optimizer(tmp_path, model, optimizer, optimizer._learning_rate, guard)
    restored = StepGuard(1.0)
    read_optimizer(tmp_path, model, _optimizer(model), optimizer._learning_rate, restored)
    assert restored.state_dict() == guard.state_dict() == {"scale": [1024.0], "incr_count": 7, "skipped": 2}
    assert restored.scale(paddle.to_tensor(3.0)).item() == 3072.0


def test_state_of_paddles_own_scaler_is_taken(tmp_path):
    """As earlier versions wrote it."""
    guard = StepGuard(1.0)
    guard.load_state_dict({"scale": [512.0], "incr_ratio": 2.0, "incr_count": 3, "decr_count": 0})
    assert (guard.loss_scale, guard._good_steps, guard.in_a_row) == (512.0, 3, 0)


@pytest.mark.parametrize("limit", [0.0, 1.0, 100.0])
def test_clipping(limit):
    grads = [paddle.to_tensor([3.0, 0.0]), paddle.to_tensor([[4.0]])]
    clip = NormRecordingClip(limit)
    clipped = clip._dygraph_clip([(None, grad) for grad in grads])
    assert float(clip.last_norm) == pytest.approx(5.0)
    factor = 0.2 if limit == 1.0 else 1.0
    np.testing.assert_allclose(clipped[0][1].numpy(), [3 * factor, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped[1][1].numpy(), [[4 * factor]], rtol=1e-6)

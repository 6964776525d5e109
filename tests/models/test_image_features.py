"""Pictures to image tokens, and image tokens to their slots."""

import numpy as np
import paddle
import pytest

from paddle_xc2.models import image_features as module
from paddle_xc2.models.image_features import build_projector, encode_squares, fill_image_slots
from tests.tiny import tiny_config, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def images(count):
    return [paddle.randn([3, 28, 28]) for _ in range(count)]


def test_projector_is_upstreams(golden, golden_model):
    features = paddle.to_tensor(golden.array("vit.feat.china_640x427.jpg"))
    with paddle.no_grad():
        got = golden_model.vision_proj(features)
    # float32 on a CPU: 7.2e-7, of values of up to 4; 5x.
    assert golden.difference(got.numpy(), "proj.china_640x427.jpg") < 4e-6


def test_projector_parameters():
    config = tiny_config()
    shapes = {name: list(parameter.shape) for name, parameter in build_projector(config).named_parameters()}
    assert shapes == {"0.weight": [32, 64], "0.bias": [64], "2.weight": [64, 64], "2.bias": [64]}


def test_many_images_are_those_one_by_one(model, monkeypatch):
    """However many go through the ViT at once, and whether a graph is kept."""
    pictures = images(5)
    one_by_one = paddle.concat([encode_squares(model.vit, model.vision_proj, [picture]) for picture in pictures])
    assert one_by_one.shape == [5 * 4, 64]
    with_graph = encode_squares(model.vit, model.vision_proj, pictures)
    monkeypatch.setattr(module, "IMAGES_AT_ONCE", 2)
    with paddle.no_grad():
        in_turn = encode_squares(model.vit, model.vision_proj, pictures)
    for got in (with_graph, in_turn):
        # float32 on a CPU: equal up to the order of sums; none measured.
        np.testing.assert_allclose(got.numpy(), one_by_one.numpy(), rtol=0, atol=1e-5)


def test_a_frozen_vit_keeps_no_graph_but_the_projector_learns():
    model = tiny_model()
    for parameter in model.vit.parameters():
        parameter.stop_gradient = True
    seen = []
    model.vit.register_forward_post_hook(lambda layer, inputs, out: seen.append(out.stop_gradient))
    encode_squares(model.vit, model.vision_proj, images(1)).sum().backward()
    assert seen == [True]
    assert model.vision_proj[0].weight.grad.abs().sum() > 0


def slots(mask):
    """int64 [slots]: where the mask is true."""
    return paddle.to_tensor(np.flatnonzero(mask))


def test_slots_are_filled_in_reading_order():
    embeddings, features = paddle.zeros([2, 4, 3]), paddle.arange(1, 10, dtype="float32").reshape([3, 3])
    mask = [[False, True, True, False], [True, False, False, False]]
    got = fill_image_slots(embeddings + 100.0, features, slots(mask)).numpy()
    np.testing.assert_array_equal(got[0, :, 0], [100, 1, 4, 100])
    np.testing.assert_array_equal(got[1, :, 2], [9, 100, 100, 100])


def test_gradients_of_slots_and_text():
    embeddings, features = paddle.randn([1, 3, 2]), paddle.randn([2, 2])
    embeddings.stop_gradient = features.stop_gradient = False
    weight = paddle.to_tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    (fill_image_slots(embeddings, features, slots([[True, False, True]])) * weight).sum().backward()
    np.testing.assert_array_equal(embeddings.grad.numpy()[0], [[0, 0], [3, 4], [0, 0]])
    np.testing.assert_array_equal(features.grad.numpy(), [[1, 2], [5, 6]])


@pytest.mark.parametrize("num_slots", [1, 3])
def test_slots_and_features_that_do_not_match(num_slots):
    mask = [[index < num_slots for index in range(4)]]
    message = f"input_ids hold {num_slots} image slots, the images give 2 image tokens; check that no sample is cut"
    with pytest.raises(ValueError, match=message):
        fill_image_slots(paddle.zeros([1, 4, 3]), paddle.zeros([2, 3]), slots(mask))

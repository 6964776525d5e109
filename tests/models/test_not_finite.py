import math

import numpy as np
import paddle
import pytest

from paddle_xc2.models.lora import LoRALinear, layer_at, replace_layer
from paddle_xc2.models.not_finite import describe_not_finite
from tests.tiny import tiny_model


def batch(model):
    """A picture between words."""
    slots = model.config.num_image_tokens
    side = model.config.img_size
    mask = np.array([[False, *[True] * slots, False, False]])
    return {
        "input_ids": paddle.to_tensor(np.where(mask, 0, 7)),
        "image_mask": paddle.to_tensor(mask),
        "pixel_values": [paddle.randn([3, side, side])],
        "labels": paddle.to_tensor(np.where(mask, -100, 7)),
    }


def spoil(model, name):
    parameter = dict(model.named_parameters())[name]
    values = parameter.numpy()
    values.flat[0] = math.nan
    parameter.set_value(values)


def test_a_sound_model():
    model = tiny_model()
    assert describe_not_finite(model, **batch(model)) == ""


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("vit.patch_embedding.weight", "vit.layers.0"),
        ("vit.layers.1.mlp.fc1.weight", "vit.layers.1"),
        ("vision_proj.2.weight", "vision_proj"),
        ("model.tok_embeddings.weight", "model.tok_embeddings"),
        ("model.layers.1.attention.wo.linear.weight", "model.layers.1"),
        ("model.layers.0.feed_forward.w1.plora_a.weight", "model.layers.0"),
        ("model.norm.weight", "model.norm"),
        ("output.weight", "output"),
    ],
)
def test_the_layer_and_the_parameter_are_named(name, begins):
    model = tiny_model()
    spoil(model, name)
    assert describe_not_finite(model, **batch(model)) == (
        f"the model computes NaN, in float32, and it begins at {begins}, where the weights {name} "
        "are not finite; load sound ones, or make them anew"
    )


def test_what_takes_no_part_is_not_blamed():
    model = tiny_model()
    spoil(model, "vit.layers.0.mlp.fc1.weight")
    text = {"input_ids": paddle.to_tensor([[5, 6, 7]])}
    assert describe_not_finite(model, **text) == ""
    spoil(model, "model.layers.1.feed_forward.w2.linear.weight")
    assert "where the weights model.layers.1.feed_forward.w2.linear.weight are not finite;" in describe_not_finite(
        model, **text
    )


def test_only_the_first_parameters_are_named():
    model = tiny_model()
    for part in ("attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w2"):
        spoil(model, f"model.layers.0.{part}.linear.weight")
    assert "w1.linear.weight and 1 more are not finite;" in describe_not_finite(model, **batch(model))


def test_parameters_of_lora_are_named_as_in_its_files():
    model = tiny_model()
    path = "model.layers.1.feed_forward.w2.linear"
    replace_layer(model, path, LoRALinear(layer_at(model, path), rank=2, scaling=2.0))
    spoil(model, "model.layers.1.feed_forward.w2.linear.lora_a")
    spoil(model, "model.layers.1.feed_forward.w2.linear.base.weight")
    said = describe_not_finite(model, **batch(model))
    assert "model.layers.1.feed_forward.w2.linear.lora_a" in said
    assert "model.layers.1.feed_forward.w2.linear.weight" in said


def test_weights_that_are_finite_but_too_large():
    model = tiny_model()
    model.model.layers[1].ffn_norm.weight.set_value(paddle.full([model.config.hidden_size], 1e30))
    assert describe_not_finite(model, **batch(model)).endswith(
        "it begins at model.layers.1, though all weights are finite: they are too large, or damaged"
    )


def test_float16_is_too_narrow():
    """A CPU has no products in float16: a layer's output stands for it."""
    model = tiny_model()
    model.model.layers[1].register_forward_post_hook(
        lambda layer, inputs, output: paddle.full_like(output, math.inf).astype("float16")
    )
    model.model.norm.register_forward_pre_hook(lambda layer, inputs: (inputs[0].astype("float32"),))
    assert describe_not_finite(model, **batch(model)) == (
        "the model computes infinity, in float16, and it begins at model.layers.1; the weights are finite, but float16 "
        "ends at 65504: compute in bfloat16 or float32"
    )


def test_image_features_that_are_given():
    model = tiny_model()
    given = batch(model)
    pixels = given.pop("pixel_values")
    spoil(model, "vision_proj.0.bias")
    with paddle.no_grad():
        given["image_features"] = model.image_tokens(pixels)
    assert describe_not_finite(model, **given).startswith(
        "the model computes NaN, in float32, and it begins at the image features, where the weights "
        "vision_proj.0.bias are not finite;"
    )


def test_nothing_stays_behind():
    model = tiny_model()
    model.train()
    spoil(model, "output.weight")
    describe_not_finite(model, **batch(model))
    assert model.training
    assert not any(layer._forward_post_hooks for layer in model.sublayers())

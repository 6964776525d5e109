"""The vision transformer: stage by stage against upstream, its position table, its errors."""

import numpy as np
import paddle
import pytest

from paddle_xc2.families.settings import VisionConfig
from paddle_xc2.models.clip_vit import ClipVisionTransformer, resize_position_table

PICTURE = "china_640x427.jpg"


@pytest.fixture(scope="module")
def pixels(golden):
    """The golden picture as the model's input, float32 [1, 3, 224, 224]."""
    from PIL import Image

    from paddle_xc2.data.images.pixels import square_image

    return paddle.to_tensor(square_image(Image.open(golden.images / PICTURE), 224)).unsqueeze(0)


def test_every_stage_is_upstreams(golden, golden_model, pixels):
    # float32 on a CPU: 0 (pixels), 3.8e-6 and 5.0e-6, of values of up to 7; 4x.
    assert golden.difference(pixels.numpy(), f"pix.chat.{PICTURE}") < 1e-6
    stages = []
    vit = golden_model.vit
    hooks = [vit.pre_layrnorm.register_forward_post_hook(lambda layer, inputs, out: stages.append(out))]
    hooks += [layer.register_forward_post_hook(lambda layer, inputs, out: stages.append(out)) for layer in vit.layers]
    with paddle.no_grad():
        features = vit(pixels)
    for hook in hooks:
        hook.remove()
    for index, stage in enumerate(stages[:2]):
        assert golden.difference(stage.numpy(), f"vit.hidden{index}.{PICTURE}") < 2e-5
    assert golden.difference(features.numpy(), f"vit.feat.{PICTURE}") < 2e-5


@pytest.mark.parametrize("side", [10, 16, 35, 48])
def test_position_table_is_resized_as_upstream(full_golden, side):
    """24 x 24 patches to fewer and to more. 1.2e-6 measured, of values of up to 2."""
    table = paddle.to_tensor(full_golden.array("pos_embed.native"))
    got = resize_position_table(table, side).numpy()
    assert full_golden.difference(got, f"pos_embed.resized_{side}") < 5e-6


def test_position_table_made_smaller(golden):
    table = paddle.to_tensor(golden.array("pos_embed.native"))
    got = resize_position_table(table, 10)
    assert golden.difference(got.numpy(), "pos_embed.resized_10") < 5e-6
    assert (got[0] == table[0]).all()  # the class token has no place to move


def test_position_table_of_the_right_size_is_left_alone():
    table = paddle.randn([1 + 9, 4])
    assert resize_position_table(table, 3) is table


def test_position_table_of_no_square():
    with pytest.raises(ValueError, match=r"position table of 9 rows is not one of a square image \(1 \+ n \* n rows\)"):
        resize_position_table(paddle.zeros([9, 4]), 3)


def small_vit(**changes):
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 4,
    }
    return ClipVisionTransformer(VisionConfig(**{**sizes, **changes}), patches_per_side=3, std=0.3)


def test_images_of_another_size():
    with pytest.raises(
        ValueError, match="16 x 8 pixels, the vision encoder takes 12 x 12; use the processor of the same"
    ):
        small_vit()(paddle.zeros([1, 3, 16, 8]))


def test_images_do_not_see_each_other():
    vit, images = small_vit(), paddle.randn([3, 3, 12, 12])
    one_by_one = paddle.concat([vit(image.unsqueeze(0)) for image in images])
    # float32 on a CPU: equal up to the order of sums; none measured.
    np.testing.assert_allclose(vit(images).numpy(), one_by_one.numpy(), rtol=0, atol=3e-6)


def test_recompute_gives_the_same_gradients():
    vit, images = small_vit(num_hidden_layers=3), paddle.randn([2, 3, 12, 12])
    vit.train()

    def gradients():
        vit.clear_gradients()
        (vit(images) ** 2).sum().backward()
        return {name: parameter.grad.numpy() for name, parameter in vit.named_parameters()}

    plain = gradients()
    vit.use_recompute = True
    calls = []
    vit.layers[0].register_forward_post_hook(lambda layer, inputs, out: calls.append(1))
    again = gradients()
    assert len(calls) == 2  # once forward, once more for the backward pass
    for name in plain:
        np.testing.assert_array_equal(again[name], plain[name], err_msg=name)


def test_every_parameter_learns():
    """None is left without a gradient: the norm that upstream never uses has no weights here."""
    vit = small_vit()
    (vit(paddle.randn([1, 3, 12, 12])) ** 2).sum().backward()
    silent = [name for name, parameter in vit.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # A key's bias shifts all scores of a query alike, which softmax ignores.
    assert all(name.endswith("k_proj.bias") for name in silent)


def test_query_and_value_alone_can_learn():
    """As under LoRA on two of the projections: the key of the first layer then has no gradient to give."""
    vit = small_vit()
    for name, parameter in vit.named_parameters():
        parameter.stop_gradient = not name.startswith(("layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj"))
    vit(paddle.randn([1, 3, 12, 12])).sum().backward()
    assert vit.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
    assert vit.layers[0].self_attn.k_proj.weight.grad is None

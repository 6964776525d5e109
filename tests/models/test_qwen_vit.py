"""Qwen-VL's vision transformer and resampler."""

import json

import numpy as np
import paddle
import pytest

from paddle_xc2.models.attention import attention
from paddle_xc2.models.qwen_vit import QwenProjector, QwenVisionTransformer
from tests.tiny import tiny_qwen_config

ATOL = 3e-5  # float32 on a CPU, as of the other vision transformers


def parts(**changes):
    paddle.seed(0)
    config = tiny_qwen_config(**changes)
    vit, projector = QwenVisionTransformer(config.vision, config.patches_per_side, 0.15), QwenProjector(config.vision)
    return vit, projector


def pictures(number, side=42):
    return paddle.to_tensor(np.random.default_rng(0).normal(size=[number, 3, side, side]).astype("float32"))


@pytest.mark.parametrize("side", [28, 42, 280])
def test_every_size_of_image_gives_as_many_tokens(side):
    vit, projector = parts(visual_image_size=side)
    patches = vit(pictures(1, side))
    assert patches.shape == [1, (side // 14) ** 2, 32] and projector(patches).shape == [1, 4, 64]


def test_a_batch_equals_its_images():
    vit, projector = parts()
    images = pictures(2)
    with paddle.no_grad():
        together = projector(vit(images)).numpy()
        alone = np.concatenate([projector(vit(image.unsqueeze(0))).numpy() for image in images])
    np.testing.assert_allclose(together, alone, rtol=0, atol=ATOL)
    assert np.abs(together[0] - together[1]).max() > 1e-2


def test_each_head_has_query_key_and_value_side_by_side():
    vit, _ = parts()
    layer = vit.layers[0].attn
    states = paddle.randn([1, 9, 32])
    rows = layer.in_proj(states).reshape([1, 9, 2, 48])
    query, key, value = (rows[..., start : start + 16] for start in (0, 16, 32))
    want = layer.out_proj(attention(query, key, value, causal=False).reshape([1, 9, 32]))
    np.testing.assert_allclose(layer(states).numpy(), want.numpy(), rtol=0, atol=ATOL)


def test_patches_as_wide_as_tokens_are_not_projected():
    _, projector = parts(visual_width=64)
    assert not [name for name, _ in projector.named_parameters() if "kv_proj" in name]


def test_values_get_no_positions():
    """Patches that are all equal give every query the same, wherever they lie."""
    vit, projector = parts()
    tokens = projector(paddle.ones([1, 9, 32])).numpy()
    np.testing.assert_allclose(tokens, np.repeat(tokens[:, :1], 4, axis=1), rtol=0, atol=ATOL)


def test_another_size_is_refused():
    vit, _ = parts()
    with pytest.raises(ValueError, match="pixel_values are 28 x 28 pixels, the vision encoder takes 42 x 42"):
        vit(pictures(1, 28))


def test_recompute_gives_the_same_gradients():
    def gradients(recompute):
        vit, projector = parts()
        vit.use_recompute = recompute
        projector(vit(pictures(1))).square().sum().backward()
        return [parameter.grad.numpy() for parameter in (*vit.parameters(), *projector.parameters())]

    for kept, again in zip(gradients(False), gradients(True), strict=True):
        np.testing.assert_array_equal(kept, again)


def test_the_fixed_table_is_upstreams(shared):
    """Of the reference checkpoint, which has it rounded to bfloat16: 8 bits of 1."""
    from paddle_xc2.checkpoint.shards import read_checkpoint
    from paddle_xc2.families.upstream_settings import model_settings

    checkpoint = shared / "goldens" / "qwen_vl" / "ckpt"
    config = model_settings(json.loads((checkpoint / "config.json").read_text(encoding="utf-8")), "config.json")
    name = "transformer.visual.attn_pool.pos_embed"
    stored = read_checkpoint(checkpoint)[name].load("float32", name)
    np.testing.assert_allclose(config.vision.position_sines(), stored, rtol=0, atol=2**-9)

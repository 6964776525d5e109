"""The configuration: defaults, what follows from it, round trip, and the values that it refuses."""

import pytest

from paddle_xc2 import XComposer2Config
from paddle_xc2.families.settings import VisionConfig
from paddle_xc2.model import XComposer2ForCausalLM
from tests.tiny import tiny_config


def test_released_sizes_are_the_defaults():
    config = XComposer2Config(img_size=490)
    assert config.family.name == "xcomposer2-vl-7b" and config.num_image_tokens == 1225
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (4096, 32, 92544)
    assert (config.head_dim, config.patches_per_side) == (128, 35)
    assert config.vision == VisionConfig(1024, 4096, 24, 16, 14, 1e-5, "quick_gelu")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)
    assert config.plora_dropout == 0.05 and config.chat_layout is None


def test_small_models_follow_from_their_sizes():
    config = tiny_config(img_size=42)
    assert (config.head_dim, config.patches_per_side, config.num_image_tokens) == (16, 3, 9)
    assert config.family.name == "xcomposer2-vl-7b"
    assert tiny_config(xc2_family="xcomposer2-7b", img_size=None).num_image_tokens == 256
    assert tiny_config(num_key_value_heads=None).num_key_value_heads == 4


def test_there_and_back():
    """Sizes, the family, and keys that we don't know: a config.json is written back as it was read."""
    config = tiny_config(
        rope_scaling={"type": "dynamic", "factor": 2.0},
        chat_layout="as_trained",
        model_type="internlm",
        xc2_family="xcomposer2-7b",
        auto_map={"AutoModel": "a.B"},
        somebodys_key=[1, 2],
    )
    written = config.to_dict()
    again = XComposer2Config.from_dict(written)
    assert again.to_dict() == written
    assert again.family.name == "xcomposer2-7b" and again.img_size == 28 and again.vision == config.vision
    assert (again.auto_map, again.somebodys_key) == ({"AutoModel": "a.B"}, [1, 2])
    assert again.architectures == ["InternLMXComposer2ForCausalLM"]


def test_vision_config_ignores_keys_of_other_libraries():
    vision = VisionConfig.from_dict({"hidden_size": 32, "image_size": 336, "_note": "hi"})
    assert vision == VisionConfig(hidden_size=32)


def test_copy_is_independent():
    config = tiny_config()
    copied = config.copy()
    copied.use_recompute, copied.vision_config["hidden_size"] = True, 99
    assert not config.use_recompute and config.vision_config["hidden_size"] == 32


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_size": 66}, "hidden_size 66 is no multiple of num_attention_heads 4"),
        ({"hidden_size": 12}, "hidden_size / num_attention_heads is 3, but rotary embedding needs an even number"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        (
            {"vision_config": {"num_attention_heads": 5}},
            "vision_config: hidden_size 1024 is no multiple of num_attention_he",
        ),
        ({"img_size": 30}, "img_size 30 is no multiple of 14 pixels, the side of an image token"),
        (
            {"vision_config": {"hidden_act": "gelu"}},
            'vision_config: hidden_act "gelu" is not supported, only "quick_gelu"',
        ),
        ({"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported, only "silu"'),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, 'rope_scaling: type "yarn" is not one of linear, dynamic'),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is None, but must be a number of at least 1"),
        (
            {"rope_scaling": {"type": "linear", "factor": 0.5}},
            "rope_scaling: factor is 0.5, but must be a number of at",
        ),
        ({"bias": True}, "bias true is not supported: no released checkpoint has biases in the language model"),
        ({"chat_layout": "mine"}, 'chat_layout "mine" is not one of official, as_trained'),
    ],
)
def test_values_that_contradict(change, message):
    with pytest.raises(ValueError) as caught:
        tiny_config(**change)
    assert str(caught.value).startswith(f"the model configuration does not hold together: {message}")


def test_all_contradictions_are_named_at_once():
    with pytest.raises(
        ValueError, match="img_size 30 is no multiple of 14 .*; hidden_act .*; bias true is not supported"
    ):
        tiny_config(img_size=30, hidden_act="gelu", bias=True)


def test_another_architecture():
    with pytest.raises(ValueError, match=r"XComposer2Config: architectures is \['LlamaForCausalLM'\], expected"):
        XComposer2Config(architectures=["LlamaForCausalLM"])


def test_the_model_has_the_sizes_of_its_configuration():
    config = tiny_config(
        hidden_size=40, intermediate_size=72, num_attention_heads=4, num_key_value_heads=2, img_size=42
    )
    shapes = {name: list(parameter.shape) for name, parameter in XComposer2ForCausalLM(config).named_parameters()}
    assert shapes["model.tok_embeddings.weight"] == [400, 40] and shapes["output.weight"] == [40, 400]
    assert shapes["model.layers.1.attention.wqkv.linear.weight"] == [40, (4 + 2 * 2) * 10]
    assert shapes["model.layers.1.attention.wqkv.plora_a.weight"] == [40, 256]
    assert shapes["model.layers.0.feed_forward.w2.linear.weight"] == [72, 40]
    assert shapes["vit.position_embedding.weight"] == [1 + 9, 32]
    assert shapes["vit.patch_embedding.weight"] == [32, 3, 14, 14]
    assert shapes["vision_proj.0.weight"] == [32, 40]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": "64"}, "hidden_size is '64', but must be a whole number above 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, but must be a whole number above 0"),
        ({"img_size": 28.0}, "img_size is 28.0, but must be a whole number above 0"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', but must be an object of settings, or null"),
        ({"vision_config": 3}, "vision_config is 3, but must be an object of settings, or null"),
        (
            {"vision_config": {"patch_size": None}},
            "vision_config: patch_size is None, but must be a whole number above 0",
        ),
    ],
)
def test_values_of_the_wrong_kind(values, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**values)

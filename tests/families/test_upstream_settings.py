"""A config.json of any version of transformers: used, kept, or refused by name; never passed over."""

import pytest

from paddle_xc2 import XComposer2Config
from paddle_xc2.families.quantized_base import quantized_by
from paddle_xc2.families.rope_settings import read_rope, with_rope
from paddle_xc2.families.settings import ModelSettings
from paddle_xc2.families.upstream_settings import UPSTREAM_DEFAULTS, model_settings, settings_of

CONTENT = {
    "architectures": ["InternLMXComposer2ForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "vocab_size": 400,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
    "max_position_embeddings": 32768,
    "img_size": 224,
}


def config_of(**changes):
    content = {name: value for name, value in {**CONTENT, **changes}.items() if value != "left out"}
    return model_settings(content, "config.json")


def refusal(**changes):
    with pytest.raises(ValueError) as caught:
        config_of(**changes)
    return str(caught.value)


def test_what_is_not_there_is_upstreams_default():
    left_out = dict.fromkeys(
        ("rope_theta", "rms_norm_eps", "max_position_embeddings", "num_key_value_heads"), "left out"
    )
    config = config_of(**left_out)
    assert (config.rope_theta, config.rms_norm_eps, config.max_position_embeddings) == (10000, 1e-6, 2048)
    assert config.num_key_value_heads == 8 == config.num_attention_heads
    sizes = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
    config = config_of(**left_out, **dict.fromkeys(sizes, "left out"))
    assert {name: getattr(config, name) for name in sizes} == {name: UPSTREAM_DEFAULTS[name] for name in sizes}
    assert not config.bias  # upstream's default is true, but biases that are not in the weights are zeros


def test_ours_keep_our_defaults():
    ours = {"xc2_layout": "paddle", "xc2_family": "xcomposer2-7b"}
    config = config_of(**ours, rope_theta="left out", rms_norm_eps="left out", max_position_embeddings="left out")
    assert (config.rope_theta, config.rms_norm_eps, config.max_position_embeddings) == (1000000, 1e-5, 32768)
    assert config_of(**ours, num_key_value_heads=None).num_key_value_heads == 8  # as many as there are heads


@pytest.mark.parametrize(
    "name",
    ["num_key_value_heads", "eos_token_id", "bos_token_id", "pad_token_id", "rope_scaling", "rope_parameters"]
    + ["img_size", "vision_config", "tie_word_embeddings", "bias", "max_length", "head_dim", "quantization_config"]
    + ["xc2_family", "chat_layout", "initializer_range", "sliding_window", "torch_dtype", "num_image_tokens", "copy"],
)
def test_null_is_not_there(name):
    assert vars(config_of(**{name: None})) == vars(config_of(**{name: "left out"}))


@pytest.mark.parametrize("name", ["rope_theta", "rms_norm_eps", "hidden_size", "vocab_size", "hidden_act"])
def test_null_where_upstream_computes_with_it(name):
    assert refusal(**{name: None}).startswith(f"config.json: {name} is null, which is no number; write it, or leave ")


@pytest.mark.parametrize(
    "name",
    ["family", "vision", "num_image_tokens", "patches_per_side", "projector_inputs", "check", "copy", "to_dict"]
    + ["__class__", "self", "kwargs", "name_or_path", "is_taken", "id2label", "somebodys_key"],
)
def test_keys_that_are_of_no_meaning_to_upstream(name):
    """Some are names of what our class is or does."""
    assert vars(config_of(**{name: 3})) == vars(config_of())
    config = XComposer2Config.from_dict({**CONTENT, name: "x"} if name != "id2label" else CONTENT)
    assert config.hidden_size == 64 and config.family.name == "xcomposer2-7b"


def test_a_name_that_is_taken_is_no_argument():
    for name in ("head_dim", "rope_parameters", "to_dict"):
        with pytest.raises(ValueError, match=f'"{name}" has a meaning of its own here; leave it out'):
            XComposer2Config(img_size=224, **{name: 3})


def test_head_dim_is_what_follows_from_the_sizes():
    assert config_of(head_dim=8).head_dim == 8
    assert "head_dim is 16, which is not supported, only hidden_size / num_attention_heads = 8" in refusal(head_dim=16)


def test_a_misspelt_setting_is_no_unknown_key():
    """A default would step in for what it says."""
    content = {**CONTENT, "rms_norm_epss": 1e-5, "transformers_version": "4.33.1", "rope_thetas": 5}
    del content["rms_norm_eps"]
    with pytest.raises(ValueError) as error:
        settings_of(content, "config.json")
    assert str(error.value) == 'config.json: "rms_norm_epss" is no setting; did you mean "rms_norm_eps"?'
    settings_of({**content, "rms_norm_eps": 1e-5}, "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True, which is not supported, only False"),
        ({"sliding_window": 4096}, "sliding_window is 4096, which is not supported, only null"),
        ({"attention_bias": True}, "attention_bias is True, which is not supported, only False"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, which is not supported, only 1"),
        (
            {"logit_scale": 0.1, "qkv_bias": True},
            "qkv_bias is True, which is not supported, only False; logit_",
        ),
        ({"bias": True}, "bias true is not supported"),
        ({"bias": 1}, "bias is 1, but must be true or false"),
        ({"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported, only "silu"'),
        ({"hidden_act": ["silu"]}, "hidden_act is ['silu'], but must be a name"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', but must be a number from 0 to 1"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, but must be a number from 0 to 1"),
        ({"rope_theta": True}, "rope_theta is True, but must be a number from 1 to 1e+12"),
        ({"rope_theta": -1}, "rope_theta is -1, but must be a number from 1 to 1e+12"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, but must be 1000 at most"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000, but must be 65536 at most"),
        ({"vocab_size": "x" * 10**5}, "vocab_size is 'xxx"),
        ({"pad_token_id": -1}, "pad_token_id is -1, but must be the id of a token, from 0 to 399"),
        ({"eos_token_id": [2, 400]}, "eos_token_id is [2, 400], but must be the id of a token, from 0 to 399"),
        ({"bos_token_id": [1]}, "bos_token_id is [1], but must be the id of a token"),
        ({"xc2_family": ["x"]}, "unknown model family \"['x']\"; known are"),
        ({"architectures": "InternLM"}, "architectures is 'InternLM', but must be a list of names"),
        (
            {"vision_config": {"num_hidden_layers": 10**6}},
            "vision_config: num_hidden_layers is 1000000, but must be",
        ),
        ({"vision_config": {"layer_norm_eps": "x"}}, "vision_config: layer_norm_eps is 'x', but must be a number"),
        ({"vision_config": [3]}, "vision_config is [3], but must be an object of settings, or null"),
        ({"hd_num": "18"}, "hd_num is '18', but must be a whole number above 0"),
        ({"pad_image_to_square": "yes"}, "pad_image_to_square is 'yes', but must be true, false or null"),
        ({"chat_layout": ["x"]}, "chat_layout is ['x'], but must be a name"),
        ({"rope_scaling": {"type": "dynamic", "factor": float("inf")}}, "rope_scaling: factor is inf, but must be"),
    ],
)
def test_what_is_refused_by_name(changes, message):
    said = refusal(**changes)
    assert message in said and len(said) < 400


def test_several_tokens_may_end_a_text():
    assert config_of(eos_token_id=[2, 399]).eos_token_id == [2, 399]


@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
        ({"quant_method": "awq"}, "'awq'"),
        ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "'bitsandbytes'"),
        ({"bits": 4, "group_size": 128}, "4"),
        ("fp8", "'fp8'"),
    ],
)
def test_a_quantized_base_is_named(quantization, method):
    said = refusal(quantization_config=quantization)
    assert said.startswith(f"config.json: quantization_config ({method}): the weights are quantized, which can't")
    assert "take the model as it was before" in said


def test_settings_of_quantizing_that_say_nothing():
    """PaddleNLP writes them into every config.json."""
    assert config_of(quantization_config={"quant_type": None, "weight_quantize_algo": None}).hidden_size == 64


def test_names_of_quantized_tensors():
    assert "(GPTQ or AWQ)" in quantized_by(["a.norm.weight", "a.qweight"])
    assert "4 bits" in quantized_by(["a.weight.absmax", "a.weight.quant_state.bitsandbytes__nf4"])
    assert "8 bits" in quantized_by(["a.weight", "a.SCB"]) and quantized_by(["a.weight", "b.bias"]) is None


class TestRope:
    """One setting, two spellings."""

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, (5e5, None)),
            ({"rope_parameters": {"rope_theta": 5e5}}, (5e5, None)),
            ({"rope_parameters": {}}, (1e6, None)),
            ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "linear", "factor": 4.0}}, (1e6, ("linear", 4.0))),
            ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, (1e6, ("dynamic", 2))),
            ({"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2}}, (1e6, ("linear", 2))),
            ({"rope_scaling": {"rope_type": "default", "factor": None}}, (1e6, None)),
            (
                {"rope_scaling": {"type": "dynamic", "factor": 2, "original_max_position_embeddings": 32768}},
                (1e6, ("dynamic", 2)),
            ),
            (  # both, and they agree
                {
                    "rope_scaling": {"type": "linear", "factor": 4},
                    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "linear", "factor": 4.0},
                },
                (1e6, ("linear", 4)),
            ),
            ({"rope_theta": None, "rope_parameters": {"rope_theta": 7e5}}, (7e5, None)),
        ],
    )
    def test_every_spelling_is_read(self, values, expected):
        if "rope_parameters" in values and "rope_theta" not in values and "rope_theta" in values["rope_parameters"]:
            values = {"rope_theta": "left out", **values}
        config = config_of(**values)
        scaling = config.rope_scaling and (config.rope_scaling["type"], config.rope_scaling["factor"])
        assert (config.rope_theta, scaling) == expected

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                {"rope_parameters": {"rope_theta": 5e5}},
                "rope_theta is 1000000 in rope_theta and 500000.0 in rope_parameters; keep one of them",
            ),
            (
                {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 1000000}},
                "rope_scaling is {'factor': 2, 'type': 'linear'} in rope_scaling and None in rope_parameters; keep one",
            ),
            (
                {"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2}},
                "rope_scaling: type is 'linear' and rope_type 'dynamic'; keep one",
            ),
            (
                {"rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_fast": 32}},
                "rope_scaling: beta_fast is 32, which is not supported; only type and factor are",
            ),
            ({"rope_scaling": {"rope_type": "llama3", "factor": 2}}, 'type "llama3" is not one of linear, dynamic'),
            ({"rope_scaling": {"factor": 2}}, 'type "None" is not one of linear, dynamic'),
            (
                {"rope_parameters": {"full_attention": {"rope_theta": 1}}},
                "rope_parameters: full_attention is {'rope_theta': 1}, which is not supported",
            ),
            ({"rope_parameters": {"factor": 2}}, "rope_parameters: factor is 2, which the type default has no use for"),
            (
                {"rope_scaling": {"type": "dynamic", "factor": 2, "original_max_position_embeddings": 4096}},
                "rope_scaling: original_max_position_embeddings is 4096, which is not supported",
            ),
            ({"rope_parameters": 3}, "rope_parameters is 3, but must be an object of settings, or null"),
            ({"rope_scaling": "linear"}, "rope_scaling is 'linear', but must be an object of settings, or null"),
        ],
    )
    def test_what_is_refused(self, values, message):
        assert message in refusal(**values)

    def test_writing_keeps_every_spelling_that_is_there(self):
        scaling = {"type": "linear", "factor": 4.0}
        assert with_rope({"a": 1}, 5.0, scaling) == {"a": 1, "rope_theta": 5.0, "rope_scaling": scaling}
        nested = with_rope({"rope_parameters": {"rope_theta": 1.0}}, 5.0, scaling)
        assert nested == {"rope_parameters": {"rope_theta": 5.0, "rope_type": "linear", "factor": 4.0}}
        both = with_rope({"rope_parameters": {}, "rope_theta": 1, "rope_scaling": None}, 5.0, None)
        assert both["rope_theta"] == both["rope_parameters"]["rope_theta"] == 5.0
        for content in (nested, both):
            assert read_rope({name: value for name, value in content.items() if value is not None})[1] == []


def test_settings_are_arguments():
    assert ModelSettings(**settings_of(CONTENT, "x")).rope_theta == 1000000

import json

import pytest

from paddle_xc2.checkpoint.config_files import load_config, write_config
from paddle_xc2.families.config import QwenVLConfig, XComposer2Config
from paddle_xc2.families.qwen_vl_settings import QwenVLSettings
from paddle_xc2.families.table import detect_family
from paddle_xc2.families.upstream_settings import model_settings

VISUAL = {
    "heads": 16,
    "image_size": 448,
    "image_start_id": 151857,
    "layers": 48,
    "mlp_ratio": 4.9231,
    "output_dim": 4096,
    "patch_size": 14,
    "width": 1664,
}
# As released, without what upstream's code doesn't compute with.
RELEASED = {
    "architectures": ["QWenLMHeadModel"],
    "model_type": "qwen",
    "attn_dropout_prob": 0.0,
    "emb_dropout_prob": 0.0,
    "bf16": True,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 8192,
    "no_bias": True,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 2048,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "visual": VISUAL,
    "vocab_size": 151936,
}


def test_the_released_model():
    settings = model_settings(RELEASED, "config.json")
    assert isinstance(settings, QwenVLSettings) and settings.xc2_family == "qwen-vl"
    assert settings.head_dim == 128 and settings.mlp_width == 11008 and settings.seq_length == 2048
    vision = settings.vision
    assert (vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers) == (1664, 8192, 48)
    assert settings.img_size == 448 and settings.patches_per_side == 32
    assert settings.num_image_tokens == settings.family.num_image_tokens(448, 448, 14) == 256
    # <|endoftext|>, <|im_start|>, <|im_end|>
    assert settings.pad_token_id == 151643 and settings.eos_token_id == [151643, 151644, 151645]


def test_defaults_are_the_released_models():
    released, default = vars(model_settings(RELEASED, "config.json")), vars(QwenVLSettings())
    assert {name: released[name] for name in default} == default


def test_a_model_takes_the_same():
    config = model_settings(RELEASED, "config.json", (), QwenVLConfig)
    assert isinstance(config, QwenVLConfig) and config.vision == model_settings(RELEASED, "config.json").vision
    assert QwenVLConfig.from_dict(RELEASED).visual == VISUAL
    with pytest.raises(ValueError, match="qwen-vl is no XComposer2Config; load it with paddle_xc2.load"):
        model_settings(RELEASED, "config.json", (), XComposer2Config)


def test_a_language_model_alone_is_named_as_that():
    with pytest.raises(ValueError, match='this is a language model alone, the config.json of a Qwen-VL has "visual"'):
        detect_family({"architectures": ["QWenLMHeadModel"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "the weights are quantized",
        ),
        ({"rotary_pct": 0.5}, "rotary_pct is 0.5, which is not supported, only 1"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True, which is not supported, only False"),
        ({"attn_dropout_prob": 0.1}, "attn_dropout_prob is 0.1, which is not supported, only 0"),
        ({"no_bias": False}, "no_bias is False"),
        ({"kv_channels": 64}, "kv_channels 64 times num_attention_heads 32 is not hidden_size 4096"),
        ({"intermediate_size": 22017}, "intermediate_size 22017 is odd"),
        ({"seq_length": 0}, "seq_length is 0, but must be a whole number above 0"),
        ({"use_logn_attn": 1}, "use_logn_attn is 1, but must be true or false"),
        ({"chat_layout": "other"}, 'chat_layout "other" is not one of'),
        ({"visual": {}}, "visual has no heads, image_size, image_start_id, layers, mlp_ratio"),
        ({"visual": 5}, "visual is 5, but must be an object of settings"),
        ({"visual": {**VISUAL, "width": 1.5}}, "visual: width is 1.5, but must be a whole number above 0"),
        ({"visual": {**VISUAL, "heads": 15}}, "visual: width 1664 is no multiple of heads 15"),
        ({"visual": {**VISUAL, "output_dim": 2048}}, "visual: output_dim 2048 is not hidden_size 4096"),
        ({"visual": {**VISUAL, "n_queries": 200}}, "visual: n_queries 200 is not the number of fields of a square"),
        ({"visual": {**VISUAL, "image_size": 450}}, "visual: image_size 450 is no multiple of patch_size 14"),
        ({"visual": {**VISUAL, "mlp_ratio": "4"}}, "visual: mlp_ratio is '4', but must be a number up to 64"),
        ({"visual": {**VISUAL, "image_start_id": 5}}, "visual: image_start_id is 5, but must be the id of <img>"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        model_settings({**RELEASED, **changes}, "config.json")


@pytest.mark.parametrize("to", ["hf", "paddle"])
def test_config_json_there_and_back(tmp_path, to):
    (tmp_path / "config.json").write_text(json.dumps(RELEASED))
    config = load_config(tmp_path)
    (tmp_path / "written").mkdir()
    write_config(tmp_path / "written", config, to)
    assert {path.name for path in (tmp_path / "written").iterdir()} == {"config.json"}
    content = json.loads((tmp_path / "written" / "config.json").read_text())
    assert content == RELEASED if to == "hf" else content["hf_config"] == RELEASED
    again = load_config(tmp_path / "written")
    assert vars(again) == vars(config)


def test_another_image_size_is_upstreams_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(RELEASED))
    config = load_config(tmp_path)
    config.img_size = 224
    write_config(tmp_path, config, "hf")
    assert json.loads((tmp_path / "config.json").read_text()) == {**RELEASED, "visual": {**VISUAL, "image_size": 224}}
    assert load_config(tmp_path).patches_per_side == 16


def test_a_config_that_was_not_read(tmp_path):
    write_config(tmp_path, QwenVLSettings(), "hf")
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["architectures"] == ["QWenLMHeadModel"] and content["visual"] == VISUAL
    assert load_config(tmp_path).vision == QwenVLSettings().vision

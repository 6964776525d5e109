import json

import pytest

from paddle_xc2.model_settings import VisionConfig
from paddle_xc2.weights.config_files import converted_config, load_config, upstream_config, write_config
from tests.tiny import tiny_config

UPSTREAM = {
    "architectures": ["InternLMXComposer2ForCausalLM"],
    "auto_map": {"AutoModel": "modeling_internlm_xcomposer2.InternLMXComposer2ForCausalLM"},
    "model_type": "internlm",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "img_size": 224,
    "max_length": 4096,
    "rope_scaling": {"type": "dynamic", "factor": 1.0},
    "torch_dtype": "bfloat16",
    "something_of_a_later_version": [1, {"a": None}],
}


@pytest.fixture
def upstream(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(UPSTREAM))
    return tmp_path


def content_of(directory):
    return json.loads((directory / "config.json").read_text())


def test_family_and_sizes(upstream):
    config = load_config(upstream)
    assert (config.xc2_family, config.img_size, config.vision) == ("xcomposer2-7b", 224, VisionConfig())
    (upstream / "clip_vision_config.json").write_text('{"hidden_size": 32, "num_attention_heads": 2}')
    assert load_config(upstream).vision.hidden_size == 32
    (upstream / "config.json").write_text(json.dumps(UPSTREAM | {"vision_config": {"hidden_size": 48}}))
    assert load_config(upstream).vision.hidden_size == 48


def test_there_and_back_restores_every_key(upstream, tmp_path):
    converted, back = tmp_path / "converted", tmp_path / "back"
    for directory in (converted, back):
        directory.mkdir()
    write_config(converted, load_config(upstream), "paddle")
    content = content_of(converted)
    assert {key: content[key] for key in UPSTREAM} == UPSTREAM
    assert (content["xc2_layout"], content["xc2_family"]) == ("paddle", "xcomposer2-7b")
    assert content["vision_config"]["hidden_size"] == 1024
    write_config(back, load_config(converted), "hf")
    assert content_of(back) == UPSTREAM
    assert list(content_of(back)) == list(UPSTREAM)
    assert not (back / "clip_vision_config.json").exists()


def test_what_fine_tuning_changed_is_written(upstream):
    config = load_config(upstream)
    config.img_size = 448
    config.max_length = 1000
    config.chat_layout = "as_trained"
    changes = {"img_size": 448, "max_length": 1000, "chat_layout": "as_trained", "torch_dtype": "float32"}
    assert upstream_config(config, "float32") == UPSTREAM | changes
    converted = converted_config(config, "float32")
    assert {key: converted[key] for key in changes} == changes
    assert converted["hf_config"] == UPSTREAM


def test_a_model_that_was_never_upstream(tmp_path):
    """Made from a configuration alone: upstream's keys, and its ViT, which is not CLIP's, in a file of its own."""
    config = tiny_config(rope_scaling={"type": "linear", "factor": 2.0})
    write_config(tmp_path, config, "hf", "float32")
    content = content_of(tmp_path)
    assert content["auto_map"]["AutoModelForCausalLM"] == "modeling_internlm_xcomposer2.InternLMXComposer2ForCausalLM"
    assert content["torch_dtype"] == "float32"
    assert not {"xc2_family", "vision_config", "use_recompute", "kwargs"} & content.keys()
    again = load_config(tmp_path)
    assert again.vision == config.vision
    for name in ("vocab_size", "num_key_value_heads", "rope_scaling", "img_size", "max_length", "xc2_family"):
        assert getattr(again, name) == getattr(config, name)


def test_settings_that_contradict_each_other_are_named_with_the_file(upstream):
    (upstream / "config.json").write_text(json.dumps(UPSTREAM | {"num_key_value_heads": 3}))
    with pytest.raises(
        ValueError, match=r"config.json: .*num_attention_heads 4 is no multiple of num_key_value_heads 3"
    ):
        load_config(upstream)
    (upstream / "config.json").write_text(json.dumps(UPSTREAM | {"hidden_size": "64"}))
    with pytest.raises(ValueError, match="config.json: "):
        load_config(upstream)


def test_another_architecture(upstream):
    (upstream / "config.json").write_text(json.dumps(UPSTREAM | {"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ValueError, match=r"config.json: architectures is \['LlamaForCausalLM'\], expected"):
        load_config(upstream)

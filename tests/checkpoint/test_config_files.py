import json

import pytest

from paddle_xc2.checkpoint.config_files import converted_config, load_config, upstream_config, write_config
from paddle_xc2.families.settings import VisionConfig
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


V5 = {
    **{name: value for name, value in UPSTREAM.items() if name not in ("rope_scaling", "torch_dtype")},
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 4.0},
    "dtype": "bfloat16",
}


def test_the_spelling_of_later_versions_of_transformers(upstream, tmp_path):
    """It is read, comes back as it was, and after a change says the change in every spelling that there is."""
    (upstream / "config.json").write_text(json.dumps(V5))
    config = load_config(upstream)
    assert (config.rope_theta, config.rope_scaling) == (500000.0, {"type": "linear", "factor": 4.0})
    assert upstream_config(config) == V5
    converted = converted_config(config, "float32")
    assert converted["rope_parameters"] == V5["rope_parameters"] and converted["dtype"] == "float32"
    assert converted["rope_theta"] == 500000.0 and "torch_dtype" not in converted
    (tmp_path / "paddle").mkdir()
    write_config(tmp_path / "paddle", config, "paddle")
    again = load_config(tmp_path / "paddle")
    assert (again.rope_theta, again.rope_scaling) == (config.rope_theta, config.rope_scaling)
    assert upstream_config(again) == V5
    again.rope_scaling = None
    changed = upstream_config(again)
    assert changed["rope_parameters"] == {"rope_theta": 500000.0, "rope_type": "default"}
    (upstream / "config.json").write_text(json.dumps(changed))
    assert load_config(upstream).rope_scaling is None


def test_two_names_of_the_dtype_never_differ(upstream):
    (upstream / "config.json").write_text(json.dumps(UPSTREAM | {"dtype": "float16"}))
    config = load_config(upstream)
    for dtype, written in ((None, "bfloat16"), ("float32", "float32")):
        content = upstream_config(config, dtype)
        assert content["dtype"] == content["torch_dtype"] == written


def test_a_converted_checkpoint_depends_on_no_default(upstream, tmp_path):
    """What upstream's file leaves out, or has as null, stands in ours with the value that it means there."""
    left_out = {name: value for name, value in UPSTREAM.items() if name != "num_key_value_heads"}
    (upstream / "config.json").write_text(json.dumps(left_out | {"rope_scaling": None}))
    converted = converted_config(load_config(upstream))
    assert (converted["rope_theta"], converted["rms_norm_eps"], converted["num_key_value_heads"]) == (10000, 1e-6, 4)
    (tmp_path / "config.json").write_text(json.dumps(converted))
    again = load_config(tmp_path)
    assert (again.rope_theta, again.rms_norm_eps, again.max_position_embeddings) == (10000, 1e-6, 2048)
    assert again.num_key_value_heads == 4 and upstream_config(again) == left_out | {"rope_scaling": None}


def test_one_that_was_converted_before_they_stood_there_computes_as_it_did(upstream):
    ours = UPSTREAM | {"xc2_layout": "paddle", "xc2_family": "xcomposer2-7b", "hf_config": UPSTREAM}
    (upstream / "config.json").write_text(json.dumps(ours))
    config = load_config(upstream)
    assert (config.rope_theta, config.rms_norm_eps) == (1000000.0, 1e-5)
    assert upstream_config(config)["rope_theta"] == 1000000.0  # for upstream it has to be said


@pytest.mark.parametrize("name", ["hf_config", "hf_part_files"])
def test_what_stands_where_the_original_should(upstream, name):
    (upstream / "config.json").write_text(json.dumps(UPSTREAM | {"xc2_layout": "paddle", name: 3}))
    with pytest.raises(ValueError, match=f"config.json: {name} is 3, but must be an object; convert the checkpoint"):
        load_config(upstream)


def test_no_other_file_is_written_than_a_parts(upstream):
    llava = {"xc2_family": "llava-internlm2", "xc2_layout": "paddle", "img_size": 336, "vision_config": {}}
    files = {"../evil.json": {}, "projector/config.json": {"hidden_act": "gelu"}, "visual_encoder/config.json": 3}
    (upstream / "config.json").write_text(json.dumps(UPSTREAM | llava | {"hf_part_files": files}))
    assert load_config(upstream).hf_part_files == {"projector/config.json": {"hidden_act": "gelu"}}


def test_an_original_that_could_not_be_written_back_is_found_out_at_once(upstream):
    """And not when the model is written, after a training."""
    ours = UPSTREAM | {"xc2_layout": "paddle", "xc2_family": "xcomposer2-7b"}
    for damage, message in (
        ({"rope_theta": None}, "rope_theta is null"),
        ({"hidden_size": "64"}, "hidden_size is '64', but must be a whole number above 0"),
    ):
        (upstream / "config.json").write_text(json.dumps(ours | {"hf_config": UPSTREAM | damage}))
        with pytest.raises(ValueError, match=f"config.json: hf_config: .*{message}"):
            load_config(upstream)

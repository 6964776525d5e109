import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open

from paddle_xc2.checkpoint.manifest import verify_manifest
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.hub.directory import open_model
from paddle_xc2.model import load_model
from paddle_xc2.weights.convert import convert
from tests.tiny import tiny_checkpoint, tiny_model
from tests.weights.test_load import assert_equal_weights


@pytest.mark.parametrize("to", ["paddle", "hf"])
def test_saved_and_loaded(tmp_path, to):
    model = tiny_model()
    model.save_pretrained(tmp_path / "saved", to=to)
    assert_equal_weights(load_model(tmp_path / "saved", verify=True), model)


def test_upstreams_names_and_metadata(tmp_path):
    original = tiny_checkpoint(tmp_path / "original")
    load_model(original).save_pretrained(tmp_path / "saved", to="hf")
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}
    expected = {}
    for shard in original.glob("*.safetensors"):
        with safe_open(shard, framework="np") as file:
            expected |= {name: file.get_slice(name).get_shape() for name in file.keys()}
    assert found == expected
    assert json.loads((tmp_path / "saved/config.json").read_text()) == json.loads(
        (original / "config.json").read_text()
    )


@pytest.mark.parametrize("to", ["paddle", "hf"])
def test_dtype(tmp_path, to):
    model = tiny_model()
    model.save_pretrained(tmp_path / "saved", to=to, dtype="bfloat16")
    assert json.loads((tmp_path / "saved/config.json").read_text())["torch_dtype"] == "bfloat16"
    loaded = dict(load_model(tmp_path / "saved", "bfloat16").named_parameters())
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(loaded[name].numpy(), parameter.astype("bfloat16").numpy())


EXTRA_FILES = {
    "modeling_internlm_xcomposer2.py": "raise SystemExit('executed')",
    "build_mlp.py": "# the ViT",
    "README.md": "about the model",
    "LICENSE": "Apache",
    "generation_config.json": "{}",
    "special_tokens_map.json": '{"pad_token": "</s>"}',
    "preprocessor_config.json": "{}",
    "SimHei.ttf": "a font",
}
OTHER_FILES = {
    "pytorch_model-00001-of-00002.bin": "the same weights in another format",
    "pytorch_model.bin.index.json": "{}",
    "training_args.bin": "of upstream's run",
    "optimizer.pt": "of upstream's run",
    "trainer_state.json": "{}",
    "metrics.jsonl": "",
    "run.json": "{}",
    ".gitattributes": "*.bin lfs",
}


@pytest.mark.parametrize("to", ["paddle", "hf"])
def test_files_of_the_source_come_along(tmp_path, to):
    original = tiny_checkpoint(tmp_path / "original")
    (original / "checkpoint-10").mkdir()
    for name, content in (EXTRA_FILES | OTHER_FILES).items():
        (original / name).write_text(content)
    load_model(original).save_pretrained(tmp_path / "saved", to=to)
    for name in ("tokenizer.model", "clip_vision_config.json", *EXTRA_FILES):
        assert (tmp_path / "saved" / name).read_bytes() == (original / name).read_bytes()
    assert not {path.name for path in (tmp_path / "saved").iterdir()} & {*OTHER_FILES, "checkpoint-10"}
    verify_manifest(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/paddle_xc2_manifest.json").read_text())["source"] == "original"


@pytest.mark.parametrize("way", ["saved at once", "saved in our layout and converted"])
def test_back_to_upstream_after_fine_tuning(tmp_path, way):
    """Names, shapes, order of config.json's keys, auto_map and all extra files are upstream's."""
    original = tiny_checkpoint(tmp_path / "original", num_shards=3)
    for name, content in EXTRA_FILES.items():
        (original / name).write_text(content)
    model = load_model(original)
    for parameter in model.parameters():
        parameter.set_value(parameter + 1)
    model.config.chat_layout = "as_trained"
    back = tmp_path / "back"
    if way == "saved at once":
        model.save_pretrained(back, to="hf")
    else:
        model.save_pretrained(tmp_path / "ours")
        convert(tmp_path / "ours", back, to="hf")
    before, after = read_checkpoint(original), read_checkpoint(back)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (after[name].dtype, after[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(after[name].read(), tensor.read() + 1)
    config = json.loads((original / "config.json").read_text())
    assert config["auto_map"]
    assert json.loads((back / "config.json").read_text()) == config | {"chat_layout": "as_trained"}
    index = json.loads((back / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == before.keys()
    assert index["metadata"] == json.loads((original / "model.safetensors.index.json").read_text())["metadata"]
    for name in ("tokenizer.model", *EXTRA_FILES):
        assert (back / name).read_bytes() == (original / name).read_bytes()


def test_a_disk_that_is_too_full(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match="[kM]B are needed there, but its disk has 1 kB free"):
        tiny_model().save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_saved_again_over_itself(tmp_path):
    """As at the end of a run: other files are there, and an earlier save with other shards."""
    model = tiny_model()
    (tmp_path / "metrics.jsonl").write_text("{}")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    changed = tiny_model(seed=1)
    changed.provenance.directory = open_model(tmp_path)
    changed.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("model*.safetensors")] == ["model.safetensors"]
    assert (tmp_path / "metrics.jsonl").exists()
    assert_equal_weights(load_model(tmp_path, verify=True), changed)


def test_the_checkpoint_of_somebody_else_stays(tmp_path):
    original = tiny_checkpoint(tmp_path / "original")
    with pytest.raises(ValueError, match="holds a checkpoint that paddle_xc2 did not write"):
        load_model(original).save_pretrained(original)


def test_parameters_without_a_name(tmp_path):
    from paddle import nn

    model = tiny_model()
    model.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="2 parameters have no name in a checkpoint: extra.weight, extra.bias; remove"):
        model.save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_unknown_layout(tmp_path):
    with pytest.raises(ValueError, match='layout "torch" is not one of paddle, hf'):
        tiny_model().save_pretrained(tmp_path / "saved", to="torch")
    assert list(tmp_path.iterdir()) == []

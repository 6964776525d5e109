import json

import numpy as np
import pytest
from safetensors import safe_open

from paddle_xc2.weights.loading import load_model
from paddle_xc2.weights.manifest import verify_manifest
from tests.tiny import tiny_checkpoint, tiny_model
from tests.weights.test_loading import assert_equal_weights


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


def test_files_of_the_source_come_along(tmp_path):
    original = tiny_checkpoint(tmp_path / "original")
    (original / "modeling_internlm_xcomposer2.py").write_text("raise SystemExit('executed')")
    (original / "generation_config.json").write_text("{}")
    (original / "notes.txt").write_text("the user's")
    load_model(original).save_pretrained(tmp_path / "saved")
    for name in ("tokenizer.model", "modeling_internlm_xcomposer2.py", "generation_config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (original / name).read_bytes()
    assert not (tmp_path / "saved/notes.txt").exists()
    verify_manifest(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/paddle_xc2_manifest.json").read_text())["source"] == "original"


def test_saved_again_over_itself(tmp_path):
    """As at the end of a run: other files are there, and an earlier save with other shards."""
    model = tiny_model()
    (tmp_path / "metrics.jsonl").write_text("{}")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    changed = tiny_model(seed=1)
    changed.source_dir = tmp_path
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

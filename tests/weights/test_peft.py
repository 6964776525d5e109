"""The peft library itself: adapters written here merge there to the same weights, and adapters written there here."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_xc2 import XComposer2ForCausalLM
from paddle_xc2.models.lora import layer_at, lora_layers, replace_layer
from paddle_xc2.models.token_rows import EmbeddingRows, HeadRows
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.learning.add_lora import add_lora
from paddle_xc2.training.learning.parts import choose_trainable
from tests.tiny import tiny_checkpoint

# float32, merged by torch 2.13.0 and peft 0.12.0 or 0.21.2: 0 for LoRA, 3e-7 for DoRA; weights up to 1.
ATOL = 2e-6


@pytest.fixture(scope="module")
def run_peft():
    """Runs peft_merge.py: here, or with the Python that PADDLE_XC2_PEFT_PYTHON names."""
    python = os.environ.get("PADDLE_XC2_PEFT_PYTHON")
    if python is None and not all(importlib.util.find_spec(name) for name in ("torch", "peft")):
        pytest.skip("torch and peft are not installed; PADDLE_XC2_PEFT_PYTHON may name a Python that has them")

    def run(*words):
        script = Path(__file__).with_name("peft_merge.py")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [python or sys.executable, script, *words]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint in upstream's layout, in one file."""
    directory = tiny_checkpoint(tmp_path_factory.mktemp("base"), num_shards=1)
    return directory, directory / "model-00001-of-00001.safetensors"


def merged_on_both_sides(model, run_peft, base, folder):
    """Saves the model's adapter and merges it there and here. Returns: tensors of the base, ours, and theirs."""
    model.save_pretrained(folder / "adapter")
    run_peft("merge", base, folder / "adapter", folder / "theirs.safetensors")
    model.merge_adapter()
    model.save_pretrained(folder / "ours", to="hf")
    return [load_file(path) for path in (base, folder / "ours" / "model.safetensors", folder / "theirs.safetensors")]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rslora": True, "lora_target_modules": ["attention.wqkv", "model.layers.1.feed_forward.w2"]},
        {"use_dora": True, "lora_target_modules": ["language_model", "vit", "projector", "output"]},
        {"fix_vit": False, "fix_sampler": False, "freeze_exclude": ["model.norm.weight"]},
    ],
    ids=["lora", "rslora", "dora", "parts"],
)
def test_adapters_written_here(run_peft, base, tmp_path, settings):
    model = XComposer2ForCausalLM.from_pretrained(base[0])
    arguments = FinetuneArguments(lora=True, lora_rank=4, lora_alpha=8, **settings)
    add_lora(model, arguments)
    choose_trainable(model, arguments)
    for layer in lora_layers(model).values():
        layer.lora_b.set_value(0.05 * paddle.randn(layer.lora_b.shape))
    parameters = dict(model.named_parameters())
    for name in model.provenance.replaced:
        parameters[name].set_value(parameters[name] + 0.1)
    before, ours, theirs = merged_on_both_sides(model, run_peft, base[1], tmp_path)
    assert ours.keys() == theirs.keys() == before.keys()
    changed = {name for name in before if np.abs(ours[name] - before[name]).max() > 1e-3}
    assert len(changed) >= 3
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=ATOL, err_msg=name)


def test_rows_of_tokens_written_here(run_peft, base, tmp_path):
    """PEFT's trainable tokens, which it has since 0.15."""
    model = XComposer2ForCausalLM.from_pretrained(base[0])
    add_lora(model, FinetuneArguments(lora=True, lora_rank=4, lora_alpha=8))
    for path, kind, ids in (("model.tok_embeddings", EmbeddingRows, [9, 4]), ("output", HeadRows, [4, 11, 2])):
        layer = kind(layer_at(model, path), ids)
        layer.rows.set_value(paddle.randn(layer.rows.shape))
        replace_layer(model, path, layer)
    before, ours, theirs = merged_on_both_sides(model, run_peft, base[1], tmp_path)
    for name, ids in (("model.tok_embeddings.weight", [4, 9]), ("output.weight", [2, 4, 11])):
        assert np.flatnonzero((theirs[name] != before[name]).any(axis=1)).tolist() == ids
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": {"wqkv": 2}, "alpha_pattern": {"attention.wo": 32}, "use_rslora": True},
        {"use_dora": True},
        {"modules_to_save": ["vision_proj"]},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"trainable_token_indices": {"tok_embeddings": [7, 3], "output": [12]}},
    ],
    ids=["patterns", "dora", "modules_to_save", "layers", "tokens"],
)
def test_adapters_written_by_peft(run_peft, base, tmp_path, settings):
    targets = ["attention.wqkv", "attention.wo", "feed_forward.w1"]
    content = {"r": 4, "lora_alpha": 8, "target_modules": targets, **settings}
    (tmp_path / "settings.json").write_text(json.dumps(content))
    run_peft("make", base[1], tmp_path / "settings.json", tmp_path / "adapter", tmp_path / "theirs.safetensors")
    model = XComposer2ForCausalLM.from_pretrained(base[0])
    report = model.load_adapter(tmp_path / "adapter")
    assert report.num_updates == (3 if "layers_to_transform" in settings else 6)
    assert report.num_replaced == (4 if "modules_to_save" in settings else 0)
    assert report.num_rows == (3 if "trainable_token_indices" in settings else 0)
    model.merge_adapter()
    model.save_pretrained(tmp_path / "ours", to="hf")
    ours, theirs = load_file(tmp_path / "ours" / "model.safetensors"), load_file(tmp_path / "theirs.safetensors")
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=ATOL, err_msg=name)

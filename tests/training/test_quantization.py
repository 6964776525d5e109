"""QLoRA in a run: LoRA learns on a base in four bits."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddle_xc2 import XComposer2ForCausalLM
from paddle_xc2.model import load_model
from paddle_xc2.models.nf4 import NF4Linear
from paddle_xc2.training.arguments import FinetuneArguments, load_arguments
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.learning.add_lora import add_lora
from paddle_xc2.training.learning.parts import choose_trainable
from paddle_xc2.training.memory import num_decoder_weights

QLORA = {"lora": True, "lora_rank": 4, "lora_alpha": 8, "quantization": "nf4"}


def tensors(directory):
    return load_file(directory / "adapter_model.safetensors")


def test_it_trains_what_lora_on_the_dequantized_weights_trains(workspace, config, tmp_path, metrics, capsys):
    """Loss by loss and value by value."""
    assert finetune(config(**QLORA, output_dir=str(tmp_path / "four_bits"))) == 0
    assert "the decoder's linear layers stay as they are, in four bits: NF4, double" in capsys.readouterr().out
    load_model(workspace / "model", quantize="nf4").save_pretrained(tmp_path / "dense")
    dense = {**QLORA, "quantization": None, "model_name_or_path": str(tmp_path / "dense")}
    assert finetune(config(**dense, output_dir=str(tmp_path / "lora"))) == 0
    ours, expected = (metrics(tmp_path / name) for name in ("four_bits", "lora"))
    assert [entry["loss"] for entry in ours] == [entry["loss"] for entry in expected]
    ours, expected = (tensors(tmp_path / name) for name in ("four_bits", "lora"))
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_stopped_and_gone_on_equals_uninterrupted(config, tmp_path, power_fails, monkeypatch):
    keys = {**QLORA, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    assert finetune(config(**keys)) == 0
    path = config("again.json", **keys, output_dir=str(tmp_path / "again"))
    power_fails(4)
    with pytest.raises(RuntimeError, match="the power fails"):
        finetune(path)
    monkeypatch.undo()
    assert finetune(path) == 0
    expected = tensors(tmp_path / "out")
    for name, value in tensors(tmp_path / "again").items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_the_adapter_remembers_that_its_base_was_quantized(config, tmp_path):
    for quantization in ("nf4", None):
        out = tmp_path / str(quantization)
        assert finetune(config(**{**QLORA, "quantization": quantization, "max_steps": 1}, output_dir=str(out))) == 0
        assert json.loads((out / "paddle_xc2_adapter.json").read_text())["base"]["quantization"] == quantization


def test_quantized_weights_are_counted(workspace):
    model = load_model(workspace / "model", quantize="nf4")
    dense = XComposer2ForCausalLM.from_pretrained(workspace / "model")
    arguments = FinetuneArguments(lora=True)
    counts = []
    for trained in (model, dense):
        add_lora(trained, arguments)
        counts.append(choose_trainable(trained, arguments))
    assert counts[0] == counts[1]
    layers = [layer for layer in model.sublayers() if isinstance(layer, NF4Linear)]
    assert num_decoder_weights(model.config) == sum(layer.in_features * layer.out_features for layer in layers)


def fails(config, capsys, **changes):
    from paddle_xc2.cli import main

    assert main(["finetune", str(config(**changes))]) == 2
    return capsys.readouterr().err


def test_names_that_others_use(config):
    for name, value in (("load_in_4bit", True), ("weight_quantize_algo", "nf4"), ("quantization", "nf4")):
        assert load_arguments(config(lora=True, **{name: value})).quantization == "nf4"
    assert load_arguments(config(load_in_4bit=False)).quantization is None
    assert load_arguments(config(lora=True), ["--load_in_4bit"]).quantization == "nf4"


def test_what_is_refused(config, capsys):
    told = fails(config, capsys, quantization="nf4")
    assert '"quantization" is "nf4", but quantized weights don\'t learn; set "lora": true, or leave it out' in told
    told = fails(config, capsys, lora=True, weight_quantize_algo="weight_only_int8")
    assert '"quantization" is "weight_only_int8", but must be nf4, or null' in told
    told = fails(config, capsys, lora=True, quantization="nf4", load_in_4bit=False)
    assert '"quantization" is "nf4" and "load_in_4bit" is false, but they are two names for one thing' in told
    assert '"vit_lora_rank" is 3, which is for LoRA; set "lora": true' in fails(config, capsys, vit_lora_rank=3)
    assert '"vit_lora_alpha" is -1, but must be above 0' in fails(config, capsys, lora=True, vit_lora_alpha=-1)

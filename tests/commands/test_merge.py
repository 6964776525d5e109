"""`paddle-xc2 merge`: what it writes is the base with the adapter on."""

import errno
import re

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_xc2 import XComposer2ForCausalLM
from paddle_xc2.cli import main
from paddle_xc2.models.lora import LoRALinear, layer_at, replace_layer
from paddle_xc2.weights import save as saving
from paddle_xc2.weights.quantize import quantizable_layers
from tests.tiny import tiny_checkpoint

MODULES = ("model.layers.0.attention.wqkv.linear", "vit.layers.0.mlp.fc1", "output")


def logits(model):
    ids = paddle.to_tensor([[0, 0, 0, 0, 1, 5, 6, 7, 90]])
    mask = paddle.to_tensor(np.arange(9)[None] < 4)
    pixels = [paddle.to_tensor(np.random.default_rng(0).standard_normal([3, 28, 28]).astype("float32"))]
    with paddle.no_grad():
        return model(input_ids=ids, image_mask=mask, pixel_values=pixels).logits.numpy()


@pytest.fixture(params=[False, True], ids=["lora", "dora"])
def place(request, tmp_path):
    tiny_checkpoint(tmp_path / "base")
    model = XComposer2ForCausalLM.from_pretrained(tmp_path / "base")
    for path in MODULES:
        layer = LoRALinear(layer_at(model, path), 4, 2.0, dora=request.param)
        layer.lora_b.set_value(0.05 * paddle.randn(layer.lora_b.shape))
        replace_layer(model, path, layer)
    model.vision_proj[0].bias.set_value(model.vision_proj[0].bias + 0.1)
    model.provenance.replaced = {"vision_proj.0.bias": None}
    model.config.chat_layout = "as_trained"
    model.eval()
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path, logits(model)


@pytest.mark.parametrize("to", [None, "paddle"])
def test_merged_logits_are_those_with_the_adapter(place, to, capsys):
    folder, want = place
    words = ["merge", "--model_name_or_path", str(folder / "base"), "--lora_path", str(folder / "adapter")]
    out = folder / "merged"
    assert main([*words, "--output_path", str(out), "--disable_tqdm", *(["--to", to] if to else [])]) == 0
    told = capsys.readouterr().out
    changed, differs = re.search(
        r"changes them by up to (\S+); merged, they differ from that by up to (\S+)", told
    ).groups()
    assert float(changed) > 0.1 and float(differs) < 1e-4 and "3 low-rank updates, 1 tensor replaced whole" in told
    model = XComposer2ForCausalLM.from_pretrained(out)
    np.testing.assert_allclose(logits(model), want, atol=5e-5)  # 6e-6 measured
    assert model.config.chat_layout == "as_trained" and (out / "tokenizer.model").is_file() and not model.has_adapter
    assert (out / "paddle_xc2_manifest.json").is_file() and not (out / "adapter_config.json").exists()
    names = {name for file in out.glob("*.safetensors") for name in load_file(file)}
    assert sum("Plora_" in name or "plora_" in name for name in names) == 20
    assert not any(".lora_" in name or "base_layer" in name for name in names)


def test_converting_an_adapter_says_what_it_is_merged_into(place, capsys):
    folder, _ = place
    assert main(["convert", str(folder / "adapter"), str(folder / "whole"), "--disable_tqdm"]) == 0
    told = f"{folder}/adapter, merged into {folder}/base (hf), -> {folder}/whole (paddle): "
    assert capsys.readouterr().out.startswith(told)


def test_a_model_that_computes_nan_and_the_home(place, capsys, monkeypatch):
    folder, _ = place
    monkeypatch.setenv("HOME", str(folder))
    base = XComposer2ForCausalLM.from_pretrained(folder / "base")
    base.model.norm.weight.set_value(base.model.norm.weight * float("nan"))
    base.save_pretrained("~/unsound")
    for name in ("paddle_xc2_adapter.json", "paddle_xc2_manifest.json"):
        (folder / "adapter" / name).unlink()  # which know that its base was sound
    words = ["merge", "--model_name_or_path", "~/unsound", "--lora_path", "~/adapter", "--output_path", "~/merged"]
    assert main([*words, "--disable_tqdm"]) == 2
    told = capsys.readouterr().err
    assert f"{folder}/unsound with {folder}/adapter: the model computes NaN, in float32, and it begins at" in told
    assert f"load sound ones, or make them anew; {folder}/merged is no better, delete it" in told


def test_upstreams_names_of_the_arguments_and_the_remembered_base(place):
    folder, want = place
    words = ["--adapter_model_name", str(folder / "adapter"), "--base_model_name", str(folder / "base")]
    assert main(["merge", *words, "--output_name", str(folder / "one"), "--no_compare", "--disable_tqdm"]) == 0
    words = ["--lora_path", str(folder / "adapter"), "--output_path", str(folder / "two"), "--dtype", "bfloat16"]
    assert main(["merge", *words, "--disable_tqdm"]) == 0
    np.testing.assert_allclose(logits(XComposer2ForCausalLM.from_pretrained(folder / "one")), want, atol=5e-5)
    got = logits(XComposer2ForCausalLM.from_pretrained(folder / "two"))
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_mistakes(place, capsys, monkeypatch):
    folder, _ = place
    words = ["--output_path", str(folder / "merged"), "--disable_tqdm"]
    assert main(["merge", "--lora_path", str(folder / "base"), *words]) == 2
    assert "is no adapter, it has no adapter_config.json (PEFT) or lora_config.json" in capsys.readouterr().err
    tiny_checkpoint(folder / "other", seed=5)
    assert main(["merge", "--lora_path", str(folder / "adapter"), "--base", str(folder / "other"), *words]) == 2
    assert "was trained on another model than" in capsys.readouterr().err and not (folder / "merged").exists()
    monkeypatch.setattr("paddle_xc2.runtime.device_memory", lambda: 10**5)
    assert main(["merge", "--lora_path", str(folder / "adapter"), *words]) == 0
    assert "logits before and after are not compared: that takes about" in capsys.readouterr().out


def test_a_full_disk(place, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "Full")

    folder, _ = place
    monkeypatch.setattr(saving, "write_config", full)
    assert main(["merge", "--lora_path", str(folder / "adapter"), "--output_path", str(folder / "merged")]) == 1
    told = f"paddle-xc2 merge: {folder}/merged: Full; make room there, or write to another disk\n"
    assert capsys.readouterr().err.endswith(told) and not (folder / "merged").exists()


def test_logits_that_are_not_those_with_the_adapter(place, capsys, monkeypatch):
    folder, _ = place
    monkeypatch.setattr("paddle_xc2.weights.sources.merge", lambda tensors, *_: tensors)
    words = ["--lora_path", str(folder / "adapter"), "--output_path", str(folder / "merged"), "--disable_tqdm"]
    assert main(["merge", *words]) == 2
    assert "its logits are not those of the base with the adapter; don't use it" in capsys.readouterr().err


def qlora_adapter(base, directory, quantize):
    """An adapter with the same random updates, whatever the base is stored in. Returns: the model with it."""
    model = XComposer2ForCausalLM.from_pretrained(base, quantize=quantize)
    paddle.seed(3)
    for name in quantizable_layers(model):
        path = name.removesuffix(".weight")
        layer = LoRALinear(layer_at(model, path), 4, 0.5)
        layer.lora_b.set_value(0.1 * paddle.randn(layer.lora_b.shape))
        replace_layer(model, path, layer)
    model.save_pretrained(directory)
    return model


def test_an_adapter_of_qlora_into_the_base_as_it_is_or_as_it_was_trained_with(tmp_path, capsys):
    base, adapter = tiny_checkpoint(tmp_path / "base"), tmp_path / "adapter"
    quantized = qlora_adapter(base, adapter, "nf4")
    plain = qlora_adapter(base, tmp_path / "plain", None)

    def merged(directory, *words):
        out = tmp_path / f"merged{len(list(tmp_path.iterdir()))}"
        assert main(["merge", "--lora_path", str(directory), "--output_path", str(out), "--disable_tqdm", *words]) == 0
        return logits(XComposer2ForCausalLM.from_pretrained(out)), capsys.readouterr().out

    into_base, told = merged(adapter)
    assert "the adapter was trained on the base in four bits and is now in the base as it is" in told
    np.testing.assert_allclose(into_base, logits(plain), atol=5e-5)
    as_trained, told = merged(adapter, "--dequantize")
    assert "four bits" not in told
    np.testing.assert_allclose(as_trained, logits(quantized), atol=5e-5)
    assert np.abs(as_trained - into_base).max() > 0.1
    words = ["--output_path", str(tmp_path / "no"), "--disable_tqdm", "--dequantize"]
    assert main(["merge", "--lora_path", str(tmp_path / "plain"), *words]) == 2
    assert "--dequantize is for adapters that were trained on a base in four bits" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("what", ["adapter", "base"])
def test_merging_does_not_replace_what_it_merges(place, what, capsys):
    folder, _ = place
    XComposer2ForCausalLM.from_pretrained(folder / "base").save_pretrained(folder / "base2")  # ours to overwrite
    out = folder / {"adapter": "adapter", "base": "base2"}[what]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    words = ["merge", "--base", str(folder / "base2"), "--lora_path", str(folder / "adapter"), "--overwrite"]
    assert main([*words, "--output_path", str(out), "--disable_tqdm"]) == 2
    assert f"{out} is the {what} itself, which merging would replace" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_16_bit_base_is_merged_in_the_dtype_that_is_asked_for(place, capsys):
    """Not rounded to the base's in between: merged to lose nothing, it holds base + update to float32's digits."""
    folder, _ = place
    base = XComposer2ForCausalLM.from_pretrained(folder / "base")
    base.save_pretrained(folder / "half", to="hf", dtype="bfloat16")
    (folder / "adapter" / "paddle_xc2_adapter.json").unlink()  # whose base is the other one
    (folder / "adapter" / "paddle_xc2_manifest.json").unlink()
    want = logits(XComposer2ForCausalLM.from_pretrained(folder / "adapter", base=folder / "half"))
    words = ["merge", "--lora_path", str(folder / "adapter"), "--base", str(folder / "half"), "--disable_tqdm"]
    for dtype, most in (("float32", 1e-5), ("float16", 4e-3), ("bfloat16", 4e-2)):
        assert main([*words, "--output_path", str(folder / dtype), "--dtype", dtype]) == 0
        merged = XComposer2ForCausalLM.from_pretrained(folder / dtype)
        assert np.abs(logits(merged) - want).max() < most * np.abs(want).max(), dtype

"""An adapter's directory is a model: found with its base wherever the two are, and with no other base."""

import json
import shutil

import numpy as np
import paddle
import pytest

from paddle_xc2 import XComposer2ForCausalLM, XComposer2Processor, XComposer2Tokenizer
from paddle_xc2.checkpoint.base_fingerprint import base_fingerprint, is_same_base
from paddle_xc2.cli import main
from paddle_xc2.hub.directory import open_model
from paddle_xc2.models.lora import LoRALinear, layer_at, lora_layers, replace_layer
from tests.tiny import tiny_checkpoint

MODULES = ("model.layers.0.attention.wqkv.linear", "model.layers.1.feed_forward.w2.linear", "output", "vision_proj.0")


def logits(model):
    with paddle.no_grad():
        return model(input_ids=paddle.to_tensor([[1, 5, 6, 7, 90]])).logits.numpy()


def train(model, dora=False):
    """As if trained: LoRA on some layers, PLoRA and a bias whole."""
    for path in MODULES:
        layer = LoRALinear(layer_at(model, path), 4, 2.0, dora=dora)
        layer.lora_b.set_value(0.05 * paddle.randn(layer.lora_b.shape))
        replace_layer(model, path, layer)
    name = "model.layers.0.attention.wo.plora_b.weight"
    parameters = dict(model.named_parameters())
    parameters[name].set_value(parameters[name] + 0.1)
    model.provenance.replaced = {name: None}
    model.config.chat_layout, model.config.max_length = "as_trained", 123
    model.eval()
    return model


@pytest.fixture
def place(tmp_path):
    """A folder with base/ and adapter/, and the logits of the two."""
    tiny_checkpoint(tmp_path / "base")
    model = train(XComposer2ForCausalLM.from_pretrained(tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path, logits(model)


def test_an_adapter_loads_with_its_base(place):
    folder, want = place
    assert open_model(folder / "adapter").is_adapter and not open_model(folder / "base").is_adapter
    model = XComposer2ForCausalLM.from_pretrained(folder / "adapter")
    np.testing.assert_array_equal(logits(model), want)
    assert model.config.chat_layout == "as_trained" and model.config.max_length == 123
    assert model.provenance.adapter_report.num_updates == 4 and model.provenance.adapter_report.num_replaced == 1
    tokenizer = XComposer2Tokenizer.from_pretrained(folder / "adapter")
    assert tokenizer("digit")["input_ids"] == XComposer2Tokenizer.from_pretrained(folder / "base")("digit")["input_ids"]
    assert XComposer2Processor.from_pretrained(folder / "adapter").chat_layout == "as_trained"
    assert XComposer2Processor.from_pretrained(folder / "base").chat_layout == "official"
    # Saved again, it is the same adapter; without it, the base.
    model.save_pretrained(folder / "again")
    np.testing.assert_array_equal(logits(XComposer2ForCausalLM.from_pretrained(folder / "again")), want)
    model.unload_adapter()
    np.testing.assert_array_equal(logits(model), logits(XComposer2ForCausalLM.from_pretrained(folder / "base")))


def test_both_moved_together(place, tmp_path_factory):
    folder, want = place
    moved = tmp_path_factory.mktemp("elsewhere") / "both"
    shutil.move(folder, moved)
    np.testing.assert_array_equal(logits(XComposer2ForCausalLM.from_pretrained(moved / "adapter")), want)


def test_a_moved_base_is_given(place):
    folder, want = place
    (folder / "base").rename(folder / "moved")
    with pytest.raises(
        FileNotFoundError, match=r"is an adapter, and its base is not to be found .*/base; .*with --base"
    ):
        XComposer2ForCausalLM.from_pretrained(folder / "adapter")
    with pytest.raises(FileNotFoundError, match="give the base with --base"):
        XComposer2Processor.from_pretrained(folder / "adapter")
    model = XComposer2ForCausalLM.from_pretrained(folder / "adapter", base=folder / "moved")
    np.testing.assert_array_equal(logits(model), want)
    XComposer2Processor.from_pretrained(folder / "adapter", base=folder / "moved")
    with pytest.raises(ValueError, match="base .* is given, but .*moved is no adapter; leave it out"):
        XComposer2ForCausalLM.from_pretrained(folder / "moved", base=folder / "moved")


def test_a_wrong_base_is_refused(place):
    folder, _ = place
    tiny_checkpoint(folder / "other", seed=1)
    with pytest.raises(
        ValueError, match="was trained on another model than .*other .*; give the right one with --base"
    ):
        XComposer2ForCausalLM.from_pretrained(folder / "adapter", base=folder / "other")
    with pytest.raises(ValueError, match="its base .*adapter is an adapter too; merge that first"):
        XComposer2ForCausalLM.from_pretrained(folder / "adapter", base=folder / "adapter")


def test_the_fingerprint_does_not_depend_on_layout_and_dtype(place):
    folder, _ = place
    one = base_fingerprint(folder / "base")
    model = XComposer2ForCausalLM.from_pretrained(folder / "base")
    for number, (to, dtype) in enumerate((("paddle", None), ("hf", "bfloat16"), ("paddle", "float16"))):
        model.save_pretrained(folder / str(number), to=to, dtype=dtype)
        assert is_same_base(one, base_fingerprint(folder / str(number))), (to, dtype)
    weight = model.model.layers[1].feed_forward.w1.linear.weight
    weight.set_value(weight * 1.001)
    model.save_pretrained(folder / "trained")
    assert not is_same_base(one, base_fingerprint(folder / "trained"))
    np.testing.assert_array_equal(
        logits(XComposer2ForCausalLM.from_pretrained(folder / "adapter", base=folder / "0")), place[1]
    )


def test_damaged_facts(place):
    folder, _ = place
    path = folder / "adapter" / "paddle_xc2_adapter.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "format_version": 2}))
    with pytest.raises(ValueError, match="format_version is 2, expected 1; install a newer paddle_xc2"):
        XComposer2ForCausalLM.from_pretrained(folder / "adapter")
    path.write_text(json.dumps({**facts, "base": None}))
    with pytest.raises(ValueError, match="is damaged, it has no base or no settings; copy the adapter again"):
        XComposer2ForCausalLM.from_pretrained(folder / "adapter")
    for damage in ({"base": {"name": 3}}, {"settings": {"img_size": "224"}}, {"base": {"fingerprint": [1]}}):
        path.write_text(json.dumps({**facts, **damage}))
        key = next(iter(next(iter(damage.values()))))
        with pytest.raises(ValueError, match=f"adapter.json: is damaged: {key} is .*; copy the adapter again"):
            XComposer2ForCausalLM.from_pretrained(folder / "adapter")
    path.unlink()  # as other programs write adapters: what the base is stands in PEFT's file
    with pytest.raises(ValueError, match="paddle_xc2_adapter.json is missing; copy .* delete paddle_xc2_manifest.json"):
        XComposer2ForCausalLM.from_pretrained(folder / "adapter")
    (folder / "adapter" / "paddle_xc2_manifest.json").unlink()
    assert len(lora_layers(XComposer2ForCausalLM.from_pretrained(folder / "adapter"))) == 4
    config = folder / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(
        FileNotFoundError, match="is an adapter, and it doesn't name its base; give the base with --base"
    ):
        XComposer2ForCausalLM.from_pretrained(folder / "adapter")


def test_chat_with_an_adapter(place, capsys):
    folder, _ = place
    (folder / "base").rename(folder / "moved")
    words = ["chat", "--from_pretrained", str(folder / "adapter"), "--text", "Which digit?", "--max_new_tokens", "2"]
    assert main([*words, "--base", str(folder / "moved")]) == 0
    assert "4 low-rank updates, 1 tensor replaced whole, norm of the change" in capsys.readouterr().err
    assert main(words) == 2
    assert "give the base with --base" in capsys.readouterr().err


def test_a_wrong_base_in_memory_is_refused(place):
    folder, want = place
    tiny_checkpoint(folder / "other", seed=1)
    model = XComposer2ForCausalLM.from_pretrained(folder / "other")
    with pytest.raises(ValueError, match="was trained on another model than .*other .* right one to from_pretrained"):
        model.load_adapter(folder / "adapter")
    assert not model.has_adapter
    model = XComposer2ForCausalLM.from_pretrained(folder / "adapter")
    model.merge_adapter()
    model.load_adapter(folder / "adapter")  # what it was merged into is no longer what source_dir holds: not known
    model.save_pretrained(folder / "second")
    assert open_model(folder / "second").origin.fingerprint is None

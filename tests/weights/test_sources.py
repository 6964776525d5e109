"""What a conversion can be made from."""

import numpy as np
import pytest

from paddle_xc2 import load_model
from paddle_xc2.cli import main
from paddle_xc2.models.lora import LoRALinear, layer_at, replace_layer
from paddle_xc2.weights.convert import convert
from paddle_xc2.weights.sources import Checkpoint, MergedAdapter, model_source
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With base/ and adapter/."""
    folder = tmp_path_factory.mktemp("sources")
    model = load_model(tiny_checkpoint(folder / "base"))
    path = "model.layers.0.feed_forward.w2.linear"
    layer = LoRALinear(layer_at(model, path), rank=2, scaling=0.5)
    layer.lora_b.set_value(layer.lora_b + 0.1)
    replace_layer(model, path, layer)
    model.save_pretrained(folder / "adapter")
    return folder


def test_a_directory_is_a_checkpoint_or_an_adapter_with_its_base(folder):
    assert type(source := model_source(folder / "base")) is Checkpoint
    assert source.parts == {"source": folder / "base"}
    assert type(source := model_source(folder / "adapter")) is MergedAdapter
    assert source.parts == {"base": folder / "base", "adapter": folder / "adapter"}


def test_options_that_the_source_has_no_use_for(folder, tmp_path, capsys):
    with pytest.raises(ValueError, match="base .*/base is given, but .*/base is no adapter; leave it out"):
        model_source(folder / "base", base=folder / "base")
    with pytest.raises(ValueError, match="base: is no adapter, it has no adapter_config.json"):
        MergedAdapter.of(folder / "base")
    assert main(["convert", str(folder / "base"), str(tmp_path / "out"), "--lora_alpha", "8"]) == 2
    assert "--lora_alpha is of the LoRA in an iter_*.pth, and" in capsys.readouterr().err


def test_a_merge_has_the_layout_of_its_base(folder, tmp_path):
    """Whatever layout the tensors are merged in."""
    convert(folder / "base", tmp_path / "paddle")
    for base, to in ((folder / "base", "hf"), (tmp_path / "paddle", "paddle")):
        report = convert(MergedAdapter.of(folder / "adapter", base), tmp_path / f"merged to {to}", to=None)
        assert report.to == to
    want = load_model(folder / "adapter")
    want.merge_adapter()
    got = dict(load_model(tmp_path / "merged to paddle").named_parameters())
    for name, parameter in want.named_parameters():
        np.testing.assert_allclose(got[name].numpy(), parameter.numpy(), atol=1e-6, err_msg=name)

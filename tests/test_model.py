"""The front door: which classes a directory gets, and where a model says that it comes from."""

import json

import numpy as np
import paddle
import pytest

import paddle_xc2
from paddle_xc2 import XComposer2ForCausalLM, XComposer2Processor, load_model, load_processor
from paddle_xc2.families.table import FAMILIES
from paddle_xc2.hub.directory import ModelDirectory
from paddle_xc2.model import CLASSES, ModelVerbs
from paddle_xc2.models.lora import LoRALinear, layer_at, replace_layer
from paddle_xc2.models.xcomposer2 import XComposer2Network
from paddle_xc2.weights.provenance import Provenance
from tests.tiny import tiny_checkpoint, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With an adapter, and a base that has moved since."""
    folder = tmp_path_factory.mktemp("front_door")
    model = load_model(tiny_checkpoint(folder / "somewhere"))
    path = "model.layers.1.attention.wo.linear"
    replace_layer(model, path, LoRALinear(layer_at(model, path), rank=2, scaling=1.0))
    model.save_pretrained(folder / "adapter")
    (folder / "somewhere").rename(folder / "base")
    return folder


def test_every_family_has_classes():
    assert {family.network for family in FAMILIES} == set(CLASSES)
    for classes in CLASSES.values():
        assert issubclass(classes.model, ModelVerbs)


def test_a_directory_gets_the_classes_of_its_family(folder):
    model, processor = load_model(folder / "base", dtype="float32"), load_processor(folder / "base", max_length=99)
    assert type(model) is XComposer2ForCausalLM and type(processor) is XComposer2Processor
    assert not model.training and processor.max_length == 99
    batch = processor.collate([processor.encode_chat("ab")])
    assert model(input_ids=batch["input_ids"]).logits.shape[-1] == model.config.vocab_size


def test_an_adapter_gets_those_of_its_base(folder):
    with pytest.raises(FileNotFoundError, match="its base is not to be found"):
        load_model(folder / "adapter")
    model = load_model(folder / "adapter", base=folder / "base")
    assert model.has_adapter and model.provenance.adapter_report.num_updates == 1
    assert load_processor(folder / "adapter", base=folder / "base").tokenizer is not None


def test_a_model_of_no_known_family(folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    for load in (load_model, load_processor):
        with pytest.raises(ValueError, match="config.json: architectures is \\['LlamaForCausalLM'\\], expected"):
            load(tmp_path)


def test_a_new_model_comes_from_nowhere():
    assert tiny_model().provenance == Provenance()
    assert Provenance().base_name == ""


def test_provenance_names_the_base(tmp_path):
    assert Provenance(ModelDirectory(tmp_path)).base_name == str(tmp_path.resolve())
    released = ModelDirectory(tmp_path, "internlm/internlm-xcomposer2-7b")
    assert Provenance(released).base_name == "internlm/internlm-xcomposer2-7b"


def test_the_network_alone_computes_what_the_model_does():
    """It has the same parameters under the same names, and nothing to load, ask or save with."""
    model = tiny_model()
    network = XComposer2Network(model.config)
    network.set_state_dict(model.state_dict())
    network.eval()
    ids = paddle.to_tensor([[1, 5, 6]])
    np.testing.assert_array_equal(network(ids).logits.numpy(), model(ids).logits.numpy())
    assert not hasattr(network, "chat") and not hasattr(network, "load_adapter")


def test_public_names():
    for name in ("load_model", "load_processor", "XComposer2ForCausalLM"):
        assert name in dir(paddle_xc2)

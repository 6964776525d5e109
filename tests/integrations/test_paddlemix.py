"""Registration with PaddleMIX's Auto classes, held against small ones of the same structure.

PaddleMIX can't be installed from a package index. The structure is that of PaddlePaddle/PaddleMIX, develop of October
2024, paddlemix/auto/*.py: what AutoModelMIX and AutoProcessorMIX look up, in which order, and what they pass on; its
AutoConfigMIX and AutoTokenizerMIX are PaddleNLP's classes, which are here themselves.
"""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from paddlenlp.transformers import AutoConfig, AutoTokenizer
from paddlenlp.transformers.auto.configuration import CONFIG_MAPPING
from paddlenlp.transformers.auto.tokenizer import TOKENIZER_MAPPING

from paddle_xc2 import XComposer2Config, XComposer2ForCausalLM, XComposer2Processor, XComposer2Tokenizer
from paddle_xc2.integrations.paddlemix import register
from paddle_xc2.weights.convert import convert
from tests.tiny import tiny_checkpoint
from tests.weights.paddlemix_port import port, save_port

THEIR_OWN = SimpleNamespace(attributes=[])  # a class of PaddleMIX's own port; its methods would raise


def make_auto_model():
    class AutoModelMIX:
        _name_mapping = {
            "clip": [("CLIP", THEIR_OWN)],
            "internlm_xcomposer2": [("InternLM2Model", THEIR_OWN), ("InternLMXComposer2ForCausalLM", THEIR_OWN)],
        }

        @classmethod
        def from_pretrained(cls, path, *args, **settings):
            settings["cache_dir"] = settings.get("cache_dir", "/home/user/.paddlemix")
            with open(f"{path}/config.json", encoding="utf-8") as file:
                wanted = json.load(file)["architectures"].pop()
            for entries in cls._name_mapping.values():
                for name, model_class in entries:
                    if name == wanted:
                        chosen = model_class  # and on: the last one wins
                        break
            return chosen.from_pretrained(path, *args, **settings)

    return AutoModelMIX


def make_auto_processor(auto_tokenizer):
    class AutoProcessorMIX:
        _processor_mapping = {
            "blip2": {"processor": THEIR_OWN},
            "internlm_xcomposer2": {"image_processor": THEIR_OWN, "processor": THEIR_OWN, "text_processor": THEIR_OWN},
        }

        @classmethod
        def from_pretrained(cls, path, text_model_name_or_path=None, train=None, eval=None, **settings):
            tokenizer = None
            for key, classes in cls._processor_mapping.items():
                if key in path.lower().replace("-", "_"):
                    assert list(classes["processor"].attributes) == ["tokenizer"]  # others: by a class of their own
                    if "max_length" in settings:
                        settings["model_max_length"] = settings["max_length"]
                    tokenizer = auto_tokenizer.from_pretrained(text_model_name_or_path or path, **settings)
                    return classes["processor"](**settings, tokenizer=tokenizer), tokenizer
            return None, tokenizer

    return AutoProcessorMIX


@pytest.fixture
def auto(monkeypatch):
    """`paddlemix.auto`, in which `register` has been called."""
    module = ModuleType("paddlemix.auto")
    module.AutoConfigMIX = type("AutoConfigMIX", (AutoConfig,), {})
    module.AutoTokenizerMIX = type("AutoTokenizerMIX", (AutoTokenizer,), {})
    module.AutoModelMIX = make_auto_model()
    module.AutoProcessorMIX = make_auto_processor(module.AutoTokenizerMIX)
    monkeypatch.setitem(sys.modules, "paddlemix", ModuleType("paddlemix"))
    monkeypatch.setitem(sys.modules, "paddlemix.auto", module)
    for mapping in (CONFIG_MAPPING, TOKENIZER_MAPPING):
        monkeypatch.setattr(mapping, "_extra_content", {})
    register()
    return module


@pytest.fixture(scope="module", params=["upstream", "ours", "PaddleMIX's"])
def checkpoint(request, tmp_path_factory):
    """Its directory has a name that AutoProcessorMIX knows."""
    folder = tmp_path_factory.mktemp("auto")
    if request.param == "PaddleMIX's":
        return save_port(port(), folder / "internlm-xcomposer2-7b")
    source = tiny_checkpoint(folder / "internlm-xcomposer2-7b")
    XComposer2Tokenizer.from_pretrained(source).save_pretrained(
        source
    )  # the tokenizer_config.json that PaddleNLP asks for
    if request.param == "ours":
        convert(source, folder / "xcomposer2-converted")
        return folder / "xcomposer2-converted"
    return source


def test_every_auto_class(auto, checkpoint):
    """Called as PaddleMIX's own programs call them."""
    path = str(checkpoint)
    config = auto.AutoConfigMIX.from_pretrained(path, dtype="float32")
    assert type(config) is XComposer2Config and config.hidden_size == 64
    model = auto.AutoModelMIX.from_pretrained(path, config=config, dtype="float32")
    assert type(model) is XComposer2ForCausalLM
    expected = dict(XComposer2ForCausalLM.from_pretrained(path).named_parameters())
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), expected[name].numpy())
    processor, tokenizer = auto.AutoProcessorMIX.from_pretrained(
        path, text_model_name_or_path=None, train="train", max_length=77
    )
    assert type(processor) is XComposer2Processor and processor.max_length == 77
    assert isinstance(tokenizer, XComposer2Tokenizer)
    assert tokenizer.encode("What is it?") == processor.tokenizer.encode("What is it?")
    assert isinstance(auto.AutoTokenizerMIX.from_pretrained(path), XComposer2Tokenizer)


def test_tiles_of_the_processor(auto, checkpoint):
    with pytest.raises(ValueError, match="hd_num is 9, but xcomposer2-vl-7b takes no tiles"):
        auto.AutoProcessorMIX.from_pretrained(str(checkpoint), hd_num=9)


def test_a_setting_that_the_model_does_not_have(auto, checkpoint):
    """Rather than a model that is not what was asked for."""
    with pytest.raises(TypeError, match="tensor_parallel_degree"):
        auto.AutoModelMIX.from_pretrained(str(checkpoint), tensor_parallel_degree=2)


def test_registering_twice_changes_nothing(auto):
    names = {key: list(value) for key, value in auto.AutoModelMIX._name_mapping.items()}
    register()
    assert auto.AutoModelMIX._name_mapping == names
    assert "clip" in names and auto.AutoProcessorMIX._processor_mapping["blip2"] == {"processor": THEIR_OWN}


def test_without_paddlemix(monkeypatch):
    monkeypatch.setitem(sys.modules, "paddlemix", None)
    with pytest.raises(
        ImportError, match="PaddleMIX can't be imported .*paddlemix.*; install it from a clone of"
    ) as error:
        register()
    assert str(error.value).endswith("paddle_xc2 does not need it")


def test_importing_it_registers_nothing():
    assert XComposer2Config not in CONFIG_MAPPING._extra_content.values()
    assert XComposer2Config not in TOKENIZER_MAPPING._extra_content

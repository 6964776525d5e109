"""This package's model behind PaddleMIX's Auto classes, for programs that are written on those.

    from paddle_xc2.integrations.paddlemix import register

    register()
    model = AutoModelMIX.from_pretrained("./internlm-xcomposer2-7b")
    processor, tokenizer = AutoProcessorMIX.from_pretrained("./internlm-xcomposer2-7b")

Nothing imports this module by itself, and nothing needs PaddleMIX. How its classes choose, with PaddleNLP 3.0.0b4:

- AutoModelMIX: the last class of the name in config.json's `architectures`, in {package: [(class name, class)]};
- AutoConfigMIX: PaddleNLP's mapping, by config.json's `model_type`;
- AutoTokenizerMIX: PaddleNLP's mapping, by the class name in tokenizer_config.json, else by the config's class;
- AutoProcessorMIX: the first key, of {key: {"processor": class, ...}}, that is a part of the path, with "_" for "-".
  It makes the tokenizer first, then the processor from it.

XComposer2.5 and LLaVA share their `model_type` and their tokenizer's class name, internlm2 and InternLM2Tokenizer, with
PaddleMIX's InternVL2: those stay PaddleMIX's, such models take XComposer2Config and XComposer2Tokenizer directly.
"""

from __future__ import annotations

from importlib import import_module

from paddlenlp.transformers.auto.configuration import CONFIG_MAPPING

from paddle_xc2.families.config import XComposer2Config
from paddle_xc2.families.table import XCOMPOSER2_ARCHITECTURE
from paddle_xc2.model import ModelVerbs, load_model, load_processor
from paddle_xc2.text.tokenizer import XComposer2Tokenizer

MODEL_TYPES = ("internlmxcomposer2", "internlm")  # of config.json
PATH_PARTS = ("internlm_xcomposer2", "xcomposer2")  # the first is the key of PaddleMIX's own processor
# What PaddleMIX gives every model: where a download goes, and a config that our model reads from its checkpoint itself.
_UNUSED_MODEL_SETTINGS = ("cache_dir", "from_hf_hub", "config")


class InternLMXComposer2ForCausalLM:
    """Makes a model of what AutoModelMIX is called with; that finds it by this name."""

    @classmethod
    def from_pretrained(cls, path, *_, **settings) -> ModelVerbs:
        known = {name: value for name, value in settings.items() if name not in _UNUSED_MODEL_SETTINGS}
        return load_model(path, **known)


class InternLMXComposer2Tokenizer(XComposer2Tokenizer):
    """Makes an XComposer2Tokenizer of what AutoTokenizerMIX is called with; that finds it by this name.

    Attributes:
        checkpoint: the path it was loaded from.
    """

    @classmethod
    def from_pretrained(cls, path, *_, **_settings) -> InternLMXComposer2Tokenizer:
        """The settings are those of the processor, and marks of the Auto classes."""
        tokenizer = super().from_pretrained(path)
        tokenizer.checkpoint = path
        return tokenizer


def make_processor(tokenizer: InternLMXComposer2Tokenizer, max_length=None, hd_num=None, **_settings):
    """Makes a processor of what AutoProcessorMIX is called with; the rest is about the tokenizer."""
    return load_processor(tokenizer.checkpoint, max_length=max_length, hd_num=hd_num)


make_processor.attributes = ("tokenizer",)  # what AutoProcessorMIX has to make before


def register() -> None:
    """Makes PaddleMIX's Auto classes give this package's config, model, tokenizer and processor for XComposer2.

    Its own port of XComposer2-7b, if it has one, is no longer found by them.

    Raises: ImportError if PaddleMIX is not installed, or can't be imported.
    """
    try:
        auto = import_module("paddlemix.auto")  # on no package index, so setup.py has no extra for it
    except ImportError as error:
        raise ImportError(
            f"PaddleMIX can't be imported ({error}); install it from a clone of github.com/PaddlePaddle/PaddleMIX, or "
            "leave register() out: paddle_xc2 does not need it"
        ) from error
    auto.AutoModelMIX._name_mapping["paddle_xc2"] = [(XCOMPOSER2_ARCHITECTURE, InternLMXComposer2ForCausalLM)]
    for model_type in MODEL_TYPES:
        CONFIG_MAPPING.register(model_type, XComposer2Config, exist_ok=True)
    auto.AutoTokenizerMIX.register(XComposer2Config, InternLMXComposer2Tokenizer, exist_ok=True)
    for part in PATH_PARTS:
        auto.AutoProcessorMIX._processor_mapping[part] = {"processor": make_processor}

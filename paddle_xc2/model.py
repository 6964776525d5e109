"""The front door: networks, and what users do with them. Load, ask, adapt, save.

`ModelVerbs` is the same for every network; the class of a model is no more than both of them together. Another network
is one more such class, and one more row in CLASSES, under the name that its families have in `Family.network`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from paddle_xc2 import runtime
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.data.qwen_processor import QwenVLProcessor
from paddle_xc2.families.table import Family, detect_family
from paddle_xc2.generation.chat import chat, encode_image, stream_chat
from paddle_xc2.generation.generate import generate
from paddle_xc2.hub.directory import ModelDirectory, open_model
from paddle_xc2.models.lora import LoRALinear
from paddle_xc2.models.qwen_vl import QwenVLNetwork
from paddle_xc2.models.token_rows import EmbeddingRows, HeadRows
from paddle_xc2.models.xcomposer2 import XComposer2Network
from paddle_xc2.weights.load import load_checkpoint
from paddle_xc2.weights.load_adapter import load_adapter, merge_adapter, unload_adapter
from paddle_xc2.weights.provenance import AdapterReport, Provenance
from paddle_xc2.weights.save import save_model
from paddle_xc2.weights.save_adapter import save_adapter


class ModelVerbs:
    """What users do with a model. It stands before the network among the bases of a class.

    Loading and saving go through `paddle_xc2.weights`: PaddleNLP's own, which the network inherits, would look for its
    own file layout.

    Attributes:
        provenance: where the weights come from, and what was done to them since.
    """

    def __init__(self, config):
        runtime.prepare()
        super().__init__(config)
        self.provenance = Provenance()

    @classmethod
    def from_pretrained(cls, path, dtype=None, **kwargs):
        """Loads a checkpoint: see `paddle_xc2.weights.load.load_checkpoint`."""
        return load_checkpoint(cls, path, dtype=dtype, **kwargs)

    def save_pretrained(self, save_dir, to="paddle", **kwargs) -> None:
        """Writes a checkpoint: see `paddle_xc2.weights.save.save_model`.

        Of a model with an adapter it writes the adapter, as PEFT does; merge_adapter() first for a whole checkpoint.
        """
        if self.has_adapter:
            save_adapter(self, save_dir, **kwargs)
        else:
            save_model(self, save_dir, to=to, **kwargs)

    def encode_img(self, image, hd_num: int | None = None):
        """Image tokens of one image, as upstream's: see `paddle_xc2.generation.chat.encode_image`."""
        return encode_image(self, image, hd_num=hd_num)

    def generate(self, input_ids, **kwargs):
        """New tokens only: see `paddle_xc2.generation.generate.generate`."""
        return generate(self, input_ids, **kwargs)

    def chat(self, tokenizer, query, image=None, history=(), **kwargs):
        """One answer: see `paddle_xc2.generation.chat.chat`."""
        return chat(self, tokenizer, query, image, history, **kwargs)

    def stream_chat(self, tokenizer, query, image=None, history=(), **kwargs):
        """A growing answer: see `paddle_xc2.generation.chat.stream_chat`."""
        return stream_chat(self, tokenizer, query, image, history, **kwargs)

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is on: LoRA layers, rows of new tokens, or parameters that one holds whole."""
        kinds = (LoRALinear, EmbeddingRows, HeadRows)
        return bool(self.provenance.replaced) or any(isinstance(layer, kinds) for layer in self.sublayers())

    def load_adapter(self, path) -> AdapterReport:
        """Applies an adapter: see `paddle_xc2.weights.load_adapter.load_adapter`."""
        return load_adapter(self, path)

    def merge_adapter(self) -> None:
        """Writes the adapter into the weights: see `paddle_xc2.weights.load_adapter.merge_adapter`."""
        merge_adapter(self)

    def unload_adapter(self) -> None:
        """Takes the adapter away again: see `paddle_xc2.weights.load_adapter.unload_adapter`."""
        unload_adapter(self)

    def save_adapter(self, save_dir, **kwargs) -> None:
        """Writes the adapter alone: see `paddle_xc2.weights.save_adapter.save_adapter`."""
        save_adapter(self, save_dir, **kwargs)


class XComposer2ForCausalLM(ModelVerbs, XComposer2Network):
    """InternLM-XComposer2, 2.5, 4KHD, and LLaVA on InternLM2."""


class QwenVLForCausalLM(ModelVerbs, QwenVLNetwork):
    """Qwen-VL and Qwen-VL-Chat."""


class FamilyClasses(NamedTuple):
    """The classes of the families that have a network in common."""

    model: type[ModelVerbs]
    processor: type[XComposer2Processor]


CLASSES = {  # by Family.network
    "xcomposer2": FamilyClasses(XComposer2ForCausalLM, XComposer2Processor),
    "qwen_vl": FamilyClasses(QwenVLForCausalLM, QwenVLProcessor),
}


def load_model(path: str | Path | ModelDirectory, dtype: str | None = None, **kwargs) -> ModelVerbs:
    """A model of the class that the family of a directory, or of a released name, has.

    Args and raises: as of `paddle_xc2.weights.load.load_checkpoint`.
    """
    directory = open_model(path, kwargs.pop("base", None))
    return CLASSES[family_of(directory).network].model.from_pretrained(directory, dtype, **kwargs)


def load_processor(path: str | Path | ModelDirectory, **kwargs) -> XComposer2Processor:
    """A processor of the class that the family of a directory, or of a released name, has.

    Args and raises: as of `XComposer2Processor.from_pretrained`.
    """
    directory = open_model(path, kwargs.pop("base", None))
    return CLASSES[family_of(directory).network].processor.from_pretrained(directory, **kwargs)


def family_of(directory: ModelDirectory) -> Family:
    """The family of a model, or of an adapter's base."""
    if directory.is_adapter:
        directory = directory.base
    return detect_family(directory.config(), directory.tensor_names(), str(directory.config_path))

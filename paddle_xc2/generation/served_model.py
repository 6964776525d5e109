"""A model as it is asked: how its prompts are laid out, and where its answers end."""

from __future__ import annotations

from dataclasses import dataclass

from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.generation.chat import stop_ids


@dataclass(frozen=True)
class ServedModel:
    """Attributes:
    name: that it is asked for by.
    model: XComposer2ForCausalLM. Only the engine's thread computes with it.
    processor: with the tokenizer; its methods may be called from any thread.
    ends: ids at which an answer ends.
    """

    name: str
    model: object
    processor: XComposer2Processor
    ends: tuple[int, ...]

    @classmethod
    def of(cls, model, tokenizer, name: str = "model") -> ServedModel:
        """A model in memory."""
        processor = XComposer2Processor.for_config(model.config, tokenizer)
        return cls(name, model, processor, tuple(stop_ids(model, tokenizer)))

    @property
    def tokenizer(self):
        return self.processor.tokenizer

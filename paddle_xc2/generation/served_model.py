"""A model as it is asked: how its prompts are laid out, and where its answers end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.generation.chat import stop_ids


@dataclass(frozen=True)
class ServedModel:
    """Attributes:
    name: that it is asked for by.
    model: of a class in paddle_xc2/model.py. Only the engine's thread computes with it.
    processor: with the tokenizer; its methods may be called from any thread.
    ends: ids at which an answer ends.
    activate: called in the engine's thread before it computes: puts the adapter on.
    """

    name: str
    model: object
    processor: XComposer2Processor
    ends: tuple[int, ...]
    activate: Callable[[], object] = lambda: None

    @classmethod
    def of(cls, model, tokenizer, name: str = "model", activate: Callable[[], object] = lambda: None) -> ServedModel:
        """A model in memory."""
        processor = XComposer2Processor.for_config(model.config, tokenizer)
        return cls(name, model, processor, tuple(stop_ids(model, tokenizer)), activate)

    @classmethod
    def of_adapter(cls, model, name: str, processor, activate: Callable[[], object]) -> ServedModel:
        """A model in memory with an adapter. processor: of the adapter: it is asked as it was trained."""
        return cls(name, model, processor, tuple(stop_ids(model, processor.tokenizer)), activate)

    @property
    def context_length(self) -> int:
        """Tokens that the model was made for, prompt and answer together."""
        return self.model.config.context_length

    @property
    def tokenizer(self):
        return self.processor.tokenizer

"""The tokenizer of a checkpoint, whichever family it is of."""

from __future__ import annotations

from paddle_xc2.hub.directory import ModelDirectory, open_model
from paddle_xc2.text.base import BaseTokenizer
from paddle_xc2.text.qwen_tokenizer import VOCABULARY_FILE, QwenVLTokenizer
from paddle_xc2.text.tokenizer import MODEL_FILE, PADDLENLP_MODEL_FILE, XComposer2Tokenizer


def has_tokenizer(directory: ModelDirectory) -> bool:
    """Whether a directory holds a tokenizer's model; of an adapter: whether its training added tokens."""
    return any(map(directory.has, (MODEL_FILE, PADDLENLP_MODEL_FILE, VOCABULARY_FILE)))


def load_tokenizer(path, base=None) -> BaseTokenizer:
    """The tokenizer of a checkpoint; of an adapter, its own or that of its base.

    Args:
        path: of the checkpoint: a directory, a released name, or what `open_model` gave.
        base: of an adapter, if it is not where the adapter remembers it.
    Raises: FileNotFoundError without a tokenizer's model; ValueError if a file is damaged.
    """
    directory = open_model(path, base)
    if directory.is_adapter and not has_tokenizer(directory):
        directory = directory.base
    if directory.has(VOCABULARY_FILE):
        return QwenVLTokenizer.from_pretrained(directory)
    return XComposer2Tokenizer.from_pretrained(directory)


def with_tokens_of_run(
    tokenizer: BaseTokenizer, adapter: ModelDirectory | None, new_tokens: list[str] | None
) -> tuple[BaseTokenizer, BaseTokenizer]:
    """The tokenizer of a fine-tuning run, and the one that the run begins with.

    Args:
        tokenizer: of the model.
        adapter: what the run goes on with, opened; None for nothing.
        new_tokens: what the run adds.
    Raises: as `with_new_tokens`; FileNotFoundError.
    """
    if adapter is not None and has_tokenizer(adapter):
        tokenizer = load_tokenizer(adapter)
    return tokenizer.with_new_tokens(new_tokens) if new_tokens else tokenizer, tokenizer

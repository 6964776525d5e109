"""What encodes the samples of a run: for the run itself, and for check-data, which looks at them before."""

from __future__ import annotations

import os
from typing import Protocol

from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.hub.directory import ModelDirectory
from paddle_xc2.model import load_processor
from paddle_xc2.text.base import BaseTokenizer
from paddle_xc2.text.load_tokenizer import with_tokens_of_run


class SampleSettings(Protocol):
    """Keys of an argument file that decide what becomes of a sample; None is the model's default."""

    max_length: int | None
    hd_num: int | None
    img_size: int | None
    truncation: str | None
    pad_image_to_square: bool | None
    exif: bool | None
    background: str | None
    new_tokens: list[str] | None


def run_processor(
    settings: SampleSettings, model: str | os.PathLike | ModelDirectory, adapter: ModelDirectory | None
) -> tuple[XComposer2Processor, BaseTokenizer]:
    """The processor of a run, and the tokenizer of what the run starts from, without what new_tokens adds.

    Args:
        model: that the run starts from.
        adapter: that it goes on with, opened; None for nothing.
    Raises: as `load_processor` and `with_tokens_of_run`.
    """
    processor = load_processor(
        model,
        max_length=settings.max_length,
        hd_num=settings.hd_num,
        truncation="turns" if settings.truncation == "turns" else "refuse",
        image_size=settings.img_size,
        pad_image_to_square=settings.pad_image_to_square,
        exif=settings.exif,
        background=settings.background,
    )
    processor.tokenizer, original = with_tokens_of_run(processor.tokenizer, adapter, settings.new_tokens)
    return processor, original

"""Whether a merged checkpoint answers as its base with the adapter does: their logits side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
from PIL import Image

from paddle_xc2 import runtime
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.hub.directory import open_model
from paddle_xc2.messages import sized
from paddle_xc2.model import load_model, load_processor
from paddle_xc2.models.not_finite import describe_not_finite
from paddle_xc2.weights.sources import MergedAdapter

# By how much of the largest logit the merged model may differ, by what its weights are stored in; else float32's.
_ROUNDING = {"bfloat16": 0.1, "float16": 0.0125}
_POSITIONS = 32  # of the prompt's end, where logits are compared


def check_merged(source: MergedAdapter, merged: Path, say: Callable[[str], object]) -> None:
    """Asks the base, the base with the adapter, and the merged model the same, and says how the logits differ.

    All three compute in float32, so that they differ by how the merged weights were rounded, and by nothing else.

    Args:
        source: what was merged.
        merged: the checkpoint that was written.
    Raises: ValueError if the merged model's logits are not those with the adapter, or are not finite.
    """
    runtime.prepare()
    merged = open_model(merged)
    stored = read_checkpoint(merged).values()
    needed = 5 * sum(math.prod(tensor.shape) for tensor in stored)  # in float32, with what is in between
    if needed > runtime.device_memory():
        say(
            f"logits before and after are not compared: that takes about {sized(needed)}, and there are "
            f"{sized(runtime.device_memory())} here"
        )
        return
    processor = load_processor(merged)
    batch = processor.collate([processor.encode_chat("What is in the picture?", images=[_picture()])])
    del batch["labels"]
    quantize = "nf4" if source.dequantize else None
    model = load_model(source.adapter, "float32", quantize=quantize)
    on, change = _logits(model, batch), model.provenance.adapter_report
    if not np.isfinite(on).all():
        found = describe_not_finite(model, **batch)
        raise ValueError(f"{source.directory} with {source.adapter}: {found}; {merged} is no better, delete it")
    model.unload_adapter()
    off = _logits(model, batch)
    del model
    after = _logits(load_model(merged, "float32"), batch)
    size, difference = float(np.abs(on).max()), float(np.abs(after - on).max())
    say(f"adapter: {change}")
    say(
        f"logits of a question about a picture, up to {size:.3g}: the adapter changes them by up to "
        f"{float(np.abs(on - off).max()):.3g}; merged, they differ from that by up to {difference:.2g}"
    )
    if not difference <= max(_ROUNDING.get(tensor.dtype, 1e-3) for tensor in stored) * size:
        raise ValueError(
            f"{merged}: its logits are not those of the base with the adapter; don't use it, and report this"
        )


def _logits(model, batch: dict) -> np.ndarray:
    """Of the question alone: at the picture's places, the head would take longer than the rest."""
    with paddle.no_grad():
        return model.output(model(**batch).last_hidden_state[:, -_POSITIONS:]).astype("float32").numpy()


def _picture() -> Image.Image:
    """A picture of all colours."""
    row, column = np.mgrid[0:64, 0:96]
    return Image.fromarray(np.stack([row * 4, column * 2, 255 - row * 4], axis=-1).astype(np.uint8))

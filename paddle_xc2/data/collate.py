"""List of Examples -> batch. The batch's keys and shapes are written here and nowhere else.

input_ids       int64 [batch, seq]   the pad token where attention_mask is 0, any id at image slots
labels          int64 [batch, seq]   IGNORE_INDEX where nothing is trained, and at the first token of a sample, which
                                     nothing stands before that would predict it
image_mask      bool  [batch, seq]   true at image slots
attention_mask  int64 [batch, seq]   0 = padding, else the number (1, 2, ..) of the sample within its row
position_ids    int64 [batch, seq]   counted within each sample
pixel_values    list of float32 [3, height, width], in reading order over the batch; may be empty
layout          of tensors: where things are in them (`batch_layout.py`), so that no device has to be asked
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paddle_xc2.batch_layout import DESCRIBED, BatchLayout
from paddle_xc2.data.encode import Example
from paddle_xc2.families.special_tokens import IGNORE_INDEX


def collate_arrays(
    examples: list[Example], pad_token_id: int, packed: bool = False, padding_side: str = "right"
) -> dict:
    """The batch as NumPy arrays, which can cross from a worker process.

    Args:
        packed: put all examples into one row, where attention stays within each. Else one row an example, padded.
        padding_side: "right" for training, "left" for generation.
    """
    return collate_rows([examples] if packed else [[example] for example in examples], pad_token_id, padding_side)


def collate_rows(rows: list[list[Example]], pad_token_id: int, padding_side: str = "right") -> dict:
    """As `collate_arrays`, with the examples of each row: attention stays within each example."""
    width = max(sum(len(example) for example in row) for row in rows)
    fill = {
        "input_ids": pad_token_id,
        "labels": IGNORE_INDEX,
        "image_mask": False,
        "attention_mask": 0,
        "position_ids": 0,
    }
    batch = {
        key: np.full([len(rows), width], value, bool if value is False else np.int64) for key, value in fill.items()
    }
    for index, row in enumerate(rows):
        start = width - sum(len(example) for example in row) if padding_side == "left" else 0
        for number, example in enumerate(row, 1):
            place = (index, slice(start, start + len(example)))
            batch["input_ids"][place] = example.input_ids
            batch["labels"][place] = example.labels
            batch["labels"][index, start] = IGNORE_INDEX
            batch["image_mask"][place] = example.image_mask
            batch["attention_mask"][place] = number
            batch["position_ids"][place] = np.arange(len(example))
            start += len(example)
    batch["pixel_values"] = [pixels for row in rows for example in row for pixels in example.pixel_values]
    return batch


def to_tensors(batch: dict) -> dict:
    """The same batch as Paddle tensors, and `layout`, what the model needs to know of them without asking a device."""
    sources = []
    tensors = {key: to_device(value, sources) for key, value in batch.items() if key != "pixel_values"}
    tensors["pixel_values"] = [to_device(pixels, sources) for pixels in batch["pixel_values"]]
    layout = BatchLayout.of(*(batch.get(key) for key in DESCRIBED))
    places, predicting = (to_device(indices, sources) for indices in (layout.image_places, layout.predicting))
    layout = replace(layout, image_places=places, predicting=predicting, sources=tuple(sources))
    tensors["layout"] = layout.describing(*(tensors.get(key) for key in DESCRIBED))
    return tensors


def to_device(array: np.ndarray, sources: list):
    """The array as a Paddle tensor, without waiting for what a GPU is doing.

    Args:
        sources: takes what the copy may still be reading when this returns: keep it for as long as the tensor is used.
    """
    import paddle  # reading and checking data needs no Paddle

    if not paddle.device.get_device().startswith("gpu"):
        return paddle.to_tensor(array)
    # From page-locked memory, a copy that doesn't block is made in its turn (paddle/phi/core/tensor_utils.cc, `Copy`).
    sources.append(paddle.to_tensor(array, place=paddle.CUDAPinnedPlace()))
    return sources[-1].cuda(blocking=False)

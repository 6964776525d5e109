"""List of Examples -> batch. The batch's keys and shapes are written here and nowhere else.

input_ids       int64 [batch, seq]   the pad token where attention_mask is 0, any id at image slots
labels          int64 [batch, seq]   IGNORE_INDEX where nothing is trained
image_mask      bool  [batch, seq]   true at image slots
attention_mask  int64 [batch, seq]   0 = padding, else the number (1, 2, ..) of the sample within its row
position_ids    int64 [batch, seq]   counted within each sample
pixel_values    list of float32 [3, height, width], in reading order over the batch; may be empty
"""

from __future__ import annotations

import numpy as np

from paddle_xc2.data.encode import Example
from paddle_xc2.special_tokens import IGNORE_INDEX


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
            batch["image_mask"][place] = example.image_mask
            batch["attention_mask"][place] = number
            batch["position_ids"][place] = np.arange(len(example))
            start += len(example)
    batch["pixel_values"] = [pixels for row in rows for example in row for pixels in example.pixel_values]
    return batch


def to_tensors(batch: dict) -> dict:
    """The same batch as Paddle tensors."""
    import paddle  # reading and checking data needs no Paddle

    tensors = {key: paddle.to_tensor(value) for key, value in batch.items() if key != "pixel_values"}
    tensors["pixel_values"] = [paddle.to_tensor(pixels) for pixels in batch["pixel_values"]]
    return tensors

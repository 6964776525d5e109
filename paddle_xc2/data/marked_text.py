"""Example -> text again: what the model sees, and which of it is trained."""

from __future__ import annotations

from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np

from paddle_xc2.data.encode import Example
from paddle_xc2.families.special_tokens import IGNORE_INDEX


class Piece(NamedTuple):
    """A part of a sample. Of an image, the text says how many tokens it takes."""

    text: str
    kind: Literal["given", "trained", "image"]


def marked_pieces(example: Example, image_tokens: list[int], tokenizer) -> list[Piece]:
    """A sample as the model sees it, special tokens included; neighbours differ in kind, but for images.

    Args:
        image_tokens: slots of each image, in order.
    """
    kinds = np.where(example.image_mask, 2, (example.labels != IGNORE_INDEX).astype(int))
    borders = np.flatnonzero(np.diff(kinds)) + 1
    sizes = iter(image_tokens)
    pieces = []
    for ids, kind in zip(np.split(example.input_ids, borders), np.split(kinds, borders), strict=True):
        if kind[0] == 2:
            covered = 0
            while covered < len(ids):
                size = next(sizes)
                pieces.append(Piece(f"<image: {size} tokens>", "image"))
                covered += size
        else:
            pieces.append(Piece(_exact_text(ids.tolist(), tokenizer), "trained" if kind[0] == 1 else "given"))
    return pieces


def _exact_text(ids: list[int], tokenizer) -> str:
    """What was encoded: upstream's `decode` writes spaces around special tokens that were not there."""
    pieces = []
    for special, group in groupby(ids, key=frozenset(tokenizer.all_special_ids).__contains__):
        group = list(group)
        pieces.append("".join(tokenizer.convert_ids_to_tokens(group)) if special else tokenizer.decode(group))
    return "".join(pieces)

"""What an adapter remembers of the model that it was trained on, to tell it from every other.

Names and shapes of all tensors, and a few hundred values of some of them: enough to tell a model from one that was
trained further, and read in a moment. Layout and dtype of the files don't count: a converted base is the same base.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from paddle_xc2.checkpoint.lazy_tensor import MODEL_DTYPES, LazyTensor, cast
from paddle_xc2.checkpoint.names import names_of_tensors
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.hub.directory import ModelDirectory

_NUM_SAMPLED = 48  # tensors, evenly over the names
_CORNER = 16  # of each, this many rows and columns around its middle


def base_fingerprint(directory: Path | ModelDirectory) -> dict:
    """{"shapes": hash, "values": {dtype: hash}} of a checkpoint, in hexadecimal.

    The hash of the values is taken of them in each dtype, because casting loses digits: a bfloat16 copy of a float32
    model has the hash of bfloat16 in common with it.

    Raises: as `read_checkpoint`.
    """
    checkpoint = read_checkpoint(directory)
    table, layout = names_of_tensors(checkpoint)
    found = (table.relabelled(name, tensor, layout, "paddle") for name, tensor in checkpoint.items())
    tensors = dict(filter(None, found))  # what no rule knows is of no use to the model
    tensors.pop(table.resized, None)  # the position table, for other image sizes
    names = sorted(tensors)
    shapes = hashlib.sha256(json.dumps([[name, tensors[name].shape] for name in names]).encode())
    sampled = [name for name in names if len(tensors[name].shape) == 2]
    sampled = sampled[:: max(1, len(sampled) // _NUM_SAMPLED)]
    values = {dtype: hashlib.sha256() for dtype in MODEL_DTYPES}
    for name in sampled:
        corner = _middle(tensors[name], name)
        for dtype, digest in values.items():
            digest.update(_cast_or_infinite(corner, dtype, name).tobytes())
    return {"shapes": shapes.hexdigest(), "values": {dtype: digest.hexdigest() for dtype, digest in values.items()}}


def check_base(
    adapter: ModelDirectory, base: ModelDirectory, how: str = "with --base (base=...)", known: dict | None = None
) -> dict | None:
    """Args:
        how: the base is given, for the message.
        known: the base's fingerprint, if it was taken already.
    Returns: the base's fingerprint; `known` if the adapter remembers none, which passes.
    Raises: ValueError if the adapter remembers another base.
    """
    remembered = adapter.origin.fingerprint
    if remembered is None:
        return known
    fingerprint = known or base_fingerprint(base)
    if is_same_base(remembered, fingerprint):
        return fingerprint
    raise ValueError(
        f"{adapter}: was trained on another model than {base} (its base was {adapter.origin.base_name!r}; names, "
        f"shapes or sampled values of the weights differ); give the right one {how}"
    )


def is_same_base(one: dict, other: dict) -> bool:
    """Whether two fingerprints are of one model, in whatever dtype each was stored."""
    values, others = one.get("values") or {}, other.get("values") or {}
    return one.get("shapes") == other.get("shapes") and any(values[d] == others.get(d) for d in values)


def _middle(tensor: LazyTensor, name: str) -> np.ndarray:
    """Some values of a matrix, float32."""
    view = tensor.read()
    rows, columns = (max(0, length // 2 - _CORNER // 2) for length in view.shape)
    piece = np.ascontiguousarray(view[rows : rows + _CORNER, columns : columns + _CORNER])
    return cast(piece, tensor.dtype, "float32", name)


def _cast_or_infinite(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    return cast(values, "float32", dtype, name)

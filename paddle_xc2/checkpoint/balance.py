"""Every tensor of a checkpoint against every parameter of the model: all accounted for, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from paddle_xc2.checkpoint.deepspeed import are_empty
from paddle_xc2.checkpoint.lazy_tensor import FLOATING, LazyTensor
from paddle_xc2.checkpoint.name_table import NameTable
from paddle_xc2.families.quantized_base import quantized_by
from paddle_xc2.messages import NUM_LISTED, listed, nearest


class Balance(NamedTuple):
    """A checkpoint that fits the model.

    Attributes:
        parameters: tensors under our names and in Paddle's layout, in the checkpoint's order.
        dropped: why, by name, for the tensors that the model has no use for.
    """

    parameters: dict[str, LazyTensor]
    dropped: dict[str, str]


def balance(
    tensors: dict[str, LazyTensor], names: NameTable, layout: str, shapes: dict[str, list[int]], where: Path
) -> Balance:
    """Assigns each tensor to its parameter.

    Args:
        tensors: of the checkpoint, by its names.
        names: of the model's family.
        layout: that of the checkpoint, one of `names.layouts`.
        shapes: of every parameter of the model, by our names.
        where: the checkpoint, for messages.
    Raises: ValueError naming unknown tensors, parameters that nothing fills, and wrong shapes and dtypes, all at once.
    """
    parameters, dropped, unknown, wrong = {}, {}, [], []
    for name, tensor in tensors.items():
        target, ours = names.relabelled(name, tensor, layout, "paddle") or (None, tensor)
        if target not in shapes:
            if reason := names.reason_dropped(name, layout):
                dropped[name] = reason
            else:
                unknown.append(name)
            continue
        parameters[target] = ours
        expected = tuple(shapes[target] if ours is tensor else shapes[target][::-1])
        if tensor.shape != expected:
            hint = _shape_hint(tensor.shape, expected)
            wrong.append(f"{name}: checkpoint shape {list(tensor.shape)}, model expects {list(expected)} ({hint})")
        elif tensor.dtype not in FLOATING:
            wrong.append(f"{name}: checkpoint dtype {tensor.dtype}, expected one of {', '.join(FLOATING)}")
    missing = [names.from_paddle(name, layout)[0] for name in shapes if name not in parameters]
    complaints = [told for told in (are_empty(tensors), quantized_by(unknown)) if told]
    if complaints:  # which explains everything else
        raise ValueError(f"{where}: {'; '.join(complaints)}")
    if unknown:
        complaints.append(f"{len(unknown)} tensors that the model has no parameter for: {listed(unknown)}")
    if missing:
        complaints.append(f"{len(missing)} tensors that the model needs are missing: {listed(missing)}")
    renamed = [(name, nearest(name, missing, cutoff=0.9)) for name in unknown[:NUM_LISTED]]
    complaints += [f"is {name} meant to be {close}?" for name, close in renamed if close]
    if wrong:
        complaints.append(listed(wrong))
    if complaints:
        raise ValueError(f"{where}: the weights don't fit the model of its config.json: {'; '.join(complaints)}")
    return Balance(parameters, dropped)


def _shape_hint(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if found[::-1] == expected:
        return "transposed: set transpose in the family's table of names, or take a file of the right layout"
    return "config.json, or the shard, is of another model"

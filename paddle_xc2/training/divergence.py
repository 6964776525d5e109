"""When a model computes NaN: seen before anything is trained or kept, and said with what to do."""

from __future__ import annotations

import contextlib
from pathlib import Path

from paddle_xc2.messages import listed
from paddle_xc2.models.not_finite import describe_not_finite, not_finite_parameters
from paddle_xc2.training.arguments import FinetuneArguments

_NUM_NAMES_SHOWN = 3


class Diverged(Exception):
    """Training can't go on, and its state is not worth keeping; the message says why and what to do."""


def check_starting_weights(model, source) -> None:
    """Args:
        model: as it was loaded.
        source: what it was loaded from, for the message.
    Raises: ValueError naming weights that are not finite.
    """
    if names := list(not_finite_parameters(model)):
        raise ValueError(
            f"{source}: NaN or infinity in {listed(names, _NUM_NAMES_SHOWN)}: the model would compute NaN before "
            "anything is trained; start from sound weights"
        )


def describe_batches(model, batches: list[dict], autocast=contextlib.nullcontext) -> str:
    """`describe_not_finite` of the first batch of which there is something to say; "" if all they give is finite.

    Args:
        batches: as `data/collate.py` lays them out, as tensors.
        autocast: makes the context that the run computes in.
    """
    model.eval()
    for batch in batches:
        with autocast():
            if description := describe_not_finite(model, **batch):
                return description
    return ""


def starting_model_message(source, where: str, loss: float) -> str:
    """What is said where the first loss is not finite: no learning rate has had anything to do with it.

    Args:
        where: the model computes NaN, as `describe_batches` says.
    """
    return f"{source}: before anything is trained, {where or f'the loss is {loss}'}"


def diverged_message(what: str, where: str, arguments: FinetuneArguments, checkpoint: Path | None) -> str:
    """What is said of a run that can't go on.

    Args:
        what: has happened, and when.
        where: the model computes NaN, as `describe_batches` says.
        checkpoint: the newest one, or None. All are looked at before they are written.
    """
    reasons = "; ".join(filter(None, [what, where]))
    rate = f"learning_rate ({arguments.learning_rate:g})"
    half = ", compute in bf16 or float32 instead of fp16" if arguments.fp16 else ""
    saved = f"{checkpoint}, from before, is sound" if checkpoint else "no checkpoint was written yet"
    return (
        f"{reasons}; training can't go on from here: lower {rate}, lengthen warmup_ratio or warmup_steps{half}, and "
        f"begin anew; {saved}"
    )

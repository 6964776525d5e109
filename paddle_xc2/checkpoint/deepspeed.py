"""Checkpoints that DeepSpeed wrote: a folder of one file for each process, of which one may hold the whole model.

With ZeRO-1 and -2 `mp_rank_00_model_states.pt` holds every weight, whole, under "module"; the files of the optimizer
beside it are of no use here. With ZeRO-3 the weights are cut in pieces over all processes, and what stands in their
place is empty; DeepSpeed's own `zero_to_fp32.py` puts them together.
"""

from __future__ import annotations

from pathlib import Path

from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.hub.weight_files import JOINED_TORCH_FILES

_WHOLE = "mp_rank_*_model_states.pt"
_PIECES = "zero_pp_rank_*_model_states.pt"


def is_deepspeed(directory: Path) -> bool:
    return any(next(directory.glob(pattern), None) for pattern in (_WHOLE, _PIECES))


def state_files(directory: Path) -> list[Path]:
    """The files that hold the model of a folder which DeepSpeed, or its zero_to_fp32.py, wrote.

    Raises: ValueError if the model is cut in pieces, or if there is none.
    """
    if next(directory.glob(_PIECES), None):
        raise ValueError(f"{directory}: {in_pieces(directory)}")
    found = sorted(directory.glob(_WHOLE))
    if len(found) > 1:
        raise ValueError(
            f"{directory}: is a checkpoint of DeepSpeed in {len(found)} parts (tensor parallel), which can't be read"
        )
    found = found or sorted(directory.glob(JOINED_TORCH_FILES))  # what zero_to_fp32.py writes into a folder
    if not found:
        raise ValueError(
            f"{directory}: is a folder, but none of a DeepSpeed checkpoint (it has no mp_rank_00_model_states.pt); "
            "give the iter_*.pth itself"
        )
    return found


def in_pieces(directory: Path) -> str:
    """What to say of a folder that was written with ZeRO-3."""
    whole = directory.with_name(f"{directory.stem}_whole{directory.suffix}")
    return (
        "is a checkpoint of DeepSpeed's ZeRO-3, which holds the weights in pieces; put them together with its script: "
        f"python zero_to_fp32.py {directory.parent} {whole} -t {directory.name}, and give {whole.name}"
    )


def are_empty(tensors: dict[str, LazyTensor]) -> str | None:
    """What to say of tensors without a value, which ZeRO-3 leaves in place of its pieces; None if there are none."""
    empty = [name for name, tensor in tensors.items() if tensor.shape == (0,)]
    if not empty:
        return None
    return (
        f"{len(empty)} tensors are empty (shape [0]), first {empty[0]}: they were saved under DeepSpeed's ZeRO-3, "
        "which keeps their values in pieces elsewhere; put these together with its script (python zero_to_fp32.py "
        "CHECKPOINT OUT) and take the weights in OUT"
    )

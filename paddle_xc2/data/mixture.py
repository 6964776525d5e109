"""Which files are trained on, and which sample comes when."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from paddle_xc2.data.conversation import Conversation
from paddle_xc2.data.json_formats import load_conversations


@dataclass(frozen=True)
class DatasetSpec:
    """One entry of `dataset.train` or `dataset.eval`.

    Attributes:
        name: a label; the format is recognised from the records.
        files: JSON files.
        image_folder: where relative image paths start; None is each file's own folder.
    """

    name: str
    files: tuple[Path, ...]
    image_folder: Path | None = None


def load_datasets(specs: list[DatasetSpec]) -> list[Conversation]:
    """Every record of every file, in the order of the files. Raises: FileNotFoundError, DataError."""
    conversations = []
    for spec in specs:
        for file in spec.files:
            conversations += load_conversations(file, spec.image_folder)
    return conversations


class StepOrder:
    """Which samples each optimizer step takes.

    A step's samples are a function of the step, the seed and the sizes alone: not of workers, of processes or of where
    a run was interrupted. Every epoch takes each sample once, in an order of its own.

    Args:
        num_samples: in the training set.
        samples_per_step: over all processes and accumulated passes.
        seed: of the order.
        drop_last: leave out the samples at an epoch's end that don't fill a step, unless they are all there is.
    """

    def __init__(self, num_samples: int, samples_per_step: int, seed: int, drop_last: bool = False):
        self.num_samples = num_samples
        self.samples_per_step = samples_per_step
        self.seed = seed
        whole, rest = divmod(num_samples, samples_per_step)
        self.steps_per_epoch = whole if whole and drop_last else whole + bool(rest)

    def samples_of(self, step: int, rank: int = 0, num_ranks: int = 1) -> list[int]:
        """Indexes of the samples of a step, counted from 0 over all epochs: those that this process takes."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        order = _epoch_order(self.num_samples, self.seed, epoch)
        start = step_in_epoch * self.samples_per_step
        return order[start : start + self.samples_per_step][rank::num_ranks].tolist()


@lru_cache(maxsize=2)  # every step of an epoch asks for it
def _epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_samples)

"""Samples -> the batches of one optimizer step. Images are read here, in worker processes if asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from paddle_xc2.data.collate import to_tensors
from paddle_xc2.data.samples import Samples
from paddle_xc2.data.step_order import StepOrder
from paddle_xc2.data.worker_processes import made_ahead


@dataclass
class StepItem:
    """What one process computes in one step, or in one pass of the evaluation.

    Attributes:
        batches: as `data/collate.py` lays them out; NumPy arrays, or Paddle tensors once an ItemLoader yields them.
        num_trained_tokens, num_tokens, num_image_tokens: over all batches.
        weight: 0.0 if the batches are computed but not counted.
        sources: of each batch, the names of its samples, for messages.
        token_datasets: of each batch, which data set each trained token belongs to: int64 [trained tokens], in reading
            order.
    """

    batches: list[dict]
    num_trained_tokens: int
    num_tokens: int
    num_image_tokens: int
    weight: float = 1.0
    sources: list[list[str]] = field(default_factory=list)
    token_datasets: list[np.ndarray] = field(default_factory=list)


class TrainingSteps(Sequence):
    """Item `step` is what this process computes in that optimizer step, counted from 0 over all epochs.

    In a step with fewer batches than processes, a process without one computes the first at weight 0, so that all of
    them do the same. The length is the number of samples: what PaddleNLP asks a data set for.
    """

    def __init__(self, samples: Samples, processor, order: StepOrder, batch_size: int, rank=0, num_ranks=1):
        self.samples = samples
        self.processor = processor
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.num_ranks = num_ranks

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, step: int) -> StepItem:
        """Raises: DataError naming the record, if an image can't be used."""
        mine = self.order.batches_of(step, self.batch_size, self.rank, self.num_ranks)
        if mine:
            return _encode(self.samples, mine, self.processor)
        first = self.order.rows_of(step)[0]
        return StepItem(_encode(self.samples, [[first]], self.processor).batches, 0, 0, 0, weight=0.0)


class EvaluationBatches(Sequence):
    """Item `index` is one batch; together they hold every sample once."""

    def __init__(self, samples: Samples, processor, batch_size: int):
        self.samples = samples
        self.processor = processor
        self.batch_size = batch_size

    def __len__(self):
        return -(-len(self.samples) // self.batch_size)

    def __getitem__(self, index: int) -> StepItem:
        """Raises: DataError naming the record, if an image can't be used."""
        start = index * self.batch_size
        rows = [[sample] for sample in range(start, min(start + self.batch_size, len(self.samples)))]
        return _encode(self.samples, [rows], self.processor)


class QuestionBatches(EvaluationBatches):
    """The same samples as prompts, padded on the left, each without its last answer, which is to be generated."""

    def __getitem__(self, index: int) -> StepItem:
        """Raises: DataError naming the record, if an image can't be used."""
        start = index * self.batch_size
        indexes = range(start, min(start + self.batch_size, len(self.samples)))
        examples = [self.processor.encode_question(self.samples.conversations[index]) for index in indexes]
        batch = self.processor.collate_arrays(examples, padding_side="left")
        del batch["labels"]
        num_image_tokens = sum(int(example.image_mask.sum()) for example in examples)
        return StepItem([batch], 0, sum(len(example) for example in examples), num_image_tokens)


def _encode(samples: Samples, batches: list[list[list[int]]], processor) -> StepItem:
    """batches: of each batch, its rows; of each row, its samples."""
    item = StepItem([], 0, 0, 0)
    for rows in batches:
        examples = [[processor.encode_conversation(samples.conversations[index]) for index in row] for row in rows]
        item.batches.append(processor.collate_rows(examples))
        item.sources.append([example.source for row in examples for example in row])
        counts = [(example.num_trained_tokens, len(example), example.image_mask.sum()) for example in sum(examples, [])]
        trained, tokens, image_tokens = np.array(counts).T
        item.token_datasets.append(np.repeat(samples.dataset_of[sum(rows, [])], trained).astype(np.int64))
        item.num_trained_tokens += int(trained.sum())
        item.num_tokens += int(tokens.sum())
        item.num_image_tokens += int(image_tokens.sum())
    return item


class EpochSteps:
    """The steps of one epoch after the other: every iteration is an epoch, the first one begins at `next_step`.

    The length is what PaddleNLP divides the steps of the run by, to know after how many iterations to give up: the
    steps of an epoch, or 1 where epochs differ.
    """

    def __init__(self, order: StepOrder, next_step: int = 0):
        self.order = order
        self.next_step = next_step

    def __len__(self):
        return self.order.steps_per_epoch or 1

    def __iter__(self):
        start = self.next_step
        epoch, _ = self.order.place_of(start)
        self.order.plan_of(epoch)  # here, so that workers needn't
        self.next_step = self.order.end_of_epoch(epoch)
        return iter(range(start, self.next_step))


class ItemLoader:
    """`items[index]` for each of `indexes`, as Paddle tensors, made ahead by worker processes.

    Not Paddle's DataLoader: without workers it hangs for good when an item raises, and an item without an array ends
    its epoch in silence. Here an error arrives as it was raised.

    Args:
        items: indexed by what `indexes` yields; must not use Paddle.
        num_workers: processes; 0 makes each item when it is asked for.
    """

    def __init__(self, items: Sequence, indexes, num_workers: int):
        self.items = items
        self.indexes = indexes
        self.num_workers = num_workers

    def __len__(self):
        return len(self.indexes)

    def __iter__(self) -> Iterator[StepItem]:
        for item in made_ahead(self.items, self.indexes, self.num_workers):
            item.batches = [to_tensors(batch) for batch in item.batches]
            yield item

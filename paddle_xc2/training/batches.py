"""Samples -> the batches of one optimizer step. Images are read here, in worker processes if asked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait

from paddle_xc2.data.collate import to_tensors
from paddle_xc2.data.conversation import Conversation
from paddle_xc2.data.mixture import StepOrder


@dataclass
class StepItem:
    """What one process computes in one step, or in one pass of the evaluation.

    Attributes:
        batches: as `data/collate.py` lays them out; NumPy arrays, or Paddle tensors once an ItemLoader yields them.
        num_trained_tokens, num_tokens, num_image_tokens: over all batches.
        weight: 0.0 if the batches are computed but not counted.
    """

    batches: list[dict]
    num_trained_tokens: int
    num_tokens: int
    num_image_tokens: int
    weight: float = 1.0


class TrainingSteps(Sequence):
    """Item `step` is what this process computes in that optimizer step, counted from 0 over all epochs.

    In a step with fewer samples than processes, a process without one computes the first at weight 0, so that all of
    them do the same. The length is the number of samples: what PaddleNLP asks a data set for.
    """

    def __init__(self, conversations: list[Conversation], processor, order: StepOrder, batch_size, rank=0, num_ranks=1):
        self.conversations = conversations
        self.processor = processor
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.num_ranks = num_ranks

    def __len__(self):
        return len(self.conversations)

    def __getitem__(self, step: int) -> StepItem:
        """Raises: DataError naming the record, if an image can't be used."""
        mine = self.order.samples_of(step, self.rank, self.num_ranks)
        if mine:
            return _encode([self.conversations[index] for index in mine], self.processor, self.batch_size)
        first = self.order.samples_of(step)[0]
        return StepItem(_encode([self.conversations[first]], self.processor, 1).batches, 0, 0, 0, weight=0.0)


class EvaluationBatches(Sequence):
    """Item `index` is one batch; together they hold every sample once."""

    def __init__(self, conversations: list[Conversation], processor, batch_size: int):
        self.conversations = conversations
        self.processor = processor
        self.batch_size = batch_size

    def __len__(self):
        return -(-len(self.conversations) // self.batch_size)

    def __getitem__(self, index: int) -> StepItem:
        """Raises: DataError naming the record, if an image can't be used."""
        start = index * self.batch_size
        return _encode(self.conversations[start : start + self.batch_size], self.processor, self.batch_size)


class QuestionBatches(EvaluationBatches):
    """The same samples as prompts, padded on the left, each without its last answer, which is to be generated."""

    def __getitem__(self, index: int) -> StepItem:
        """Raises: DataError naming the record, if an image can't be used."""
        start = index * self.batch_size
        conversations = self.conversations[start : start + self.batch_size]
        examples = [self.processor.encode_question(conversation) for conversation in conversations]
        batch = self.processor.collate_arrays(examples, padding_side="left")
        del batch["labels"]
        num_image_tokens = sum(int(example.image_mask.sum()) for example in examples)
        return StepItem([batch], 0, sum(len(example) for example in examples), num_image_tokens)


def _encode(conversations: list[Conversation], processor, batch_size: int) -> StepItem:
    examples = [processor.encode_conversation(conversation) for conversation in conversations]
    starts = range(0, len(examples), batch_size)
    return StepItem(
        [processor.collate_arrays(examples[start : start + batch_size]) for start in starts],
        num_trained_tokens=sum(example.num_trained_tokens for example in examples),
        num_tokens=sum(len(example) for example in examples),
        num_image_tokens=sum(int(example.image_mask.sum()) for example in examples),
    )


class EpochSteps:
    """The steps of one epoch after the other: every iteration is an epoch, the first one begins at `next_step`."""

    def __init__(self, steps_per_epoch: int, next_step: int = 0):
        self.steps_per_epoch = steps_per_epoch
        self.next_step = next_step

    def __len__(self):
        return self.steps_per_epoch

    def __iter__(self):
        start = self.next_step
        self.next_step = (start // self.steps_per_epoch + 1) * self.steps_per_epoch
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
        for item in self._arrays():
            item.batches = [to_tensors(batch) for batch in item.batches]
            yield item

    def _arrays(self):
        if not self.num_workers:
            yield from (self.items[index] for index in self.indexes)
            return
        # Forked, so that the samples are shared and not copied; workers touch neither Paddle nor the GPU.
        context = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(self.num_workers, context, _start_worker, (self.items,))
        try:
            ahead: deque = deque()
            for index in self.indexes:
                ahead.append(pool.submit(_make_item, index))
                if len(ahead) > 2 * self.num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


_SECONDS_AFTER_TERM = 10
_items: Sequence  # in a worker: what it makes items of


def _start_worker(items: Sequence) -> None:
    global _items
    _items = items
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's business, which then ends the workers
    # So is SIGTERM, which a cluster sends to all processes of a job: the step that is to be finished needs its data.
    # Not ignored: the pool ends its workers with it after one of them has died, and waits for them.
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(_SECONDS_AFTER_TERM, os._exit, (1,)).start())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _make_item(index: int) -> StepItem:
    return _items[index]

"""Items made ahead in forked worker processes, in order: batches of a run, and what is done to ranges of records."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

Result = TypeVar("Result")


def made_ahead(items: Sequence, indexes: Iterable[int], num_workers: int) -> Iterator:
    """Yields `items[index]` for each index. An error arrives as it was raised; then, or when the caller stops, or at
    Ctrl-C, the workers end. At most 2 * num_workers + 1 items are there at a time.

    Args:
        items: must use neither Paddle nor a GPU where there are workers.
        num_workers: processes; 0 makes each item when it is asked for.
    """
    if not num_workers:
        yield from (items[index] for index in indexes)
        return
    # Forked, so that the samples are shared and not copied.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (items,))
    try:
        ahead: deque = deque()
        for index in indexes:
            ahead.append(pool.submit(_make_item, index))
            if len(ahead) > 2 * num_workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def map_ranges(
    work: Callable[[range], Result], total: int, num_workers: int, size: int = 256
) -> Iterator[tuple[range, Result]]:
    """Yields (range, work(range)) for ranges of `size` that together cover 0 to `total`, in order.

    Args:
        work: must not use Paddle. It is not pickled: workers are forked and share what it holds.
        num_workers: processes; 0 works in this one.
    Raises: what `work` raises; RuntimeError if a worker is killed, which names the records that it had.
    """
    ranges = [range(start, min(start + size, total)) for start in range(0, total, size)]
    with contextlib.closing(made_ahead(_Mapped(work, ranges), range(len(ranges)), num_workers)) as results:
        for part in ranges:
            try:
                result = next(results)
            except BrokenProcessPool as error:
                raise RuntimeError(
                    f"a worker process was killed at or after record {part.start}; it may be that memory ran out: "
                    "use fewer workers, or 0 to see the reason"
                ) from error
            yield part, result


class _Mapped(Sequence):
    """What `work` gives for each of `ranges`."""

    def __init__(self, work: Callable[[range], Result], ranges: list[range]):
        self.work = work
        self.ranges = ranges

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, index: int):
        return self.work(self.ranges[index])


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


def _make_item(index: int):
    return _items[index]

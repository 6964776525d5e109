"""Items made ahead in forked worker processes, in order: batches of a run, and what is done to ranges of records."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from typing import TypeVar

from paddle_xc2.messages import Failure

Result = TypeVar("Result")
_MOST_KILLED = 3  # times that workers are killed before the next item is there


class WorkersKilled(Failure):
    """Worker processes were killed again and again at the same place."""


def made_ahead(items: Sequence, indexes: Iterable[int], num_workers: int) -> Iterator:
    """Yields `items[index]` for each index. An error arrives as it was raised; then, or when the caller stops, or at
    Ctrl-C, the workers end. At most 2 * num_workers + 1 items are there at a time.

    Where a worker is killed, as by the system when memory runs out, others make what is missing.

    Args:
        items: must use neither Paddle nor a GPU where there are workers.
        num_workers: processes; 0 makes each item when it is asked for.
    Raises: WorkersKilled if that happens again and again.
    """
    if not num_workers:
        yield from (items[index] for index in indexes)
        return
    with contextlib.closing(_Workers(items, num_workers)) as workers:
        for index in indexes:
            workers.begin(index)
            if workers.num_begun > 2 * num_workers:
                yield workers.next()
        while workers.num_begun:
            yield workers.next()


class _Workers:
    """Worker processes, and the items that they were given, in order."""

    def __init__(self, items: Sequence, num_workers: int):
        self._items = items
        self._num_workers = num_workers
        self._begun: deque[tuple[int, Future]] = deque()
        self._start()

    @property
    def num_begun(self) -> int:
        return len(self._begun)

    def begin(self, index: int) -> None:
        self._begun.append((index, self._submit(index)))

    def next(self):
        """The item that was begun first. Raises: what making it raised; WorkersKilled."""
        for _ in range(_MOST_KILLED):
            try:
                item = self._begun[0][1].result()
            except BrokenProcessPool:
                self._ending.send_bytes(b"end")  # else the other workers would take their time
                self._start_anew()
                continue
            self._begun.popleft()
            return item
        self._ending.send_bytes(b"end")
        raise WorkersKilled(
            f"data workers were killed {_MOST_KILLED} times in a row; it may be that memory ran out: use fewer "
            "(dataloader_num_workers, --num_workers), or 0 to see the reason"
        )

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._ending.close()

    def _start(self) -> None:
        # Forked, so that the samples are shared and not copied.
        context = multiprocessing.get_context("fork")
        ended, self._ending = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(self._num_workers, context, _start_worker, (self._items, ended))

    def _start_anew(self) -> None:
        print("a data worker was killed (it may be that memory ran out); others go on", file=sys.stderr)
        self.close()
        self._start()
        self._begun = deque(
            (index, future if future.done() and not future.exception() else self._submit(index))
            for index, future in self._begun
        )

    def _submit(self, index: int) -> Future:
        try:
            return self._pool.submit(_make_item, index)
        except BrokenProcessPool as error:  # `next` will see it
            failed: Future = Future()
            failed.set_exception(error)
            return failed


def map_ranges(
    work: Callable[[range], Result], total: int, num_workers: int, size: int = 256
) -> Iterator[tuple[range, Result]]:
    """Yields (range, work(range)) for ranges of `size` that together cover 0 to `total`, in order.

    Args:
        work: must not use Paddle. It is not pickled: workers are forked and share what it holds.
        num_workers: processes; 0 works in this one.
    Raises: what `work` raises; WorkersKilled if workers are killed again and again, which names the records.
    """
    ranges = [range(start, min(start + size, total)) for start in range(0, total, size)]
    with contextlib.closing(made_ahead(_Mapped(work, ranges), range(len(ranges)), num_workers)) as results:
        for part in ranges:
            try:
                result = next(results)
            except WorkersKilled as error:
                raise WorkersKilled(f"at or after record {part.start}, {error}") from error
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


def _start_worker(items: Sequence, ended: Connection) -> None:
    global _items
    _items = items
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's business, which then ends the workers
    # So is SIGTERM, which a cluster sends to all processes of a job: the step that is to be finished needs its data.
    # Not ignored: the pool ends its workers with it after one of them has died, and waits for them.
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(_SECONDS_AFTER_TERM, os._exit, (1,)).start())
    threading.Thread(target=_end_with_parent, args=(ended,), daemon=True).start()


def _end_with_parent(ended: Connection) -> None:
    wait([multiprocessing.parent_process().sentinel, ended])
    os._exit(1)


def _make_item(index: int):
    return _items[index]

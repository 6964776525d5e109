"""Work on ranges of records, spread over forked processes; the results come in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

Result = TypeVar("Result")


def map_ranges(
    work: Callable[[range], Result], total: int, num_workers: int, size: int = 256
) -> Iterator[tuple[range, Result]]:
    """Yields (range, work(range)) for ranges of `size` that together cover 0 to `total`, in order.

    At most two results for each worker wait to be taken, so that memory stays bounded.

    Args:
        work: must not use Paddle. It is not pickled: workers are forked and share what it holds.
        num_workers: processes; 0 works in this one.
    Raises: what `work` raises; RuntimeError if a worker is killed, which names the records that it had.
    """
    ranges = (range(start, min(start + size, total)) for start in range(0, total, size))
    if not num_workers:
        yield from ((part, work(part)) for part in ranges)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (work,))
    ahead: deque = deque()
    try:
        for part in ranges:
            ahead.append((part, pool.submit(_do, part)))
            if len(ahead) > 2 * num_workers:
                yield _result(*ahead.popleft())
        while ahead:
            yield _result(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _result(part: range, future) -> tuple[range, Result]:
    try:
        return part, future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a worker process was killed at or after record {part.start}; it may be that memory ran out: "
            "use fewer workers, or 0 to see the reason"
        ) from error


_work: Callable  # in a worker: what it does


def _start_worker(work: Callable) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's business, which then ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _do(part: range):
    return _work(part)

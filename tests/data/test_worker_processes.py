"""Ranges in order, errors as they were raised, and nothing left behind."""

import multiprocessing
import os
import signal
import time

import pytest

from paddle_xc2.data.worker_processes import map_ranges
from paddle_xc2.messages import Failure


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranges_cover_all_in_order(num_workers):
    found = list(map_ranges(lambda part: (list(part), os.getpid()), 23, num_workers, size=5))
    assert [part for part, _ in found] == [range(0, 5), range(5, 10), range(10, 15), range(15, 20), range(20, 23)]
    assert all(numbers == list(part) for part, (numbers, _) in found)
    assert (os.getpid() in {process for _, (_, process) in found}) == (num_workers == 0)
    assert list(map_ranges(list, 0, num_workers)) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_arrives_and_the_workers_end(num_workers):
    def work(part):
        if part.start == 10:
            raise ValueError(f"bad {part.start}")
        return part.start

    results = map_ranges(work, 100, num_workers, size=5)
    assert [next(results)[1], next(results)[1]] == [0, 5]
    with pytest.raises(ValueError, match="^bad 10$"):
        next(results)
    assert not multiprocessing.active_children()


def test_others_go_on_after_a_killed_worker(tmp_path, capsys):
    """Every result is there once, in order; a worker is killed at four places, once at each."""

    def work(part):
        mark = tmp_path / str(part.start)
        if part.start % 15 == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return part.start

    started = time.monotonic()
    assert [number for _, number in map_ranges(work, 60, 2, size=5)] == list(range(0, 60, 5))
    assert time.monotonic() - started < 10  # nobody waits for those that are to end
    told = capsys.readouterr().err.splitlines()
    assert 1 <= len(told) <= 4 and told[0].startswith("a data worker was killed (it may be that memory ran out);")
    assert not multiprocessing.active_children()


def test_workers_that_are_killed_again_and_again_are_told(tmp_path):
    def work(part):
        if part.start == 10:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(Failure) as caught:
        list(map_ranges(work, 20, 2, size=5))
    assert str(caught.value) == (
        "at or after record 10, data workers were killed 3 times in a row; it may be that memory ran out: use fewer "
        "(dataloader_num_workers, --num_workers), or 0 to see the reason"
    )
    assert not multiprocessing.active_children()


def test_stopping_early_ends_the_workers():
    results = map_ranges(len, 100, 2, size=5)
    next(results)
    results.close()
    assert not multiprocessing.active_children()

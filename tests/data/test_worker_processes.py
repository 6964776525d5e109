"""Ranges in order, errors as they were raised, and nothing left behind."""

import multiprocessing
import os
import signal

import pytest

from paddle_xc2.data.worker_processes import map_ranges


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


def test_a_killed_worker_is_told(tmp_path):
    def work(part):
        if part.start == 10:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        RuntimeError, match=r"killed at or after record (0|5|10); it may be that memory ran out: use fewer"
    ):
        list(map_ranges(work, 20, 2, size=5))


def test_stopping_early_ends_the_workers():
    results = map_ranges(len, 100, 2, size=5)
    next(results)
    results.close()
    assert not multiprocessing.active_children()

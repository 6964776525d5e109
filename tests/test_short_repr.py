"""Values in messages, whatever they are."""

import time
from collections import OrderedDict
from typing import NamedTuple

from paddle_xc2.short_repr import short_repr


class Pair(NamedTuple):
    one: object
    other: object


def test_small_values_are_shown_as_they_are():
    for value in ("a", "a 'b'", b"a", 1, 1.5, True, None, [1, None], {"a": (1,)}, ()):
        assert short_repr(value) == repr(value)


def test_what_is_long_deep_or_shared_is_short_and_takes_no_time():
    shared = ("x",)
    for _ in range(60):
        shared = (shared, shared)
    started = time.perf_counter()
    values = ["x" * 10**6, b"x" * 10**6, "a \n b", [[[[[[1] * 99] * 99] * 99]]], {str(i): i for i in range(10**5)}]
    values += [shared, Pair(shared, shared), OrderedDict(a=shared), 10**4000, 10**10_000, float("nan"), object()]
    for value in values:
        assert len(short_repr(value)) <= 203 and "\n" not in short_repr(value)
    assert time.perf_counter() - started < 1

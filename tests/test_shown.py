"""Values in messages."""

import time

from paddle_xc2.shown import shown


def test_small_values_are_shown_as_they_are():
    assert [shown(value) for value in ("a", 1.5, None, [1, 2], {"a": (1,)})] == [
        "'a'",
        "1.5",
        "None",
        "[1, 2]",
        "{'a': (1,)}",
    ]


def test_what_is_long_deep_or_shared_is_short_and_takes_no_time():
    shared = ("x",)
    for _ in range(60):
        shared = (shared, shared)
    started = time.perf_counter()
    for value in (
        "x" * 10**6,
        [[[[[[1] * 99] * 99] * 99]]],
        shared,
        10**4000,
        {str(i): i for i in range(10**5)},
        "a\nb",
    ):
        assert len(shown(value)) <= 203 and "\n" not in shown(value)
    assert time.perf_counter() - started < 1

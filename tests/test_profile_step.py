import sys

import paddle
import pytest
from paddle import nn


@pytest.fixture
def profile_step(monkeypatch):
    monkeypatch.syspath_prepend("tests/benchmarks")
    import profile_step

    yield profile_step
    for name in ("profile_step", "speed"):
        del sys.modules[name]


class Halves(nn.Layer):
    def forward(self, x):
        return paddle.exp(x).sum() * 0.5


def test_a_profile_names_the_operators_of_every_part_and_what_they_allocate(profile_step):
    layer, x = Halves(), paddle.ones([1000])
    x.stop_gradient = False
    calls = profile_step.Recorder().record(lambda: layer(x).backward(), times=2)
    operators = [(call.part, call.name) for call in calls if call.name != "(between)"]
    assert operators[:3] == [("Halves", "exp"), ("Halves", "sum"), ("Halves", "scale")]
    assert ("backward", "ExpGradNode") in operators
    assert next(call for call in calls if call.name == "exp").new_bytes == 4000


def test_of_every_call_the_fastest_counts(profile_step):
    runs = [[profile_step.Call("part", "exp", seconds, 8)] for seconds in (3.0, 1.0, 2.0)]
    assert [call.seconds for call in profile_step.fastest(runs)] == [1.0]

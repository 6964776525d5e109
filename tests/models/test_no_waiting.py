"""A pass forward and back asks the device for nothing: no value, no count, no place of a tensor comes to the host.

On a GPU each of these would wait for everything that was given to it before.
"""

import numpy as np
import paddle
import pytest

from paddle_xc2.families import FAMILIES
from paddle_xc2.generation.generate import generate
from paddle_xc2.models import attention as attention_module
from tests.models.test_frozen_gradients import batches, make

# Whatever of a tensor reads it, and what copies from or to the host.
METHODS = (
    *("numpy", "item", "tolist", "cpu", "__array__", "__bool__", "__int__", "__float__", "__index__"),
    *("nonzero", "masked_select", "unique"),
)
FUNCTIONS = ("nonzero", "masked_select", "unique", "to_tensor")


class Waited(AssertionError):
    pass


@pytest.fixture
def no_waiting(monkeypatch):
    """Call it, and from then on whatever waits for a device raises Waited."""

    def forbid(owner, name):
        def forbidden(*args, **kwargs):
            raise Waited(name)

        monkeypatch.setattr(owner, name, forbidden)

    def begin():
        for name in METHODS:
            forbid(paddle.Tensor, name)
        for name in FUNCTIONS:
            forbid(paddle, name)
        get = paddle.Tensor.__getitem__

        def get_item(tensor, index):
            for one in index if isinstance(index, tuple) else (index,):
                if isinstance(one, (paddle.Tensor, np.ndarray, list)):
                    raise Waited("indexed by an array")
            return get(tensor, index)

        monkeypatch.setattr(paddle.Tensor, "__getitem__", get_item)
        copy = paddle.Tensor.copy_

        def copy_(tensor, other, blocking):
            if blocking:
                raise Waited("a copy that blocks")
            return copy(tensor, other, blocking)

        monkeypatch.setattr(paddle.Tensor, "copy_", copy_)

    return begin


def test_the_watch_sees(no_waiting):
    x, mask = paddle.ones([2]), paddle.to_tensor([True, False])
    no_waiting()
    for wait in (x.numpy, x.sum().item, lambda: bool(x.any()), lambda: int(x[0]), lambda: np.asarray(x)):
        with pytest.raises(Waited):
            wait()
    for wait in (lambda: x[mask], lambda: paddle.nonzero(x), lambda: paddle.to_tensor([1]), lambda: float(x[1])):
        with pytest.raises(Waited):
            wait()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["whole", "lora beside whole projector", "dora", "nf4 lora"])
@pytest.mark.parametrize("family", [FAMILIES[2], FAMILIES[-1]], ids=lambda family: family.name)
def test_training(no_waiting, monkeypatch, family, kind, recompute):
    monkeypatch.setattr(attention_module, "CHUNK_ELEMENTS", 2**12)  # several chunks of queries, as at real lengths
    model = make(family, kind)
    model.train()
    if recompute:
        model.recompute_enable()
    layouts = batches(model)
    model(**layouts[0]).loss.backward()  # tables are made once
    no_waiting()
    for batch in layouts:
        model(**batch, loss_denominator=7.0).loss.backward()


def test_evaluation(no_waiting):
    model = make(FAMILIES[0], "whole")
    layouts = batches(model)
    with paddle.no_grad():
        model(**layouts[0])
        no_waiting()
        for batch in layouts:
            model(**batch)


def test_a_batch_that_was_written_to_is_looked_at_again():
    """Its layout holds no longer: what is computed is what its tensors say."""
    model = make(FAMILIES[0], "whole")
    batch = batches(model)[0]
    before = model(**batch).num_trained_tokens
    batch["labels"][:, :-1] = -100
    without = {key: value for key, value in batch.items() if key != "layout"}
    with paddle.no_grad():
        assert model(**batch).num_trained_tokens < before
        assert float(model(**batch).loss) == float(model(**without).loss)


def test_a_batch_can_be_passed_whole_to_generate():
    model = make(FAMILIES[0], "whole")
    batch = batches(model)[0]
    del batch["labels"]
    want = generate(model, **{key: value for key, value in batch.items() if key != "layout"}, max_new_tokens=3)
    assert generate(model, **batch, max_new_tokens=3)[0].tolist() == want[0].tolist()

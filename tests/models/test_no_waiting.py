"""A pass forward and back asks the device for nothing: no value, no count, no place of a tensor comes to the host.

On a GPU each of these would wait for everything that was given to it before.
"""

import numpy as np
import paddle
import pytest

from paddle_xc2.families.table import FAMILIES
from paddle_xc2.generation.generate import generate
from paddle_xc2.models import attention as attention_module
from tests.models.test_frozen_gradients import batches, make
from tests.no_waiting import Waited, no_waiting


def test_the_watch_sees():
    x, mask = paddle.ones([2]), paddle.to_tensor([True, False])
    waits = (
        *(lambda: x.numpy(), lambda: x.sum().item(), lambda: bool(x.any()), lambda: int(x[0]), lambda: np.asarray(x)),
        *(lambda: x[mask], lambda: paddle.nonzero(x), lambda: paddle.to_tensor([1]), lambda: float(x[1])),
        lambda: x.copy_(x, True),
    )
    for wait in waits:
        with pytest.raises(Waited), no_waiting():
            wait()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["whole", "lora beside whole projector", "dora", "nf4 lora"])
@pytest.mark.parametrize("family", [FAMILIES[2], FAMILIES[-1]], ids=lambda family: family.name)
def test_training(monkeypatch, family, kind, recompute):
    monkeypatch.setattr(attention_module, "CHUNK_ELEMENTS", 2**12)  # several chunks of queries, as at real lengths
    model = make(family, kind)
    model.train()
    if recompute:
        model.recompute_enable()
    layouts = batches(model)
    model(**layouts[0]).loss.backward()  # tables are made once
    with no_waiting():
        for batch in layouts:
            model(**batch, loss_denominator=7.0).loss.backward()


def test_evaluation():
    model = make(FAMILIES[0], "whole")
    layouts = batches(model)
    with paddle.no_grad():
        model(**layouts[0])
        with no_waiting():
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

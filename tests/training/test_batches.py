import multiprocessing
import time

import numpy as np
import paddle
import pytest

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.json_formats import load_conversations
from paddle_xc2.data.mixture import StepOrder
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.training.batches import EpochSteps, EvaluationBatches, ItemLoader, StepItem, TrainingSteps
from paddle_xc2.training.samples import fit_samples


@pytest.fixture(scope="module")
def processor(workspace):
    return XComposer2Processor.from_pretrained(workspace / "model")


@pytest.fixture(scope="module")
def conversations(workspace):
    return load_conversations(workspace / "train.json")


def test_step_in_batches(processor, conversations):
    order = StepOrder(13, 4, seed=0)
    steps = TrainingSteps(conversations, processor, order, batch_size=2)
    item = steps[1]
    assert [batch["input_ids"].shape[0] for batch in item.batches] == [2, 2] and item.weight == 1.0
    examples = [processor.encode_conversation(conversations[index]) for index in order.samples_of(1)]
    assert item.num_trained_tokens == sum(example.num_trained_tokens for example in examples)
    assert (
        item.num_tokens == sum(map(len, examples)) == sum((batch["attention_mask"] > 0).sum() for batch in item.batches)
    )
    assert item.num_image_tokens == sum(batch["image_mask"].sum() for batch in item.batches)
    assert len(steps) == 13 and len(steps[3].batches) == 1  # what is left of the epoch


def test_process_without_a_sample_computes_one_that_does_not_count(processor, conversations):
    order = StepOrder(13, 4, seed=0)
    item = TrainingSteps(conversations, processor, order, 2, rank=1, num_ranks=2)[3]
    assert (item.weight, item.num_trained_tokens, len(item.batches)) == (0.0, 0, 1)


def test_evaluation_holds_every_sample_once(processor, conversations):
    batches = EvaluationBatches(conversations, processor, 3)
    items = [batches[index] for index in range(len(batches))]
    assert len(batches) == 5 and sum(len(item.batches[0]["input_ids"]) for item in items) == 13
    samples = fit_samples(conversations, processor)
    assert sum(item.num_trained_tokens for item in items) == samples.lengths[:, 2].sum()


def test_epochs_begin_where_the_run_does():
    epochs = EpochSteps(4, next_step=6)
    assert len(epochs) == 4
    assert [list(epochs) for _ in range(3)] == [[6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert list(EpochSteps(4, next_step=8)) == [8, 9, 10, 11]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_workers_make_the_same_items_in_the_same_order(processor, conversations, num_workers):
    steps = TrainingSteps(conversations, processor, StepOrder(13, 4, seed=0), 2)
    items = list(ItemLoader(steps, range(4), num_workers))
    for step, item in enumerate(items):
        for batch, expected in zip(item.batches, steps[step].batches, strict=True):
            assert isinstance(batch["input_ids"], paddle.Tensor) and batch["image_mask"].dtype == paddle.bool
            for key in ("input_ids", "labels", "image_mask", "attention_mask", "position_ids"):
                np.testing.assert_array_equal(batch[key].numpy(), expected[key])
            for pixels, wanted in zip(batch["pixel_values"], expected["pixel_values"], strict=True):
                np.testing.assert_array_equal(pixels.numpy(), wanted)
    assert len(items) == 4 and not multiprocessing.active_children()


class Broken:
    """Items of which the third fails."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, index):
        if index == 2:
            raise self.error
        return StepItem([], index, 0, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("error", [DataError("train.json[7]: image a.png is damaged"), RuntimeError("unforeseen")])
def test_error_of_an_item_arrives_as_it_was_raised(num_workers, error):
    seen = []
    with pytest.raises(type(error)) as caught:
        for item in ItemLoader(Broken(error), range(9), num_workers):
            seen.append(item.num_trained_tokens)
    assert str(caught.value) == str(error) and seen == [0, 1]
    assert not multiprocessing.active_children()


def test_workers_end_when_the_consumer_stops_early():
    items = iter(ItemLoader(Broken(ValueError("never reached")), iter([0, 1] * 50), 2))
    next(items)
    items.close()
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children()

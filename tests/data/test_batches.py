import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_xc2.data.batches import EpochSteps, EvaluationBatches, ItemLoader, StepItem, TrainingSteps
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.mixture import Mixture
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.data.records.conversations import load_conversations
from paddle_xc2.data.samples import fit_samples
from paddle_xc2.data.step_order import Layout, StepOrder
from paddle_xc2.families.special_tokens import IGNORE_INDEX


@pytest.fixture(scope="module")
def processor(workspace):
    return XComposer2Processor.from_pretrained(workspace / "model")


@pytest.fixture(scope="module")
def conversations(workspace):
    return load_conversations(workspace / "train.json")


@pytest.fixture(scope="module")
def samples(conversations, processor):
    return fit_samples(conversations, processor)


def order_of(samples, rows_per_step=4, **layout):
    mixture = Mixture(samples.dataset_of, [len(samples)], seed=0)
    return StepOrder(mixture, samples.lengths[:, 0], samples.has_image, Layout(rows_per_step, **layout), seed=0)


def test_step_in_batches(processor, conversations, samples):
    order = order_of(samples)
    steps = TrainingSteps(samples, processor, order, batch_size=2)
    item = steps[1]
    assert [batch["input_ids"].shape[0] for batch in item.batches] == [2, 2] and item.weight == 1.0
    examples = [processor.encode_conversation(conversations[index]) for (index,) in order.rows_of(1)]
    assert item.num_trained_tokens == sum(example.num_trained_tokens for example in examples)
    assert (
        item.num_tokens == sum(map(len, examples)) == sum((batch["attention_mask"] > 0).sum() for batch in item.batches)
    )
    assert item.num_image_tokens == sum(batch["image_mask"].sum() for batch in item.batches)
    assert len(steps) == 13 and len(steps[3].batches) == 1  # what is left of the epoch


def test_packed_step(processor, conversations, samples):
    """Rows, and which data set each trained token belongs to."""
    mixed = replace(samples, dataset_of=np.arange(13) % 3)
    order = order_of(mixed, 2, row_tokens=150)
    steps = TrainingSteps(mixed, processor, order, batch_size=1)
    item, rows = steps[0], order.rows_of(0)
    assert len(item.batches) == 2 and max(map(len, rows)) > 1
    for batch, row, sources, datasets in zip(item.batches, rows, item.sources, item.token_datasets, strict=True):
        expected = processor.collate_arrays([processor.encode_conversation(conversations[i]) for i in row], packed=True)
        for key in ("input_ids", "labels", "image_mask", "attention_mask", "position_ids"):
            np.testing.assert_array_equal(batch[key], expected[key])
        assert len(batch["pixel_values"]) == len(expected["pixel_values"])
        assert sources == [conversations[index].source for index in row]
        trained = batch["labels"][:, 1:] != IGNORE_INDEX
        sample_of_token = batch["attention_mask"][:, 1:][trained] - 1
        np.testing.assert_array_equal(datasets, mixed.dataset_of[np.array(row)[sample_of_token]])
    assert item.num_trained_tokens == sum(map(len, item.token_datasets))


def test_process_without_a_sample_computes_one_that_does_not_count(processor, samples):
    item = TrainingSteps(samples, processor, order_of(samples), 2, rank=1, num_ranks=2)[3]
    assert (item.weight, item.num_trained_tokens, len(item.batches)) == (0.0, 0, 1)


def test_evaluation_holds_every_sample_once(processor, samples):
    batches = EvaluationBatches(samples, processor, 3)
    items = [batches[index] for index in range(len(batches))]
    assert len(batches) == 5 and sum(len(item.batches[0]["input_ids"]) for item in items) == 13
    assert sum(item.num_trained_tokens for item in items) == samples.lengths[:, 2].sum()


def test_epochs_begin_where_the_run_does(samples):
    order = order_of(samples)
    epochs = EpochSteps(order, next_step=6)
    assert len(epochs) == 4
    assert [list(epochs) for _ in range(3)] == [[6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert list(EpochSteps(order, next_step=8)) == [8, 9, 10, 11]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_workers_make_the_same_items_in_the_same_order(processor, samples, num_workers):
    steps = TrainingSteps(samples, processor, order_of(samples), 2)
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


class Pictures:
    """Items of 4 MB that count how many of them wait to be asked for."""

    def __init__(self, made):
        self.made = made

    def __getitem__(self, index):
        with self.made.get_lock():
            self.made.value += 1
        return StepItem([{"pixel_values": [np.full([2**20], index, np.float32)]}], index, 0, 0)


def test_memory_does_not_grow_over_epochs():
    """Nor does the queue of items made ahead: at most 2 a worker, and one."""
    made = multiprocessing.get_context("fork").Value("i", 0)
    sizes = []
    for _ in range(4):
        before = made.value
        for taken, item in enumerate(ItemLoader(Pictures(made), range(20), 2), start=1):
            assert item.num_trained_tokens == taken - 1
            assert made.value - before - taken <= 2 * 2 + 1
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert sizes[-1] - sizes[0] < 16e6

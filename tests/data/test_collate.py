"""The batch: keys, shapes, dtypes, and where every token of every sample lands."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_xc2.data.collate import collate_arrays, to_tensors
from paddle_xc2.data.encode import Example
from paddle_xc2.families.special_tokens import IGNORE_INDEX

PAD = 2


def example(length, images=0, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 99, length)
    labels = np.where(rng.random(length) < 0.5, IGNORE_INDEX, ids)
    pixels = [rng.random([3, 2, 2], np.float32) for _ in range(images)]
    return Example(ids, labels, rng.random(length) < 0.3, pixels)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from(["left", "right"]), st.booleans())
def test_every_token_lands_once(lengths, padding_side, packed):
    examples = [example(length, seed=index) for index, length in enumerate(lengths)]
    batch = collate_arrays(examples, PAD, packed=packed, padding_side=padding_side)
    width = sum(lengths) if packed else max(lengths)
    shape = (1 if packed else len(lengths), width)
    for index, sample in enumerate(examples):
        row, number = (0, index + 1) if packed else (index, 1)
        start = sum(lengths[:index]) if packed else (width - len(sample) if padding_side == "left" else 0)
        place = (row, slice(start, start + len(sample)))
        for key in ("input_ids", "image_mask"):
            np.testing.assert_array_equal(batch[key][place], getattr(sample, key))
        np.testing.assert_array_equal(batch["labels"][place], [IGNORE_INDEX, *sample.labels[1:]])
        assert (batch["attention_mask"][place] == number).all()
        np.testing.assert_array_equal(batch["position_ids"][place], np.arange(len(sample)))
    for key, value in batch.items():
        if key != "pixel_values":
            assert value.shape == shape and value.dtype == (bool if key == "image_mask" else np.int64)
    padding = batch["attention_mask"] == 0
    assert padding.sum() == shape[0] * width - sum(lengths)
    assert (batch["input_ids"][padding] == PAD).all() and (batch["labels"][padding] == IGNORE_INDEX).all()
    assert not batch["image_mask"][padding].any() and not batch["position_ids"][padding].any()


@pytest.mark.parametrize("packed", [True, False])
def test_pictures_stay_in_reading_order(packed):
    examples = [example(3, images=2, seed=1), example(4, seed=2), example(2, images=1, seed=3)]
    batch = collate_arrays(examples, PAD, packed=packed)
    want = [*examples[0].pixel_values, *examples[2].pixel_values]
    assert len(batch["pixel_values"]) == 3
    assert all(got is pixels for got, pixels in zip(batch["pixel_values"], want, strict=True))


def test_tensors_are_what_the_model_takes():
    examples = [example(3, images=1), example(5)]
    batch = to_tensors(collate_arrays(examples, PAD))
    keys = ["input_ids", "labels", "image_mask", "attention_mask", "position_ids", "pixel_values", "layout"]
    assert list(batch) == keys
    assert {key: batch[key].dtype for key in keys[:-2]} == {
        "input_ids": paddle.int64,
        "labels": paddle.int64,
        "image_mask": paddle.bool,
        "attention_mask": paddle.int64,
        "position_ids": paddle.int64,
    }
    assert [pixels.dtype for pixels in batch["pixel_values"]] == [paddle.float32]
    np.testing.assert_array_equal(batch["pixel_values"][0].numpy(), examples[0].pixel_values[0])


def test_without_pictures_the_list_is_empty():
    assert to_tensors(collate_arrays([example(3)], PAD))["pixel_values"] == []


def test_the_layout_is_of_these_tensors():
    batch = to_tensors(collate_arrays([example(3, images=1), example(5)], PAD))
    layout = batch["layout"]
    assert layout.still_describes(batch["labels"], batch["image_mask"], batch["attention_mask"])
    slots, predicting = layout.image_places, layout.predicting
    assert paddle.gather(batch["image_mask"].flatten(), slots).all() and len(slots) == batch["image_mask"].sum()
    trained = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
    assert len(predicting) == trained
    assert (paddle.gather(batch["labels"].flatten(), predicting + 1) != IGNORE_INDEX).all()


def test_a_gpu_copies_from_locked_memory_without_waiting(monkeypatch):
    """Arranged on a CPU: the source is page-locked, the copy doesn't block, and the layout keeps what it reads."""
    copies, place = [], object()

    class Locked:
        def __init__(self, array):
            self.array = array

        def cuda(self, blocking):
            copies.append(blocking)
            return to_tensor(self.array)

    to_tensor = paddle.to_tensor

    def as_on_a_gpu(array, place=None):
        assert place is locked_place
        return Locked(array)

    locked_place = place
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle, "CUDAPinnedPlace", lambda: locked_place)
    monkeypatch.setattr(paddle, "to_tensor", as_on_a_gpu)
    batch = to_tensors(collate_arrays([example(3, images=2), example(5)], PAD))
    assert copies == [False] * 9  # five tensors, two pictures, two lists of places
    assert [type(source) for source in batch["layout"].sources] == [Locked] * 9

"""What is known of a batch beforehand, and when it holds no longer."""

import numpy as np
import paddle

from paddle_xc2.batch_layout import BatchLayout, first_columns


def test_places_of_the_flattened_batch():
    labels = np.array([[7, -100, 5, 6], [-100, -100, -100, 4]])
    mask = np.array([[False, True, False, False], [True, False, False, True]])
    layout = BatchLayout.of(labels, mask)
    assert layout.predicting.tolist() == [1, 2, 6]  # the first token of a row is predicted from nothing
    assert layout.image_places.tolist() == [1, 4, 7]
    assert labels[0, 0] == 7  # not written to


def test_tensors_are_looked_at_alike():
    labels, mask = paddle.to_tensor([[-100, 3, 4]]), paddle.to_tensor([[True, False, False]])
    layout = BatchLayout.of(labels, mask, paddle.to_tensor([[1, 1, 0]]))
    assert (layout.predicting.tolist(), layout.image_places.tolist()) == ([0, 1], [0])
    assert layout.first_columns.tolist() == [0, 0, 2]


def test_nothing_is_known_of_nothing():
    layout = BatchLayout.of()
    assert len(layout.predicting) == len(layout.image_places) == 0 and layout.first_columns is None


def test_rows_of_one_sample_without_padding_need_no_segments():
    assert BatchLayout.of(None, None, np.ones([2, 3], np.int64)).first_columns is None
    assert BatchLayout.of(None, None, np.array([[1, 1, 2]])).first_columns is not None


def test_first_columns():
    assert first_columns(np.array([[1, 1, 2, 2, 3], [0, 1, 1, 1, 1]])).tolist() == [0, 0, 1, 1, 1]
    assert first_columns(np.array([[1, 1, 2, 2, 3]])).tolist() == [0, 0, 2, 2, 4]


def test_it_describes_its_tensors_until_they_are_written_to():
    labels, mask, attention_mask = (paddle.ones([1, 3], "int64") for _ in range(3))
    layout = BatchLayout.of(labels, mask, attention_mask)
    assert not layout.still_describes(labels, mask, attention_mask)  # of unknown tensors it says nothing
    layout = layout.describing(labels, mask, attention_mask)
    assert layout.still_describes(labels, mask, attention_mask)
    assert not layout.still_describes(labels.clone(), mask, attention_mask)
    assert not layout.still_describes(labels, None, attention_mask)
    labels[0, 1] = -100
    assert not layout.still_describes(labels, mask, attention_mask)

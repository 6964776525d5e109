from dataclasses import replace

import numpy as np
import pytest

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.json_formats import load_conversations
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.training.samples import fit_samples


@pytest.fixture(scope="module")
def conversations(workspace):
    return load_conversations(workspace / "train.json")


def processor(workspace, **settings):
    return XComposer2Processor.from_pretrained(workspace / "model", **settings)


def test_lengths(workspace, conversations):
    samples = fit_samples(conversations, processor(workspace))
    assert len(samples) == 13 and samples.refused == [] and samples.num_shortened == 0
    examples = [processor(workspace).encode_conversation(conversation) for conversation in conversations]
    expected = [(len(example), example.image_mask.sum(), example.num_trained_tokens) for example in examples]
    np.testing.assert_array_equal(samples.lengths, expected)


def test_too_long_ones_are_refused_and_told(workspace, conversations):
    lengths = fit_samples(conversations, processor(workspace)).lengths[:, 0]
    limit = int(np.median(lengths))
    short = processor(workspace, max_length=limit)
    with pytest.raises(DataError, match="6 of 13 samples are too long; truncation leave_out goes on") as caught:
        fit_samples(conversations, short)
    assert f"more than max_length {limit}" in str(caught.value) and "train.json[" in str(caught.value)
    samples = fit_samples(conversations, short, leave_out=True)
    assert len(samples) == (lengths <= limit).sum() and len(samples.refused) == (lengths > limit).sum()
    assert f"more than max_length {limit}" in samples.refused[0] and "train.json[" in samples.refused[0]


def test_no_sample_left(workspace, conversations):
    with pytest.raises(ValueError, match=r"no sample is left.*all 13 are too long; .*train.json\[0\]: the sample has"):
        fit_samples(conversations, processor(workspace, max_length=5))
    with pytest.raises(ValueError, match="no sample is left"):
        fit_samples([], processor(workspace))


def test_images_that_are_none_are_told_together(workspace, conversations, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    broken = [replace(sample, images=tuple(tmp_path / "text.png" for _ in sample.images)) for sample in conversations]
    with pytest.raises(DataError) as caught:
        fit_samples(broken, processor(workspace))
    lines = str(caught.value).splitlines()
    assert lines[0] == "8 of 13 records can't be used:" and len(lines) == 9
    assert "train.json[1]" in lines[1] and "text.png" in lines[1]
    with pytest.raises(DataError, match="and 4 more$"):
        fit_samples(broken * 3, processor(workspace))


def test_fingerprint(workspace, conversations):
    one = processor(workspace)
    fingerprint = fit_samples(conversations, one).fingerprint
    assert fingerprint == fit_samples(load_conversations(workspace / "train.json"), one).fingerprint
    assert fingerprint != fit_samples(conversations[::-1], one).fingerprint
    assert fingerprint != fit_samples(conversations[1:], one).fingerprint
    assert fingerprint != fit_samples(conversations, processor(workspace, image_size=56)).fingerprint

import json
import multiprocessing
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.data import samples as samples_module
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images.picture_reading import POSSIBLE_LOSSES, TRANSPARENT, TURNED
from paddle_xc2.data.mixture import DatasetSpec, load_datasets
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.data.records.conversations import load_conversations
from paddle_xc2.data.samples import fit_samples


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
    assert lines[:2] == ["8 of 13 records can't be used:", "  image damaged: 8"]
    assert "train.json[1]" in lines[2] and "text.png" in lines[2]
    assert lines[5:] == ["      and 5 more", '  "bad_records": "leave_out" trains without them']


def test_bad_records_may_be_left_out(workspace, conversations, tmp_path):
    (tmp_path / "cut.png").write_bytes(conversations[1].images[0].read_bytes()[:-30])  # its header is sound
    broken = [replace(conversations[1], images=(tmp_path / "cut.png",)), *conversations[2:]]
    assert len(fit_samples(broken, processor(workspace))) == 12
    samples = fit_samples(broken, processor(workspace), leave_bad_out=True)
    assert len(samples) == 11
    assert {rule: finding.count for rule, finding in samples.bad.items()} == {"image damaged": 1}
    with pytest.raises(
        DataError, match="1 of 1 records can't be used:\n  image damaged: 1\n.*cut.png: the image can't"
    ):
        fit_samples(broken[:1], processor(workspace), leave_bad_out=True)


def test_where_missing_images_lie(workspace, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "a.png")
    turns = [{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}]
    records = [{"image": name, "conversations": turns} for name in ("a.png", "none.png")]
    (tmp_path / "data.json").write_text(json.dumps(records))
    with pytest.raises(DataError, match=f"1 of the 2 looked for are in {tmp_path}/photos: set image_folder to it"):
        fit_samples(load_datasets([DatasetSpec("data", (tmp_path / "data.json",))]), processor(workspace))


def test_fingerprint(workspace, conversations):
    one = processor(workspace)
    fingerprint = fit_samples(conversations, one).fingerprint
    assert fingerprint == fit_samples(load_conversations(workspace / "train.json"), one).fingerprint
    assert fingerprint != fit_samples(conversations[::-1], one).fingerprint
    assert fingerprint != fit_samples(conversations[1:], one).fingerprint
    assert fingerprint != fit_samples(conversations, processor(workspace, image_size=56)).fingerprint


def test_sample_of_which_nothing_would_be_trained(workspace, conversations, monkeypatch):
    monkeypatch.setattr("paddle_xc2.data.encode.Example.num_trained_tokens", 0)
    with pytest.raises(DataError, match=r"train.json\[0\]: no token of it would be trained; write an answer"):
        fit_samples(conversations, processor(workspace))


def test_pictures_that_are_read_otherwise_are_counted(workspace, conversations, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (30, 20)).save(tmp_path / "a.png", exif=exif)
    samples = [replace(one, images=(tmp_path / "a.png",)) for one in conversations if len(one.images) == 1]
    notes = {note.kind: note.count for note in fit_samples(samples, processor(workspace)).notes}
    assert notes == {POSSIBLE_LOSSES[TRANSPARENT]: len(samples), POSSIBLE_LOSSES[TURNED]: len(samples)}
    assert not fit_samples(samples, processor(workspace, exif=True, background="white")).notes


def test_many_samples_are_measured_by_workers(workspace, conversations, monkeypatch):
    """With the same result, and conversations are read again when they are asked for."""
    expected = fit_samples(conversations, processor(workspace))
    monkeypatch.setattr(samples_module, "_MANY", 2)
    monkeypatch.setattr(samples_module, "_CHUNK", 3)
    monkeypatch.setattr(samples_module, "usable_cpus", lambda: 2)
    measured = fit_samples(conversations, processor(workspace), silent=False)
    np.testing.assert_array_equal(measured.lengths, expected.lengths)
    assert measured.fingerprint == expected.fingerprint and measured.conversations[5] == conversations[5]
    with pytest.raises(DataError, match="13 of 13 samples|6 of 13 samples"):
        fit_samples(conversations, processor(workspace, max_length=int(np.median(expected.lengths[:, 0]))))
    assert not multiprocessing.active_children()


def test_data_sets_keep_their_samples(workspace):
    specs = [DatasetSpec(name, (workspace / f"{name}.json",)) for name in ("eval", "train")]
    records = load_datasets(specs)
    lengths = fit_samples(records, processor(workspace)).lengths[:, 0]
    limit = int(np.median(lengths))
    samples = fit_samples(records, processor(workspace, max_length=limit), leave_out=True)
    names = [samples.datasets[number].spec.name for number in samples.dataset_of]
    assert all(f"/{name}.json[" in one.source for name, one in zip(names, samples.conversations, strict=True))
    assert samples.usable_records.tolist() == [(lengths[:5] <= limit).sum(), (lengths[5:] <= limit).sum()]
    assert samples.max_length == limit and samples.has_image.tolist() == [
        bool(one.images) for one in samples.conversations
    ]


def test_oddities_and_unusable_records_are_counted(workspace, tmp_path):
    """Records are checked where they are measured: a file is gone through once."""
    turns = [{"from": "gpt", "value": "Hello."}, {"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps({"conversations": turns}) + "\n" for _ in range(3)))
    records = load_datasets([DatasetSpec("odd", (tmp_path / "odd.jsonl",))])
    samples = fit_samples(records, processor(workspace))
    (note,) = samples.notes
    assert note.count == 3 and note.example.endswith("odd.jsonl[0]")
    (tmp_path / "bad.jsonl").write_text('{"conversations": []}\n' + json.dumps({"conversations": turns}) + "\n{}\n")
    records = load_datasets([DatasetSpec("bad", (tmp_path / "bad.jsonl",))])
    with pytest.raises(DataError, match=r"^2 of 3 records can't be used:\n  schema: 2\n .*l\[0\].*\n .*bad.jsonl\[2\]"):
        fit_samples(records, processor(workspace))


def test_what_is_in_the_pictures_counts(workspace, tmp_path):
    """Pictures that were replaced under the same names, of the same size; a copy is the same."""
    for path in workspace.glob("*.*"):
        shutil.copyfile(path, tmp_path / path.name)
    before = fit_samples(load_conversations(workspace / "train.json"), processor(workspace))
    copied = fit_samples(load_conversations(tmp_path / "train.json"), processor(workspace))
    assert (copied.fingerprint, copied.contents) == (before.fingerprint, before.contents)
    (tmp_path / "1_0.png").write_bytes((tmp_path / "2_0.png").read_bytes())
    replaced = fit_samples(load_conversations(tmp_path / "train.json"), processor(workspace))
    assert replaced.fingerprint == before.fingerprint and replaced.contents != before.contents

"""One judge: training and check-data say the same of every kind of bad record."""

import json

import pytest
from PIL import Image

from paddle_xc2.data.checking.check import check_data, open_sources
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.findings import finding_lines
from paddle_xc2.data.judge import Judge
from paddle_xc2.data.mixture import DatasetSpec, load_datasets
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.data.samples import fit_samples
from paddle_xc2.families.table import family_named
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import tiny_tokenizer


def turns(*texts, **others):
    messages = [{"from": ("user", "assistant")[index % 2], "value": text} for index, text in enumerate(texts)]
    return {"conversations": messages, **others}


LONG = "What is in the picture? " * 400
# Of every rule a record that breaks it, and some that break several.
BAD = [
    [],
    {"conversation": []},
    turns("Q", 3),
    turns("Q"),
    turns("Q", "A", "Q", " "),
    turns("[UNUSED_TOKEN_145]", "A"),
    turns("<ImageHere>?", "A"),
    turns("Q", "A", imgae="red.png"),
    turns("Q", "A", label=False),
    turns("Q", "A", image="none.png"),
    turns("Q", "A", image="photo.png"),
    turns("Q", "A", image="cut.png"),
    turns("Q", "A", image="text.png"),
    turns("Q", "A", image="a.heic"),
    turns("Q", "A", image="empty.mp4"),
    turns("<ImageHere><ImageHere>", "", image=["cut.png", "none.png"]),
    turns(LONG, "A", image="cut.png"),
]
ODD = [
    turns("Q", "A"),
    {"conversations": [{"from": "gpt", "value": "Hello."}, *turns("Q", "A")["conversations"]]},
    turns("Picture 5 <ImageHere>", "<box>(1,2)</box>", image="red.png", mood="good"),
    turns(LONG, "A"),
]
NOT_JSON = "{'conversations': [{'from': 'user', 'value': 'Q'}, {'from': 'assistant', 'value': 'A'}]}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "red.png").read_bytes()[:-30])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "photo.png").write_bytes((tmp_path / "red.png").read_bytes())
    lines = [*map(json.dumps, [*ODD, *BAD]), NOT_JSON, '{"conversations": ', '{"id": 1, "id": 2}']
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    return tmp_path


def processor(tokenizer, family, side):
    return XComposer2Processor(family_named(family), tokenizer, side, max_length=600)


def errors_of(findings):
    return {rule: (one.count, one.examples, one.advice) for rule, one in findings.items() if one.is_error}


@pytest.mark.parametrize("family, side", [("xcomposer2-7b", 28), ("xcomposer2d5-7b", 28), ("llava-internlm2", 28)])
def test_training_says_what_check_data_says(folder, tokenizer, family, side):
    model = processor(tokenizer, family, side)
    report = check_data(open_sources([(folder / "train.jsonl", None)])[0], model, leave_out=True)
    records = load_datasets([DatasetSpec("train", (folder / "train.jsonl",))])
    samples = fit_samples(records, model, leave_out=True, leave_bad_out=True)
    assert errors_of(samples.bad) == errors_of(report.findings)
    assert samples.num_bad + len(samples.refused) == (~report.usable).sum()
    assert list(samples.conversations.indexes) == list(report.usable.nonzero()[0])
    assert samples.refused == [message for _, message in report.findings["left out"].examples]
    assert [str(note) for note in samples.notes] == [str(note) for note in report.notes]
    assert {"schema", "roles", "empty answer", "image missing", "image damaged", "image of another kind"} <= set(
        samples.bad
    )
    assert f"are in {folder}/photos" in samples.bad["image missing"].advice


def test_training_stops_with_the_lines_of_check_data(folder, tokenizer):
    model = processor(tokenizer, "xcomposer2-7b", 28)
    report = check_data(open_sources([(folder / "train.jsonl", None)])[0], model, leave_out=True, decode=False)
    with pytest.raises(DataError) as caught:
        fit_samples(load_datasets([DatasetSpec("train", (folder / "train.jsonl",))]), model, leave_out=True)
    title, *lines = str(caught.value).splitlines()
    num_bad = (~report.usable).sum() - report.findings["left out"].count
    assert title == f"{num_bad} of {len(report.usable)} records can't be used:"
    assert lines[:-1] == [f"  {line}" for line in finding_lines(report.of(errors=True))]


def test_every_reason_is_said_once(folder, tokenizer):
    judge = Judge(processor(tokenizer, "xcomposer2-7b", 28))
    ((file,), _) = open_sources([(folder / "train.jsonl", None)])
    verdict = judge.of_record(BAD[-2], file, 0, Notes())
    assert [rule for rule, _ in verdict.errors] == ["empty answer", "image missing", "image damaged"]
    assert verdict.conversation is None and not verdict.is_usable


def test_images_of_what_is_too_long_are_looked_at_where_that_has_to_be_mended(folder, tokenizer):
    model = processor(tokenizer, "xcomposer2-7b", 28)
    ((file,), _) = open_sources([(folder / "train.jsonl", None)])
    refused, left_out = (Judge(model, leave_out=leave_out) for leave_out in (False, True))
    verdict = refused.of_record(BAD[-1], file, 0, Notes())
    assert [rule for rule, _ in refused.reasons(verdict)] == ["too long", "image damaged"]
    verdict = left_out.of_record(BAD[-1], file, 0, Notes())
    assert left_out.reasons(verdict) == [] and verdict.too_long is not None and not verdict.is_usable


def test_an_image_is_looked_at_once(folder, tokenizer, monkeypatch):
    from paddle_xc2.data import judge as module

    looked = []
    real = module.look_at
    monkeypatch.setattr(module, "look_at", lambda image, **others: looked.append(image.name) or real(image, **others))
    judge = Judge()
    ((file,), _) = open_sources([(folder / "train.jsonl", None)])
    for _ in range(3):
        judge.of_record(turns("Q", "A", image="red.png"), file, 0, Notes())
        judge.of_record(turns("Q", "A", image="cut.png"), file, 0, Notes())
    assert looked == ["red.png", "cut.png"]

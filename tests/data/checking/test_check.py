"""check-data's rules: each with what it says, and all together with what training takes."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.data import findings, judge
from paddle_xc2.data.checking import check
from paddle_xc2.data.checking.check import check_data, open_sources
from paddle_xc2.data.checking.report import summary_lines
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.findings import WARNINGS
from paddle_xc2.data.images.picture_reading import PictureReading
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.data.records.conversations import open_conversations
from paddle_xc2.data.records.record_files import RecordFile
from paddle_xc2.families.table import family_named
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.data.test_mutated_records import FORMATS, mutated
from tests.tiny import tiny_tokenizer

LONG = "What is in the picture, and which of the things in it are red or blue, and how many of them are there?"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def folder(tmp_path):
    """Holds images, good and bad."""
    for index, (name, size) in enumerate({"red": (40, 30), "blue": (32, 64), "thin": (60, 9)}.items()):
        Image.new("RGB", size, (index * 80, 20, 20)).save(tmp_path / f"{name}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "red.png").read_bytes()[:-30])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "copy.png").write_bytes((tmp_path / "red.png").read_bytes())
    return tmp_path


def turns(*texts, **others):
    messages = [{"from": ("user", "assistant")[index % 2], "value": text} for index, text in enumerate(texts)]
    return {"conversations": messages, **others}


def checked(folder, records, processor=None, **options):
    path = folder / "train.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    sources, findings = open_sources([(path, None)])
    assert not findings
    return check_data(sources, processor, **options)


def square(tokenizer, **options):
    return XComposer2Processor(family_named("xcomposer2-7b"), tokenizer, 28, **options)


def tiled(tokenizer, **options):
    return XComposer2Processor(family_named("xcomposer2-4khd-7b"), tokenizer, 336, **options)


# Errors


@pytest.mark.parametrize(
    "record, rule, message",
    [
        ([], "schema", 'the record is a list; it must be an object with "conversations"'),
        (turns("Q", 3), "schema", "message 1 is a number; write it as a text in quotes"),
        (turns("Q"), "roles", "the last message is from the user; a training sample must end with the assistant's"),
        (turns("Q", "A", "Q", " "), "empty answer", "message 3 (assistant) is empty; write the answer or"),
        (turns("[UNUSED_TOKEN_145]", "A"), "reserved text", "message 0 holds [UNUSED_TOKEN_145], which the prompt"),
        (turns("<ImageHere>?", "A"), "placeholders", "the messages hold 1 <ImageHere> but 0 images are given"),
        (turns("Q", "A", imgae="red.png"), "misspelt key", 'there is a key "imgae" but no "image"; correct it, or'),
        (turns("Q", "A", label=False), "key not supported", 'the record has "label": false, which marks it as one'),
        (turns("Q", "A", image="none.png"), "image missing", 'there is no image "none.png" in'),
        (turns("Q", "A", image="cut.png"), "image damaged", "{folder}/cut.png: the image can't be read ("),
        (turns("Q", "A", image="text.png"), "image damaged", "{folder}/text.png: this is not an image; replace it, or"),
    ],
)  # fmt: skip
def test_what_training_refuses(folder, record, rule, message):
    report = checked(folder, [turns("Q", "A"), record])
    assert report.usable.tolist() == [True, False] and report.has_errors
    ((found, finding),) = report.of(errors=True).items()
    assert (found, finding.count) == (rule, 1)
    ((number, text),) = finding.examples
    assert number == 1
    assert text.startswith(f"{folder}/train.jsonl[1]: {message.format(folder=folder)}")


def test_a_record_breaks_every_rule_that_it_breaks(folder):
    record = turns("[UNUSED_TOKEN_146]", "", "<ImageHere>", "A", image=["none.png", "cut.png"])
    report = checked(folder, [record])
    rules = ("reserved text", "empty answer", "placeholders", "image missing", "image damaged")
    assert {rule: finding.count for rule, finding in report.findings.items()} == dict.fromkeys(rules, 1)


def test_an_image_too_large(folder, monkeypatch):
    monkeypatch.setattr("paddle_xc2.data.images.pictures.MAX_FILE_BYTES", 50)
    report = checked(folder, [turns("Q", "A", image="red.png")])
    assert "more than the 50 allowed; make the file smaller" in report.findings["image too large"].examples[0][1]


def test_quick_reads_headers_only(folder):
    records = [turns("Q", "A", image="cut.png"), turns("Q", "A", image="text.png")]
    report = checked(folder, records, decode=False)
    assert report.usable.tolist() == [True, False] and not report.decoded
    assert [facts.content for facts in report.images] == [None]


def test_a_damaged_image_is_told_of_every_record_that_shows_it(folder):
    report = checked(folder, [turns(str(index), "A", image="cut.png") for index in range(3)])
    messages = [message for _, message in report.findings["image damaged"].examples]
    assert [message.split(": ")[0] for message in messages] == [f"{folder}/train.jsonl[{index}]" for index in range(3)]


def test_too_long(folder, tokenizer):
    records = [turns("Q", "A"), turns(LONG, LONG)]
    report = checked(folder, records, square(tokenizer, max_length=60))
    assert report.usable.tolist() == [True, False] and report.max_length == 60
    assert "more than max_length 60; raise max_length" in report.findings["too long"].examples[0][1]
    assert report.lengths[1, 0] > 60 and report.lengths[1, 2] == -1
    report = checked(folder, records, square(tokenizer, max_length=60), leave_out=True)
    assert report.usable.tolist() == [True, False] and not report.has_errors
    assert report.findings["left out"].count == 1
    report = checked(folder, records[1:], square(tokenizer, max_length=60), leave_out=True)
    ((rule, finding),) = report.of(errors=True).items()
    assert rule == "nothing to train on"
    assert finding.examples == [(-1, "no record is left to train on; see the warnings")]


def test_nothing_trained(folder, tokenizer, monkeypatch):
    monkeypatch.setattr("paddle_xc2.data.encode.Example.num_trained_tokens", 0)
    report = checked(folder, [turns("Q", "A")], square(tokenizer))
    assert (
        report.findings["nothing trained"]
        .examples[0][1]
        .endswith("train.jsonl[0]: no token of it would be trained; write an answer")
    )


def test_a_file_that_cant_be_read(folder):
    (folder / "bad.json").write_text("[{]")
    sources, findings = open_sources([(folder / "bad.json", None)])
    assert sources == [] and findings["unreadable file"].is_error
    assert findings["unreadable file"].examples[0][1].startswith(f"{folder}/bad.json: this is not valid JSON at line 1")
    with pytest.raises(FileNotFoundError, match="none.json: there is no such data file; correct the path"):
        open_sources([(folder / "none.json", None)])


def test_a_fault_of_ours_names_the_record(folder, monkeypatch):
    monkeypatch.setattr(judge, "read_record", lambda *_: 1 / 0)
    with pytest.raises(
        RuntimeError, match=r"train.jsonl\[0\]: checking failed \(ZeroDivisionError: division by zero\)"
    ):
        checked(folder, [turns("Q", "A")])


# Warnings


def warned(report, rule):
    """The only warning's messages, without the file's name."""
    assert not report.has_errors and report.usable.all()
    assert list(report.findings) == [rule]
    assert rule in WARNINGS
    return [
        message.replace(f"{report.sources[0].path}", "train.jsonl") for _, message in report.findings[rule].examples
    ]


def test_shortened(folder, tokenizer):
    report = checked(folder, [turns(LONG, LONG, "Q", "A")], square(tokenizer, max_length=60, truncation="turns"))
    (message,) = warned(report, "shortened")
    assert message == "train.jsonl[0]: loses its oldest 1 turn to fit max_length; raise max_length to keep them"
    records = [turns(f"<ImageHere>{LONG}", LONG, "Q", "A", image="red.png")]
    report = checked(folder, records, square(tokenizer, max_length=60, truncation="turns"))
    assert "loses its oldest 1 turn to fit max_length, but no image; " in warned(report, "shortened")[0]
    assert report.lengths[0, 1] == 4


def test_few_trained_tokens(folder, tokenizer):
    report = checked(folder, [turns(LONG * 9, "A")], square(tokenizer))
    (message,) = warned(report, "few trained tokens")
    assert message.startswith("train.jsonl[0]: 4 of ") and message.endswith(
        "text tokens are trained; the rest only costs time"
    )


@pytest.mark.parametrize("tag", ["<image>", "<imagehere>", "<Image Here />", "<image_1>", "</image>"])
def test_unused_image_tag(folder, tag):
    (message,) = warned(checked(folder, [turns(f"What is {tag}?", f"{tag} is a tag.")]), "unused image tag")
    assert message.startswith(f"train.jsonl[0]: message 0 holds {tag}, which stays text; write <ImageHere> if an image")


def test_unread_image(folder):
    (message,) = warned(checked(folder, [turns("Q", "A", img_path=["red.png"], id="red.png")]), "unread image")
    assert message == 'train.jsonl[0]: "img_path" names red.png, which is not read; call it "image" if it is meant'


def test_odd_sizes(folder, tokenizer, monkeypatch):
    (message,) = warned(checked(folder, [turns("Q", "A", image="thin.png")]), "tiny image")
    small_patches = square(tokenizer, patch_size=4)  # of the model: 9 pixels are two of them
    assert "tiny image" not in checked(folder, [turns("Q", "A", image="thin.png")], small_patches).findings
    assert message == f"train.jsonl[0]: {folder}/thin.png: 60 x 9 pixels hardly show anything; look whether it is meant"
    monkeypatch.setattr(check, "MANY_PIXELS", 1000)
    (message,) = warned(checked(folder, [turns("Q", "A", image="red.png")]), "large image")
    assert message == f"train.jsonl[0]: {folder}/red.png: 40 x 30 pixels take long to decode; make it smaller"


def test_duplicates(folder):
    records = [turns("Q", "A", image=name) for name in ("red.png", "blue.png", "red.png")] + [turns(" q\n", "a")] * 2
    messages = warned(checked(folder, records), "duplicate record")
    assert messages == [
        "train.jsonl[2]: the same texts and images as train.jsonl[0]; remove one",
        "train.jsonl[4]: the same texts and images as train.jsonl[3]; remove one",
    ]


def test_near_duplicates(folder):
    records = [turns(LONG, "A"), turns(LONG, "B"), turns(LONG, "C", image="red.png")]  # of another image: not alike
    (message,) = warned(checked(folder, records), "near-duplicate record")
    assert message.startswith("train.jsonl[1]: nearly the same as train.jsonl[0] (about ")
    assert message.endswith("% of their three-word pieces agree); keep one if that is not meant")


def test_duplicate_images(folder):
    report = checked(folder, [turns("Q", "A", image="red.png"), turns("Q", "A", image="copy.png")])
    (message,) = warned(report, "duplicate image")
    assert message == f"{folder}/copy.png: the same content as {folder}/red.png; remove one if it is not meant"


def test_what_was_read_in_spite_of(folder):
    (folder / "python.json").write_text(str([turns("Q", "A")]))
    sources, _ = open_sources([(folder / "python.json", None)])
    report = check_data(sources)
    assert report.usable.tolist() == [True]
    assert [note.count for note in report.notes] == [1]
    assert "not JSON (single quotes" in next(iter(report.notes)).kind


# All together


def random_record(chance: random.Random):
    """Mostly in order; else with one or several of many faults."""

    def fault(share=0.04):
        return chance.random() < share

    num_images = chance.choice((0, 0, 1, 1, 2))
    images = [chance.choice(("red.png", "blue.png", "thin.png", "copy.png")) for _ in range(num_images)]
    images = [chance.choice(("none.png", "cut.png", "text.png", "", "a\0b")) if fault() else image for image in images]
    texts = []
    for _ in range(chance.choice((2, 2, 4, 6, 3 if fault() else 2))):
        text = " ".join(chance.choices(LONG.split(), k=chance.choice((1, 5, 20))))
        if fault():
            text = chance.choice(("", " \n", "</s>", "<|im_start|>", "<image>", "[UNUSED_TOKEN_145]", None))
        texts.append(text)
    if isinstance(texts[0], str) and (num_images > 1 or chance.random() < 0.5):
        texts[0] = "<ImageHere>" * (num_images + (1 if fault() else 0)) + texts[0]
    record = turns(*texts)
    if images:
        record[chance.choice(("image", "images", "imgae") if fault() else ("image",))] = images
    if fault():
        record["conversations"][chance.randrange(len(texts))]["from"] = chance.choice(("system", "user", "robot", 3))
    if fault():
        record.pop(chance.choice(list(record)))
    return chance.choice((None, [], "text", 3, {"conversations": {}})) if fault(0.01) else record


@pytest.mark.parametrize("make, options", [(square, {}), (square, {"truncation": "turns"}), (tiled, {"hd_num": 1})])
def test_usable_is_what_training_takes(folder, tokenizer, make, options):
    chance = random.Random(5)
    processor = make(tokenizer, max_length=700 if make is tiled else 90, **options)
    report = checked(folder, [random_record(chance) for _ in range(400)], processor, num_workers=2)
    taken = compare_with_training(report, folder, processor)
    assert 100 < sum(taken) < 350
    assert {"roles", "schema", "image missing", "image damaged", "too long"} <= set(report.of(errors=True))


def compare_with_training(report, folder, processor):
    """Holds what check-data says of each record against what becomes of it in training."""
    taken, lengths = [], []
    conversations = open_conversations(folder / "train.jsonl")
    for index in range(len(conversations)):
        try:
            example = processor.encode_conversation(conversations[index])
        except DataError:
            taken.append(False)
        else:
            taken.append(True)
            lengths.append((len(example), int(example.image_mask.sum()), example.num_trained_tokens))
    assert report.usable.tolist() == taken
    assert report.lengths[report.usable].tolist() == [list(length) for length in lengths]
    return taken


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.name)
def test_usable_is_what_training_takes_of_every_dialect(path, folder, tokenizer, monkeypatch):
    monkeypatch.setenv("PADDLE_XC2_CACHE", str(folder / "cache"))
    (folder / "images").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (20, 20), colour).save(folder / "images" / f"{colour}.png")
    chance, originals, processor = random.Random(path.name), list(RecordFile(path)), square(tokenizer)
    records = originals + [mutated(chance.choice(originals), chance) for _ in range(40)]
    report = checked(folder, records, processor)
    taken = compare_with_training(report, folder, processor)
    assert all(taken[: len(originals)]) and not all(taken)
    assert len(report.notes) <= 20


def test_workers_change_nothing(folder, tokenizer):
    chance = random.Random(6)
    records = [random_record(chance) for _ in range(600)]
    alone, shared = (checked(folder, records, square(tokenizer), num_workers=number) for number in (0, 2))
    for name in ("usable", "lengths", "characters"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(shared, name))
    assert alone.findings == shared.findings
    assert alone.images == shared.images
    assert list(alone.notes) == list(shared.notes)


def test_progress_and_examples(folder, monkeypatch):
    monkeypatch.setattr(findings, "NUM_EXAMPLES", 20)
    seen = []
    report = checked(folder, [turns("Q", "")] * 300, progress=seen.append)
    assert sum(seen) == 300 and len(seen) > 3
    finding = report.findings["empty answer"]
    assert (finding.count, len(finding.examples)) == (300, 20)
    source, index = report.locate(299)
    assert source.name(index) == f"{folder}/train.jsonl[299]"


def test_a_picture_that_chat_would_put_elsewhere(folder, tokenizer):
    records = [turns("<ImageHere>\nQ", "A", image="red.png"), turns("<ImageHere>R", "A", image="red.png")]
    llava = turns("<image>\nS", "A", image="blue.png")
    (message,) = warned(checked(folder, [*records, llava], square(tokenizer)), "asked otherwise")
    assert message == (
        "train.jsonl[0]: '\\n' stands between picture and question, where chat puts nothing; remove it, or ask with "
        '<ImageHere> as it stands here ("chat --show_prompt" shows the prompt)'
    )


def test_pictures_that_are_read_otherwise(folder, tokenizer):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (40, 30)).save(folder / "odd.png", exif=exif)
    records = [turns("Q", "A", image="odd.png")]
    report = checked(folder, records)
    assert {rule: finding.count for rule, finding in report.findings.items()} == {
        "transparent image": 1,
        "turned image": 1,
    }
    (_, message), *_ = report.findings["transparent image"].examples
    assert message == (
        f"{folder}/train.jsonl[0]: {folder}/odd.png: 100.0% of it is transparent; what is transparent gets the colour "
        'below it; "background": "white" puts white there'
    )
    assert set(check.LOSSES) <= set(WARNINGS)
    reading = PictureReading(exif=True, background="white")
    assert checked(folder, records, square(tokenizer, reading=reading)).findings == {}


def test_records_whose_images_are_missing_are_no_duplicates(folder):
    records = [turns("What colour is it?", "Red.", image=f"lost/{index}.png") for index in range(5)]
    report = checked(folder, [*records, turns("What colour is it?", "Red.", image="cut.png")])
    counts = {rule: finding.count for rule, finding in report.findings.items()}
    assert counts == {"image missing": 5, "image damaged": 1}
    assert report.findings["image missing"].advice == ""


def test_where_missing_images_lie(folder, monkeypatch):
    (folder / "photos" / "2024").mkdir(parents=True)
    for index in range(4):
        (folder / "photos" / "2024" / f"{index}.png").write_bytes((folder / "red.png").read_bytes())
    records = [turns("Q", str(index), image=f"{index}.png") for index in range(5)]
    report = checked(folder, records)
    place = folder / "photos" / "2024"
    advice = f"4 of the 5 looked for are in {place}: set image_folder to it (--image_folder {place})"
    assert report.findings["image missing"].advice == advice
    assert f"      -> {advice}" in summary_lines(report)
    report = checked(folder, [turns("Q", "A", image="C:\\data\\0.png"), turns("Q", "A", image="none.png")])
    assert report.findings["image missing"].advice == (
        f"1 of the 2 looked for are in {place}, under the last part of their paths; correct the paths in the data"
    )

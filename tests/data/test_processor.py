"""The processor: its choices, what it makes of records and questions, and its errors."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.data.chat_request import read_request
from paddle_xc2.data.conversation import Conversation, DataError, Message
from paddle_xc2.data.encode import TooLong
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.families.special_tokens import IGNORE_INDEX
from paddle_xc2.families.table import family_named
from tests.golden import Golden
from tests.tiny import tiny_config, tiny_tokenizer

PICTURE = "china_640x427.jpg"


@pytest.fixture(scope="module")
def golden():
    return Golden()


@pytest.fixture(scope="module")
def checkpoint(golden):
    """Its configuration and tokenizer; a processor needs no weights."""
    return golden.directory / "ckpt"


@pytest.fixture(scope="module")
def processor(checkpoint):
    return XComposer2Processor.from_pretrained(checkpoint)


def conversation(*texts, images=(), source="train.json[17]"):
    messages = [Message(("user", "assistant")[index % 2], text) for index, text in enumerate(texts)]
    return Conversation(tuple(messages), tuple(images), source)


def test_a_record_becomes_an_example(golden, processor):
    example = processor.encode_sample(golden.record("one_image"), image_folder=golden.images)
    assert example.labels.tolist() == golden.array("train.one_image.labels")[0].tolist()
    assert example.input_ids.dtype == example.labels.dtype == np.int64 and example.image_mask.dtype == bool
    (pixels,) = example.pixel_values
    assert pixels.dtype == np.float32
    assert golden.difference(pixels[None], f"pix.chat.{PICTURE}") == 0.0  # the same pixels in training and in chat
    assert example.source == "record" and example.num_dropped_turns == 0
    assert len(example) == golden.facts["train_forward"]["one_image"]["length"]


def test_a_question_becomes_a_prompt(golden, processor):
    case = golden.facts["chat"]["one_image.hist2"]
    path = golden.images / PICTURE
    example = processor.encode_chat(case["query"], [path], case["kwargs"]["history"], meta_instruction="")
    runs = np.repeat(*np.array(case["im_mask_runs"]).T).astype(bool)
    assert example.image_mask.tolist() == runs.tolist()
    text_ids = [token for token in case["layout_ids_image_as_-200"] if not isinstance(token, list)]
    assert example.input_ids[~example.image_mask].tolist() == text_ids
    assert (example.labels == IGNORE_INDEX).all() and example.source == "chat"
    assert golden.difference(example.pixel_values[0][None], f"pix.chat.{PICTURE}") == 0.0
    opened = processor.encode_chat(case["query"], [Image.open(path)], case["kwargs"]["history"], "")
    np.testing.assert_array_equal(opened.pixel_values[0], example.pixel_values[0])


def test_prompt_of_images_known_by_their_number_of_tokens(golden, processor):
    query = golden.facts["texts"]["qi"]
    whole = processor.encode_chat(query, [golden.images / PICTURE])
    text = processor.encode_request(read_request(query, [golden.images / PICTURE]), [256])
    assert text.input_ids.tolist() == whole.input_ids.tolist() and text.pixel_values == []


def test_default_system_turn_depends_on_the_layout(golden, checkpoint, processor):
    query = golden.facts["texts"]["q"]
    official = processor.encode_chat(query)
    assert official.input_ids.tolist() == golden.facts["chat"]["text.meta_default"]["input_ids"][0]
    assert (
        processor.encode_chat(query, meta_instruction="").input_ids.tolist()
        == golden.facts["chat"]["text"]["input_ids"][0]
    )
    as_trained = XComposer2Processor.from_pretrained(checkpoint, chat_layout="as_trained")
    assert (
        as_trained.encode_chat(query).input_ids.tolist() == as_trained.encode_chat(query, (), (), "").input_ids.tolist()
    )
    assert as_trained.encode_chat(query).input_ids.tolist().count(1) == 1
    assert len(as_trained.encode_chat(query, (), (), "Be brief.")) > len(as_trained.encode_chat(query))


def test_as_trained_prompt_is_what_was_trained(golden, checkpoint):
    """CONTRACT: a checkpoint fine-tuned here is asked in the layout, and with the pixels, of its training samples."""
    processor = XComposer2Processor.from_pretrained(checkpoint, chat_layout="as_trained")
    record = golden.record("one_image")
    whole = processor.encode_sample(record, image_folder=golden.images)
    prompt = processor.encode_chat(record["conversations"][0]["value"], [golden.images / PICTURE])
    assert prompt.input_ids.tolist() == whole.input_ids[: len(prompt)].tolist()
    assert whole.labels[len(prompt)] != IGNORE_INDEX and (whole.labels[: len(prompt)] == IGNORE_INDEX).all()
    np.testing.assert_array_equal(prompt.pixel_values[0], whole.pixel_values[0])


def test_a_checkpoint_says_its_layout(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "tuned")
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "tuned" / "config.json").write_text(json.dumps({**config, "chat_layout": "as_trained"}))
    assert XComposer2Processor.from_pretrained(checkpoint).chat_layout == "official"
    assert XComposer2Processor.from_pretrained(tmp_path / "tuned").chat_layout == "as_trained"
    assert XComposer2Processor.from_pretrained(tmp_path / "tuned", chat_layout="official").chat_layout == "official"


def test_sizes_come_from_the_checkpoint_or_are_given(checkpoint):
    processor = XComposer2Processor.from_pretrained(checkpoint)
    assert processor.image_size == 224 and processor.num_image_tokens("any") == 256 and processor.max_length == 4096
    other = XComposer2Processor.from_pretrained(checkpoint, max_length=77, image_size=28, hd_num=-1)
    assert other.image_size == 28 and other.num_image_tokens("any") == 4 and other.max_length == 77
    assert other.image_transform(Image.new("RGB", (50, 20), "red")).shape == (3, 28, 28)


def test_processor_of_a_model_in_memory():
    processor = XComposer2Processor.for_config(tiny_config(chat_layout="as_trained", max_length=99))
    assert (processor.image_size, processor.num_image_tokens("any")) == (28, 4)
    assert (processor.chat_layout, processor.max_length) == ("as_trained", 99)


def test_counting_tokens_reads_no_image(processor):
    sample = conversation("<ImageHere>Hi", "Yes", images=["nowhere.png"])
    assert processor.num_tokens(sample) == len(processor.lay_out(sample)[1]) > 256


def test_unreadable_images_are_named_with_their_record(processor):
    with pytest.raises(DataError, match=r"^train.json\[17\]: .*nowhere.png"):
        processor.encode_conversation(conversation("<ImageHere>Hi", "Yes", images=["nowhere.png"]))


# Samples that are too long

TURNS = ("<ImageHere>What?", "A cat. " * 8, "And <ImageHere>?", "A dog.", "Why?", "So.")


def sized(checkpoint, max_length, truncation="refuse"):
    return XComposer2Processor.from_pretrained(checkpoint, max_length, truncation=truncation, image_size=28)


def test_as_long_as_allowed(checkpoint):
    sample = conversation(*TURNS, images="ab")
    length = sized(checkpoint, 4096).num_tokens(sample)
    conversation_kept, example = sized(checkpoint, length).lay_out(sample)
    assert conversation_kept is sample and len(example) == length


def test_too_long_is_refused(checkpoint):
    sample = conversation(*TURNS, images="ab")
    length = sized(checkpoint, 4096).num_tokens(sample)
    with pytest.raises(TooLong) as caught:
        sized(checkpoint, length - 1).lay_out(sample)
    assert caught.value.num_tokens == length
    assert str(caught.value) == (
        f"train.json[17]: the sample has {length} tokens (8 of them image slots), more than max_length {length - 1}; "
        "raise max_length, shorten the sample, or set truncation to turns"
    )


def test_oldest_turns_are_dropped_whole(checkpoint):
    sample = conversation(*TURNS, images="ab")
    for dropped in (1, 2):
        question, *others = TURNS[2 * dropped :]
        shorter = conversation("<ImageHere>" * dropped + question, *others, images="ab")
        want = sized(checkpoint, 4096).lay_out(shorter)[1]
        kept, example = sized(checkpoint, len(want), "turns").lay_out(sample)
        assert kept == shorter and example.num_dropped_turns == dropped
        assert example.input_ids.tolist() == want.input_ids.tolist()
        assert example.labels.tolist() == want.labels.tolist()
        assert example.image_mask.sum() == 4 * 2  # an image is never cut, and none goes: later answers may be about it


def test_even_the_last_turn_is_too_long(checkpoint):
    with pytest.raises(TooLong) as caught:
        sized(checkpoint, 5, "turns").lay_out(conversation(*TURNS, images="ab"))
    length = sized(checkpoint, 4096).num_tokens(conversation("<ImageHere><ImageHere>Why?", "So.", images="ab"))
    assert str(caught.value) == (
        f"train.json[17]: even the last turn, with all images, has {length} tokens (8 of them image slots), more than "
        "max_length 5; raise max_length, shorten the sample"
    )
    with pytest.raises(TooLong, match="even the last turn has 1. tokens"):
        sized(checkpoint, 5, "turns").lay_out(conversation("What?", "A cat.", "Why?", "So."))


def test_a_sample_without_an_answer(processor):
    with pytest.raises(DataError, match=r"train.json\[17\]: the last message is from the user"):
        processor.lay_out(conversation("Hi", "Yes", "Why?"))


# Questions that can't be asked


@pytest.mark.parametrize(
    "query, images, message",
    [
        ("<ImageHere>?", [], "chat: the messages hold 1 <ImageHere> but 0 images are given"),
        ("Which?", ["a.png", "b.png"], "chat: the messages hold 0 <ImageHere> but 2 images are given"),
        ("Forge [UNUSED_TOKEN_145]", [], "chat: message 0 holds .*, which the prompt template uses itself"),
    ],
)
def test_questions_that_do_not_hold_together(processor, query, images, message):
    with pytest.raises(DataError, match=message):
        processor.encode_chat(query, images, meta_instruction="")


# LLaVA's two ways to a square


@pytest.mark.parametrize("choice, name", [(None, "pad"), (True, "pad"), (False, "nopad")])
def test_squares_of_llava_are_those_of_xtuner(shared, choice, name):
    """Against pictures processed by XTuner's training: to the bit."""
    golden = Golden(shared / "goldens" / "llava_internlm2")
    size = golden.facts["arrays"]["pix.pad.panda.jpeg"]["shape"][-1]
    llava = XComposer2Processor(family_named("llava-internlm2"), None, size, pad_image_to_square=choice)
    for picture in golden.names(f"pix.{name}."):
        if not picture.endswith(".fp16"):
            pixels = llava.image_transform(golden.images / picture)
            array = f"pix.{name}.{picture}"
            assert golden.difference(pixels.reshape(golden.facts["arrays"][array]["shape"]), array) <= 1e-6, picture


@pytest.mark.parametrize("size", [(60, 20), (20, 60), (61, 20), (20, 20)])
def test_the_middle_of_an_image(size):
    """The shorter side is kept whole; of the longer one the middle third, here the only white one."""
    long_axis = 0 if size[0] > size[1] else 1
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    np.moveaxis(pixels, 1 - long_axis, 0)[(max(size) - 20) // 2 :][:20] = 255
    llava = XComposer2Processor(family_named("llava-internlm2"), None, 40, pad_image_to_square=False)
    cropped = llava.image_transform(Image.fromarray(pixels))
    assert cropped.shape == (3, 40, 40)
    assert np.ptp(cropped[:, 4:36, 4:36], axis=(1, 2)).max() == 0 and cropped[0, 20, 20] > 1.9


def test_the_way_to_a_square_is_recorded():
    config = tiny_config(xc2_family="llava-internlm2", pad_image_to_square=False)
    assert XComposer2Processor.for_config(config).pad_image_to_square is False


# Choices that can't be made


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"chat_layout": "mine"}, 'chat_layout "mine" is not one of official, as_trained'),
        ({"truncation": "cut"}, 'truncation "cut" is not one of refuse, turns'),
        (
            {"pad_image_to_square": False},
            "pad_image_to_square is False, but xcomposer2-7b neither pads nor crops images; leave it out",
        ),
        ({"hd_num": 4}, "hd_num is 4, but xcomposer2-7b takes no tiles; leave it out or set -1"),
    ],
)
def test_unknown_choices(checkpoint, choice, message):
    with pytest.raises(ValueError, match=message):
        XComposer2Processor.from_pretrained(checkpoint, **choice)


def test_no_tiles_at_all(checkpoint):
    with pytest.raises(ValueError, match="hd_num is 0, but an image takes at least 1 tile"):
        XComposer2Processor(family_named("xcomposer2-4khd-7b"), None, 336, hd_num=0)
    with pytest.raises(ValueError, match="hd_num is 0, but xcomposer2-7b takes no tiles"):
        XComposer2Processor.from_pretrained(checkpoint, hd_num=0)


def test_a_directory_that_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="this is no checkpoint, it has no config.json; give the directory"):
        XComposer2Processor.from_pretrained(tiny_tokenizer(tmp_path))

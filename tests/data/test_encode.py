"""Ids, labels and image slots: upstream's in training and in chat, and whatever the texts hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_xc2.data.chat_template import Span
from paddle_xc2.data.conversation import Conversation, Message
from paddle_xc2.data.encode import Example, drop_oldest_turn, encode_prompt, encode_training, split_at_images
from paddle_xc2.data.records.dialects import read_record
from paddle_xc2.families.special_tokens import IGNORE_INDEX, IMAGE_SLOT_ID
from paddle_xc2.families.table import family_named
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.golden import Golden

FAMILY = family_named("xcomposer2-7b")
GOLDEN = Golden()
TOKENIZER = XComposer2Tokenizer.from_pretrained(GOLDEN.directory / "ckpt")


def conversation(*texts, system=None, images=()):
    messages = [Message("system", system)] if system else []
    messages += [Message(("user", "assistant")[index % 2], text) for index, text in enumerate(texts)]
    return Conversation(tuple(messages), tuple(images))


def decode(ids):
    """Upstream's decoding puts a space in front of a text that holds special tokens."""
    return TOKENIZER.decode(ids).removeprefix(" ")


def train(sample, image_tokens=()):
    return encode_training(sample, TOKENIZER, FAMILY, list(image_tokens))


def ask(sample, image_tokens=(), as_trained=False):
    return encode_prompt(sample, TOKENIZER, FAMILY, list(image_tokens), as_trained)


def layout_of(example):
    """Ids, with [-200, n] for n image slots, as the golden prompts are written."""
    layout = []
    for token, slot in zip(example.input_ids.tolist(), example.image_mask.tolist(), strict=True):
        if not slot:
            layout.append(token)
        elif layout and isinstance(layout[-1], list):
            layout[-1][1] += 1
        else:
            layout.append([-200, 1])
    return layout


@pytest.mark.parametrize("name", ["one_image", "two_images", "text", "multi_turn"])
def test_labels_are_upstreams(name):
    messages, pictures = read_record(GOLDEN.record(name), name)
    example = train(Conversation(messages, tuple(pictures), name), [256] * len(pictures))
    assert example.labels.tolist() == GOLDEN.array(f"train.{name}.labels")[0].tolist()
    assert example.source == name
    assert (example.input_ids[example.image_mask] == IMAGE_SLOT_ID).all()
    assert len(example) == GOLDEN.facts["train_forward"][name]["length"]
    trained = example.labels != IGNORE_INDEX
    assert (example.labels[trained] == example.input_ids[trained]).all()


def assert_prompt(case):
    kwargs = case["kwargs"]
    system = kwargs.get("meta_instruction", FAMILY.meta_instruction)
    texts = [text for turn in kwargs.get("history", []) for text in turn] + [case["query"]]
    count = sum(text.count("<ImageHere>") for text in texts)
    example = ask(conversation(*texts, system=system, images=["image"] * count), [256] * count)
    assert layout_of(example) == case.get("layout_ids_image_as_-200", (case.get("input_ids") or [None])[0])
    assert (example.labels == IGNORE_INDEX).all()


@pytest.mark.parametrize("name", list(GOLDEN.facts["chat"]))
def test_prompts_are_upstreams(name):
    """Its chat puts BOS before every text between images, and twice where there is no image (quirks 1 and 2)."""
    assert_prompt(GOLDEN.facts["chat"][name])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=1, max_size=3),
       st.sampled_from([None, "Be brief.", "简短。👍"]))  # fmt: skip
def test_trained_tokens_are_the_assistants_words(answers, system):
    """Whatever the words: also where several tokens make a character, or a character is unknown."""
    answers = [answer.replace("<s>", "").strip() or "👍" for answer in answers]
    texts = [text for answer in answers for text in ("What 是什么?", answer)]
    example = train(conversation(*texts, system=system))
    trained = example.input_ids[example.labels != IGNORE_INDEX].tolist()
    end = TOKENIZER.convert_tokens_to_ids("[UNUSED_TOKEN_145]")
    want = [
        token for answer in answers for token in [*TOKENIZER.encode(f"\n{answer}", add_special_tokens=False)[1:], end]
    ]
    if all(TOKENIZER.encode(f"\n{answer}", False)[0] == TOKENIZER.encode("\n", False)[0] for answer in answers):
        assert trained == [*want, *TOKENIZER.encode("\n", add_special_tokens=False), TOKENIZER.eos_token_id]
    assert decode(trained) == "".join(f"{answer}[UNUSED_TOKEN_145]" for answer in answers) + "\n</s>"


IMAGE_TEXTS = ["<ImageHere>What is it?", "Between <ImageHere> and <ImageHere>?", "<ImageHere><ImageHere>", "None."]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(IMAGE_TEXTS), min_size=1, max_size=3), st.data())
def test_slots_stand_where_the_placeholders_stand(questions, data):
    texts = [text for question in questions for text in (question, "Yes." if "None" in question else "Yes")]
    count = sum(text.count("<ImageHere>") for text in texts)
    image_tokens = data.draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    sample = conversation(*texts, images=["image"] * count)
    example = train(sample, image_tokens)
    layout = layout_of(example)
    decoded = decode([token for token in layout if not isinstance(token, list)])
    plain = train(conversation(*[text.replace("<ImageHere>", "") for text in texts]))
    assert decoded.replace("<s>", "") == decode(plain.input_ids).replace("<s>", "")
    assert example.image_mask.sum() == sum(image_tokens)
    assert (example.labels[example.image_mask] == IGNORE_INDEX).all()
    assert example.input_ids.tolist().count(TOKENIZER.bos_token_id) == 1


def test_bos_comes_before_the_first_text_in_training():
    example = train(conversation("<ImageHere>Hi", "Yes", images=["a"]), [3])
    assert layout_of(example)[:2] == [TOKENIZER.bos_token_id, TOKENIZER.convert_tokens_to_ids("[UNUSED_TOKEN_146]")]
    assert [-200, 3] in layout_of(example)


@pytest.mark.parametrize(
    "texts, image_tokens",
    [
        (("What is it?", "A cat.", "Sure?", "Yes."), []),
        (("<ImageHere> What is it? ", "A cat.", "And <ImageHere>?", "A dog."), [4, 2]),
        (("<ImageHere><ImageHere>", "Two.", "你好", "好👍"), [4, 2]),
    ],
)
def test_as_trained_prompt_is_the_training_sample_cut_at_the_answer(texts, image_tokens):
    """With system turn and history; upstream's chat layout isn't (goldens/NOTES.md, quirk 2)."""
    images = ["image"] * len(image_tokens)
    whole = train(conversation(*texts, system="Be brief.", images=images), image_tokens)
    prompt = ask(conversation(*texts[:-1], system="Be brief.", images=images), image_tokens, as_trained=True)
    cut = len(prompt)
    assert prompt.input_ids.tolist() == whole.input_ids[:cut].tolist()
    assert prompt.image_mask.tolist() == whole.image_mask[:cut].tolist()
    trained = np.flatnonzero(whole.labels != IGNORE_INDEX)
    assert cut in trained and cut - 1 not in trained
    assert decode(whole.input_ids[cut:]) == f"{texts[-1]}[UNUSED_TOKEN_145]\n</s>"


def test_a_single_image_without_a_placeholder_goes_before_the_question():
    marked = conversation("<ImageHere>Hi", "Yes", system="Be brief.", images=["a"])
    unmarked = conversation("Hi", "Yes", system="Be brief.", images=["a"])
    assert layout_of(train(unmarked, [3])) == layout_of(train(marked, [3]))


def test_split_at_images():
    spans = [Span("a<ImageHere>", False), Span("b", True), Span("<ImageHere><ImageHere>c", False)]
    texts = split_at_images(spans)
    assert ["".join(span.text for span in text) for text in texts] == ["a", "b", "", "c"]
    assert [[span.trained for span in text if span.text] for text in texts] == [[False], [True], [], [False]]


def test_dropping_the_oldest_turn():
    sample = conversation(
        "1 <ImageHere>", "one", "2", "two <ImageHere>", "3 <ImageHere>", "three", system="S", images="ab"
    )
    shorter = drop_oldest_turn(sample)
    assert [message.text for message in shorter.messages] == [
        *("S", "<ImageHere>2", "two <ImageHere>", "3 <ImageHere>", "three"),
    ]  # fmt: skip
    assert shorter.images == sample.images and shorter.source == sample.source
    shortest = drop_oldest_turn(shorter)
    assert [message.text for message in shortest.messages] == ["S", "<ImageHere>3 <ImageHere>", "three"]
    assert shortest.images == sample.images
    assert drop_oldest_turn(shortest) is None
    assert drop_oldest_turn(conversation("1", "one", "2", "two", images="a")).image_leads


@pytest.mark.parametrize(
    ("question", "kept"),
    [
        ("<ImageHere>What?", "<ImageHere>"),
        ("<ImageHere>\nWhat?", "<ImageHere>\n"),
        ("What is <ImageHere>?", "<ImageHere>"),
        ("Image1 <ImageHere>; Image2 <ImageHere>; Which?", "Image1 <ImageHere>; Image2 <ImageHere>; "),
        ("Picture 1: <ImageHere>\nPicture 2: <ImageHere>\nWhich?", "Picture 1: <ImageHere>\nPicture 2: <ImageHere>\n"),
    ],
)
def test_no_answer_is_left_without_its_image(question, kept):
    images = ["image"] * question.count("<ImageHere>")
    shorter = drop_oldest_turn(conversation(question, "A car.", "Which colour?", "Blue.", images=images))
    assert [message.text for message in shorter.messages] == [f"{kept}Which colour?", "Blue."]
    assert list(shorter.images) == images


def test_marks_and_special_tokens_that_somebody_says_are_text():
    """HTML's <s>, and an <ImageHere> in an answer; the template's own stay tokens."""
    answer = "<s>9.99</s> <ImageHere> <unk>"
    sample = conversation("<ImageHere>What does </s> mean?", answer, "And <s>?", answer, images=["a"])
    example = train(sample, [3])
    assert example.image_mask.sum() == 3
    ids, trained = example.input_ids.tolist(), example.input_ids[example.labels != IGNORE_INDEX].tolist()
    special = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.unk_token_id
    assert [ids.count(token) for token in special] == [1, 1, 3]  # unknown: what makes up an image's slots
    assert decode(trained) == f"{answer}[UNUSED_TOKEN_145]{answer}[UNUSED_TOKEN_145]\n</s>"
    cut = conversation(*[message.text for message in sample.messages[:-1]], images=["a"])
    prompt = ask(cut, [3], as_trained=True)
    assert prompt.input_ids.tolist() == ids[: len(prompt)]
    assert ask(cut, [3]).image_mask.sum() == 3


def test_number_of_trained_tokens_leaves_out_the_first():
    labels = np.array([5, IGNORE_INDEX, 6, 7])
    assert Example(np.zeros(4, int), labels, np.zeros(4, bool)).num_trained_tokens == 2

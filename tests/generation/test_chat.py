import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.generation.chat import prompt_text
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer

GREEDY = {"do_sample": False, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def model():
    model = tiny_model(vocab_size=TINY_VOCAB_SIZE)
    model.eval()
    return model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = []
    for index in range(2):
        paths.append(str(folder / f"{index}.png"))
        Image.fromarray(rng.integers(0, 256, [40, 50, 3], np.uint8)).save(paths[-1])
    return paths


def test_chat_is_generate_on_the_encoded_prompt(model, tokenizer, images):
    processor = XComposer2Processor.for_config(model.config, tokenizer)
    example = processor.encode_chat("Which digit?", images[:1], [], "Be brief.")
    batch = processor.collate([example])
    del batch["labels"]
    ids, _ = model.generate(**batch, max_new_tokens=12, repetition_penalty=1.005, eos_token_id=[2, TINY_VOCAB_SIZE - 2])
    answer, history = model.chat(tokenizer, "Which digit?", images[0], meta_instruction="Be brief.", **GREEDY)
    new = ids[0].tolist()
    ends = [i for i, token in enumerate(new) if token in (2, TINY_VOCAB_SIZE - 2)]
    assert answer == tokenizer.decode(new[: ends[0]] if ends else new, skip_special_tokens=True)
    assert history == [("Which digit?", answer)]


def test_the_literal_prompt_is_told_without_looking_at_pictures(model, tokenizer, images, monkeypatch):
    encoded = model.encode_img(images[0])
    monkeypatch.setattr(model, "image_tokens", lambda *_: pytest.fail("a picture is encoded"))
    for image in (images[0], encoded):
        assert "<image: 4 tokens>" in prompt_text(model, tokenizer, "Which digit?", image)


def test_every_kind_of_image_gives_the_same_answer(model, tokenizer, images):
    def answer(image):
        return model.chat(tokenizer, "<ImageHere> or <ImageHere>?", image, **GREEDY)[0]

    want = answer(images)
    encoded = [model.encode_img(path) for path in images]
    assert answer([Image.open(path) for path in images]) == want
    assert answer(encoded) == want
    assert answer(paddle.concat(encoded, axis=0)) == want  # as upstream's documents show
    assert answer([encoded[0], images[1]]) == want
    assert answer([np.asarray(Image.open(path)) for path in images]) == want
    processor = XComposer2Processor.for_config(model.config)
    pixels = [paddle.to_tensor(processor.image_transform(path)) for path in images]
    assert answer(pixels) == answer(paddle.stack(pixels)) == want
    assert answer([Path(images[0]).as_uri(), Path(images[1]).read_bytes()]) == want
    with pytest.raises(ValueError, match=r"image is a tensor of shape \[3, 28, 28\]: pixel values, or tokens, already"):
        processor.image_transform(pixels[0])


def test_streamed_answer_grows_to_the_whole_one(model, tokenizer, images):
    want = model.chat(tokenizer, "Which digit?", images[0], **GREEDY)
    steps = list(model.stream_chat(tokenizer, "Which digit?", images[0], **GREEDY))
    assert steps[-1] == want
    assert all(after[0].startswith(before[0]) for before, after in zip(steps, steps[1:], strict=False))


def test_a_second_turn_sees_the_first(model, tokenizer, images):
    _, history = model.chat(tokenizer, "Which digit?", images[0], **GREEDY)
    history = [(history[0][0], "It is 7.")]
    processor = XComposer2Processor.for_config(model.config, tokenizer)
    example = processor.encode_chat("Why?", images[:1], history)
    text = tokenizer.decode(example.input_ids[~example.image_mask])
    assert "It is 7." in text and text.index("It is 7.") < text.index("Why?")
    answer, grown = model.chat(tokenizer, "Why?", images[0], history, **GREEDY)
    assert grown == [*history, ("Why?", answer)]


def test_what_chat_returned_is_taken_back(model, tokenizer, images, monkeypatch):
    """Also where the model said nothing, or wrote what would be a mark in a prompt."""
    from paddle_xc2.generation import chat as generation

    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for said in ("", "[UNUSED_TOKEN_146]user <ImageHere>"):
        with monkeypatch.context() as patch:
            patch.setattr(generation, "decode_answer", lambda *_, said=said: said)
            _, history = model.chat(tokenizer, "What?", images[0], None, **GREEDY)
            _, as_messages = model.chat(tokenizer, "Hm?", None, messages, **GREEDY)
        assert history == [("What?", said)] and as_messages[-1] == {"role": "assistant", "content": said}
        assert len(model.chat(tokenizer, "Why?", images[0], history, **GREEDY)[1]) == 2
        *_, (_, streamed) = model.stream_chat(tokenizer, "Why?", None, as_messages, **GREEDY)
        assert [turn["role"] for turn in streamed] == ["user", "assistant"] * 3


def test_what_is_no_question_or_history_is_said(model, tokenizer):
    with pytest.raises(ValueError, match=r"the question is None \(NoneType\); expected a text"):
        model.chat(tokenizer, None, **GREEDY)
    with pytest.raises(ValueError, match=r"history\[0\] is 'hi' \(str\); history is a list of \(question, answer\)"):
        model.chat(tokenizer, "Why?", None, ["hi", "yo"], **GREEDY)
    with pytest.raises(ValueError, match=r"image\[0\] is None; expected a path"):
        next(model.stream_chat(tokenizer, "Why?", [None], **GREEDY))


def test_a_model_trained_here_is_asked_in_its_own_layout(model, tokenizer):
    official = XComposer2Processor.for_config(model.config, tokenizer).encode_chat("Hi")
    config = model.config.copy()
    config.chat_layout = "as_trained"
    as_trained = XComposer2Processor.for_config(config, tokenizer).encode_chat("Hi")
    assert official.input_ids[:2].tolist() == [1, 1] and len(official) > 3 * len(
        as_trained
    )  # with upstream's system turn
    assert as_trained.input_ids.tolist().count(1) == 1


@pytest.mark.parametrize(
    ("query", "count", "message"),
    [
        ("What?", 2, "the messages hold 0 <ImageHere> but 2 images are given"),
        ("<ImageHere> <ImageHere> What?", 1, "the messages hold 2 <ImageHere> but 1 image is given"),
        ("<ImageHere> What?", 0, "the messages hold 1 <ImageHere> but 0 images are given"),
        ("[UNUSED_TOKEN_145] What?", 0, r"message 1 holds \[UNUSED_TOKEN_145\]"),
    ],
)
def test_images_and_placeholders_must_match(model, tokenizer, images, query, count, message):
    with pytest.raises(ValueError, match=message):
        model.chat(tokenizer, query, images[:count], **GREEDY)


def test_a_tensor_of_another_shape_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match=r"image is a tensor of shape \[3, 4\]; expected what encode_img returns"):
        model.chat(tokenizer, "<ImageHere>?", paddle.zeros([3, 4]), **GREEDY)


def test_stop_tokens_are_those_of_the_template(model, tokenizer):
    from paddle_xc2.generation.chat import decode_answer, stop_ids

    assert stop_ids(model, tokenizer) == [2, TINY_VOCAB_SIZE - 2]
    ids = tokenizer.encode("Hi", add_special_tokens=False)
    assert decode_answer(tokenizer, [*ids, TINY_VOCAB_SIZE - 2, *ids], [TINY_VOCAB_SIZE - 2]) == "Hi"
    assert json.dumps(decode_answer(tokenizer, [], [2])) == '""'

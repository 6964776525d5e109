import numpy as np
import pytest
from PIL import Image

from paddle_xc2.data.conversation import DataError
from paddle_xc2.generation import chat as generation
from paddle_xc2.generation.session import ChatSession
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, [30, 30, 3], np.uint8))


@pytest.fixture
def session(tmp_path):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path / "tokenizer"))
    settings = {"do_sample": False, "max_new_tokens": 6, "meta_instruction": ""}
    return ChatSession(tiny_model(vocab_size=TINY_VOCAB_SIZE), tokenizer, settings)


def asked(session, text):
    answer = "".join(session.ask(text))
    assert session.history[-1][1] == answer
    return [question for question, _ in session.history]


def test_a_single_picture_is_placed_by_the_family_until_a_second_joins_it(session):
    session.add_image(PICTURE)
    assert asked(session, "What?") == ["What?"]
    session.add_image(PICTURE)
    assert asked(session, "And this?") == ["<ImageHere>What?", "<ImageHere>And this?"]


def test_a_picture_of_a_later_turn_stands_there(session):
    asked(session, "Hello")
    session.add_image(PICTURE)
    assert asked(session, "What?") == ["Hello", "<ImageHere>What?"]


def test_whole_and_streamed_answers_are_those_of_chat(session):
    session.add_image(PICTURE)
    whole = session.ask_whole("What?")
    assert whole == session.model.chat(session.tokenizer, "What?", PICTURE, **session.settings)[0]
    session.reset()
    session.add_image(PICTURE)
    assert "".join(session.ask("What?")) == whole


def test_the_prompt_is_what_the_model_gets(session):
    session.add_image(PICTURE)
    text = session.prompt("What?")
    assert text.startswith("<image: 4 tokens>") or "<image: 4 tokens>" in text
    assert text.endswith("What?[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n") and session.history == []


def test_pictures_are_read_when_they_are_added(session):
    with pytest.raises(DataError, match="nowhere.png"):
        session.add_image("nowhere.png")
    assert session.pending == []


def test_pictures_are_encoded_once_and_again_when_tiles_become_fewer(session, monkeypatch):
    calls, encode = [], generation.encode_image
    monkeypatch.setattr(
        generation, "encode_image", lambda *args, **kwargs: calls.append(kwargs) or encode(*args, **kwargs)
    )
    session.add_image(PICTURE)
    assert len(session._encode_images()) == len(session._encode_images()) == len(calls) == 1
    session.add_image(PICTURE)
    assert len(session._encode_images()) == len(session._encode_images()) == 2
    assert calls == [{"num_images": 1}, {"num_images": 2}, {"num_images": 2}]
    session.drop_pending()
    session.add_image(Image.new("RGB", (9, 9)))
    assert len(session._encode_images()) == 1 and len(calls) == 4  # another picture in the place of one taken back

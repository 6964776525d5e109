import json

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.records.conversations import load_conversations
from paddle_xc2.generation.engine import Engine
from paddle_xc2.generation.sampling_settings import SamplingSettings
from paddle_xc2.generation.served_model import ServedModel
from paddle_xc2.generation.session import ChatSession, ChatSettings
from paddle_xc2.generation.transcript import save_transcript
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, [30, 30, 3], np.uint8))
SETTINGS = ChatSettings(SamplingSettings(), max_new_tokens=6, system="")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return ServedModel.of(tiny_model(vocab_size=TINY_VOCAB_SIZE), tokenizer)


@pytest.fixture
def session(served):
    with Engine(served.model) as engine:
        yield ChatSession(engine, served, SETTINGS)


def by_chat(served, *asked):
    return served.model.chat(
        served.tokenizer, *asked, meta_instruction="", do_sample=False, max_new_tokens=6, repetition_penalty=1.0
    )[0]


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


def test_whole_and_streamed_answers_are_those_of_chat(session, served):
    session.add_image(PICTURE)
    first = session.ask_whole("What?").text
    assert first == by_chat(served, "What?", PICTURE)
    session.add_image(PICTURE)
    history = [("<ImageHere>What?", first)]
    assert "".join(session.ask("And this?")) == by_chat(served, "<ImageHere>And this?", [PICTURE] * 2, history)


def test_the_prompt_is_what_the_model_gets(session):
    session.add_image(PICTURE)
    text = session.prompt("What?")
    assert "<image: 4 tokens>" in text
    assert text.endswith("What?[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n") and session.history == []


def test_pictures_are_read_when_they_are_added(session):
    with pytest.raises(DataError, match="nowhere.png"):
        session.add_image("nowhere.png")
    assert session.pending == []


def test_a_turn_that_is_left_keeps_what_was_said(session):
    parts = session.ask("What?")
    said = next(parts)
    parts.close()
    assert [answer.startswith(said) for _, answer in session.history] == [True]
    assert session.ask_whole("And?").finish is not None  # its place is free


def test_the_last_turn_is_taken_back_with_its_pictures(session, served):
    asked(session, "Hello")
    session.add_image(PICTURE)
    asked(session, "What?")
    turn = session.undo()
    assert turn.question == "What?" and turn.pictures == [PICTURE] and len(session.history) == 1
    history = list(session.history)
    assert session.ask_whole("Why?").text == by_chat(served, "Why?", None, history)
    session.reset()
    assert session.undo() is None


def test_answers_follow_from_the_seed(session):
    def answers(seed):
        session.reset()
        session.settings = ChatSettings(SamplingSettings(do_sample=True, temperature=3.0), 6, "", seed)
        return [session.ask_whole("What?").text for _ in range(2)]

    assert answers(1) == answers(1) != answers(2)


def test_a_saved_conversation_is_a_training_record(session, tmp_path):
    with pytest.raises(ValueError, match="there is nothing to save yet"):
        save_transcript(session, tmp_path / "talk.json")
    session.settings = ChatSettings(SamplingSettings(), 6, "Be brief.")
    session.add_image(PICTURE)
    asked(session, "What?")
    asked(session, "Why?")
    save_transcript(session, tmp_path / "talk.json")
    (conversation,) = load_conversations(tmp_path / "talk.json")
    said = [message.text for message in conversation.messages]
    assert said[0] == "Be brief." and said[2::2] == [answer for _, answer in session.history]
    assert said[1].endswith("What?") and said[3] == "Why?"
    np.testing.assert_array_equal(np.asarray(Image.open(conversation.images[0])), np.asarray(PICTURE))
    save_transcript(session, tmp_path / "talk.md")
    text = (tmp_path / "talk.md").read_text()
    assert "![](data:image/png;base64," in text and "**What?**" in text and session.history[1][1] in text
    with pytest.raises(ValueError, match="talk.txt: name it NAME.json or NAME.md"):
        save_transcript(session, tmp_path / "talk.txt")
    assert json.loads((tmp_path / "talk.json").read_text())["messages"][1]["content"][0]["type"] == "image_url"

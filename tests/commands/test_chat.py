import builtins
from argparse import ArgumentParser

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.commands import chat
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.tokenizer import XComposer2Tokenizer
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, [30, 30, 3], np.uint8)).save(path)
    return path


@pytest.fixture
def session(tmp_path):
    model = tiny_model(vocab_size=TINY_VOCAB_SIZE)
    model.eval()
    parser = ArgumentParser()
    chat.add_arguments(parser)
    args = parser.parse_args(["--greedy", "--max_new_tokens", "6", "--meta_instruction", ""])
    return chat.ChatSession(model, XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path / "tokenizer")), args)


def talk(session, monkeypatch, lines):
    """Runs the prompt on the given lines; an exception among them is raised where the line would be read."""
    remaining = iter(lines)

    def read(prompt):
        line = next(remaining, EOFError)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr(builtins, "input", read)
    chat.talk(session)


def test_conversation_keeps_turns_and_pictures(session, monkeypatch, capsys, picture):
    talk(
        session,
        monkeypatch,
        [f"/image {picture}", f'/image "{picture}"', "Which is larger?", "Why?", "/exit", "never read"],
    )
    assert [question for question, _ in session.history] == ["<ImageHere><ImageHere>Which is larger?", "Why?"]
    assert len(session.images) == 2 and not session.pending
    shown = capsys.readouterr()
    assert shown.out.count("model> ") == 2 and session.history[1][1] in shown.out
    assert "(2 picture(s) for the next question)" in shown.err


def test_a_single_picture_is_placed_by_the_family_until_a_second_joins_it(session, monkeypatch, picture):
    talk(session, monkeypatch, [f"/image {picture}", "What?"])
    assert [question for question, _ in session.history] == ["What?"]
    talk(session, monkeypatch, [f"/image {picture}", "And this?"])
    assert [question for question, _ in session.history] == ["<ImageHere>What?", "<ImageHere>And this?"]


def test_a_picture_of_a_later_turn_stands_there(session, monkeypatch, picture):
    talk(session, monkeypatch, ["Hello", f"/image {picture}", "What?"])
    assert [question for question, _ in session.history] == ["Hello", "<ImageHere>What?"]


def test_reset_forgets_everything(session, monkeypatch, picture):
    talk(session, monkeypatch, [f"/image {picture}", "What?", "/reset"])
    assert session.history == session.images == session.pending == []


def test_an_unreadable_picture_does_not_end_the_program(session, monkeypatch, capsys):
    talk(session, monkeypatch, ["/image nowhere.png", "Hello"])
    shown = capsys.readouterr()
    assert "nowhere.png" in shown.err and len(session.history) == 1


def test_wrong_number_of_placeholders_is_said_and_the_conversation_goes_on(session, monkeypatch, capsys):
    talk(session, monkeypatch, ["<ImageHere> What?", "Hello"])
    assert "1 <ImageHere> but 0 images are given" in capsys.readouterr().err
    assert len(session.history) == 1


@pytest.mark.parametrize("line", ["/help", "/", "/image", "/nothing"])
def test_help(session, monkeypatch, capsys, line):
    talk(session, monkeypatch, ["", line])
    assert "/image PATH" in capsys.readouterr().err


def test_interrupt_stops_the_answer_and_keeps_what_was_said(session, monkeypatch, capsys):
    whole = session.model.stream_chat

    def interrupted(*args, **kwargs):
        for step, state in enumerate(whole(*args, **kwargs)):
            if step == 2:
                raise KeyboardInterrupt
            yield state

    monkeypatch.setattr(session.model, "stream_chat", interrupted)
    talk(session, monkeypatch, ["Hello", KeyboardInterrupt, "/exit"])
    shown = capsys.readouterr()
    assert "(stopped)" in shown.err and "Ctrl-D or /exit" in shown.err
    assert len(session.history) <= 1


def test_one_question_gives_the_answer_alone(session, picture):
    session.add_image(picture)
    answer = session.ask_whole("What?")
    assert session.history == [("What?", answer)] or not answer.strip()


def test_pictures_are_read_when_they_are_added(session):
    with pytest.raises(DataError, match="nowhere.png"):
        session.add_image("nowhere.png")


def test_a_dtype_that_the_device_lacks_is_refused():
    parser = ArgumentParser()
    chat.add_arguments(parser)
    with pytest.raises(ValueError, match="dtype bfloat16 can't be computed in here, only float32; leave --dtype out"):
        chat.run(parser.parse_args(["--dtype", "bfloat16", "--text", "Hi"]))


def test_pictures_are_encoded_once_and_again_when_tiles_become_fewer(session, picture, monkeypatch):
    from paddle_xc2.generation import chat as generation

    calls, encode = [], generation.encode_image
    monkeypatch.setattr(
        generation, "encode_image", lambda *args, **kwargs: calls.append(kwargs) or encode(*args, **kwargs)
    )
    session.add_image(picture)
    assert len(session._encode_images()) == len(session._encode_images()) == len(calls) == 1
    session.add_image(picture)
    assert len(session._encode_images()) == len(session._encode_images()) == 2
    assert calls == [{"num_images": 1}, {"num_images": 2}, {"num_images": 2}]

"""The prompt of `paddle-xc2 chat`: questions, commands, pictures that fail."""

import builtins
import io
import sys

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.commands.conversation import Conversation, split_reference
from paddle_xc2.generation.session import ChatSession
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, [30, 30, 3], np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def model():
    return tiny_model(vocab_size=TINY_VOCAB_SIZE)


@pytest.fixture
def session(tmp_path, model):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path / "tokenizer"))
    return ChatSession(model, tokenizer, {"do_sample": False, "max_new_tokens": 6, "meta_instruction": ""})


def talk(session, monkeypatch, lines, **options):
    """Runs the prompt on the given lines; an exception among them is raised where the line would be read."""
    remaining = iter(lines)

    def read(prompt):
        line = next(remaining, EOFError)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr(builtins, "input", read)
    Conversation(session, **options).talk()


def questions(session):
    return [question for question, _ in session.history]


def test_conversation_keeps_turns_and_pictures(session, monkeypatch, capsys, picture):
    lines = [f"/image {picture}", f'/image "{picture}"', "Which is larger?", "Why?", "/exit", "never read"]
    talk(session, monkeypatch, lines)
    assert questions(session) == ["<ImageHere><ImageHere>Which is larger?", "Why?"]
    assert len(session.images) == 2 and not session.pending
    shown = capsys.readouterr()
    assert shown.out.count("model> ") == 2 and session.history[1][1] in shown.out
    assert "(1 picture for the next question)" in shown.err and "(2 pictures for the next question)" in shown.err


def test_a_picture_and_its_question_in_one_line(session, monkeypatch, picture):
    talk(session, monkeypatch, [f"/image {picture} What is it?", f'/image "{picture}"   And this?'])
    assert questions(session) == ["<ImageHere>What is it?", "<ImageHere>And this?"] and len(session.images) == 2


def test_lines_of_another_encoding(session, monkeypatch, capsys, picture):
    lines = [b"caf\xe9?", b"/image " + bytes(picture.with_name("caf\udce9.png")), b"What is it?"]
    picture.rename(picture.with_name("caf\udce9.png"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(lines)), encoding="utf-8"))
    Conversation(session).talk()
    assert questions(session) == ["What is it?"] and len(session.images) == 1
    assert "the question holds half of a surrogate pair at character 3; remove it" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["quit", "exit", "Exit", "/quit", "/exit"])
def test_leaving(session, monkeypatch, line):
    talk(session, monkeypatch, [line, "never asked"])
    assert session.history == []


def test_a_picture_that_fails_is_never_answered_without(session, monkeypatch, capsys, picture):
    talk(session, monkeypatch, ["/image nowhere.png What is it?", "What is it?", "And this?"])
    shown = capsys.readouterr()
    assert session.history == [] and "model>" not in shown.out
    assert "nowhere.png: there is no such image file" in shown.err
    assert shown.err.count("(not asked, since nowhere.png could not be used: give another picture with /image") == 2
    talk(session, monkeypatch, ["/image nowhere.png", f"/image {picture}", "What is it?"])
    assert questions(session) == ["What is it?"] and len(session.images) == 1
    talk(session, monkeypatch, ["/reset", "/image nowhere.png", f"/image {picture}", "/drop", "Hello"])
    assert questions(session) == ["Hello"] and session.images == []


def test_a_question_that_fails_is_not_remembered(session, monkeypatch, capsys, picture):
    """Neither is what it would have changed in the turns before."""
    talk(session, monkeypatch, [f"/image {picture} What?", f"/image {picture} [UNUSED_TOKEN_145]", "/drop", "Why?"])
    assert questions(session) == ["What?", "Why?"] and len(session.images) == 1
    assert "message 2 holds [UNUSED_TOKEN_145]" in capsys.readouterr().err


def test_wrong_number_of_placeholders_is_said_and_the_conversation_goes_on(session, monkeypatch, capsys):
    talk(session, monkeypatch, ["<ImageHere> What?", "Hello"])
    assert "1 <ImageHere> but 0 images are given" in capsys.readouterr().err
    assert len(session.history) == 1


def test_reset_forgets_everything(session, monkeypatch, picture):
    talk(session, monkeypatch, [f"/image {picture}", "What?", "/reset"])
    assert session.history == session.images == session.pending == []


@pytest.mark.parametrize("line", ["/help", "/", "/?", "/nothing", "/imag x.png"])
def test_help(session, monkeypatch, capsys, line):
    talk(session, monkeypatch, ["", line])
    shown = capsys.readouterr().err
    assert "  /image PATH [QUESTION]  adds a picture" in shown
    assert ("there is no command /nothing" in shown) is (line == "/nothing")
    assert ('there is no command /imag; did you mean "image"?' in shown) is line.startswith("/imag ")


def test_an_image_without_a_path(session, monkeypatch, capsys):
    talk(session, monkeypatch, ["/image", "Hello"])
    assert "write /image and a path or an address" in capsys.readouterr().err and len(session.history) == 1


def test_the_prompt_is_shown(session, monkeypatch, capsys, picture):
    talk(session, monkeypatch, [f"/image {picture} What?"], show_prompt=True)
    assert "<image: 4 tokens>" in capsys.readouterr().err


def test_an_empty_answer_is_said(session, monkeypatch, capsys, picture):
    monkeypatch.setattr(session.model, "stream_chat", lambda *args, **kwargs: iter([("", [])]))
    talk(session, monkeypatch, [f"/image {picture} What?"])
    assert "(the answer is empty)" in capsys.readouterr().err
    assert session.history == [] and len(session.pending) == 1


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


@pytest.mark.parametrize(
    ("argument", "reference", "question"),
    [
        ("a.png", "a.png", ""),
        ("a.png What is it?", "a.png", "What is it?"),
        ("'no such.png' Q", "no such.png", "Q"),
        ('"no such.png"', "no such.png", ""),
        ("https://x.org/a.png Q R", "https://x.org/a.png", "Q R"),
        ("'half", "'half", ""),
        ("there it is.png Is it?", "there it is.png", "Is it?"),
    ],
)
def test_a_path_and_a_question(tmp_path, monkeypatch, argument, reference, question):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there it is.png").touch()
    assert split_reference(argument) == (reference, question)

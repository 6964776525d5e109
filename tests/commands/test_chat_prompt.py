"""The prompt of `paddle-xc2 chat`: questions, commands, pictures that fail."""

import builtins
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.commands.chat_prompt import ChatPrompt, split_reference
from paddle_xc2.generation.engine import Engine
from paddle_xc2.generation.request import Answer
from paddle_xc2.generation.sampling_settings import SamplingSettings
from paddle_xc2.generation.served_model import ServedModel
from paddle_xc2.generation.session import ChatSession, ChatSettings
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, [30, 30, 3], np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return ServedModel.of(tiny_model(vocab_size=TINY_VOCAB_SIZE), tokenizer)


@pytest.fixture
def session(served):
    with Engine(served.model) as engine:
        yield ChatSession(engine, served, ChatSettings(SamplingSettings(), max_new_tokens=6, system=""))


def pictures(session):
    return [picture for turn in session.turns for picture in turn.pictures]


def talk(session, monkeypatch, lines, **options):
    """Runs the prompt on the given lines; an exception among them is raised where the line would be read."""
    remaining = iter(lines)

    def read(prompt):
        line = next(remaining, EOFError)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr(builtins, "input", read)
    ChatPrompt(session, **options).talk()


def questions(session):
    return [question for question, _ in session.history]


def test_conversation_keeps_turns_and_pictures(session, monkeypatch, capsys, picture):
    lines = [f"/image {picture}", f'/image "{picture}"', "Which is larger?", "Why?", "/exit", "never read"]
    talk(session, monkeypatch, lines)
    assert questions(session) == ["<ImageHere><ImageHere>Which is larger?", "Why?"]
    assert len(pictures(session)) == 2 and not session.pending
    shown = capsys.readouterr()
    assert shown.out.count("model> ") == 2 and session.history[1][1] in shown.out
    assert "(1 picture for the next question)" in shown.err and "(2 pictures for the next question)" in shown.err


def test_a_picture_and_its_question_in_one_line(session, monkeypatch, picture):
    talk(session, monkeypatch, [f"/image {picture} What is it?", f'/image "{picture}"   And this?'])
    assert questions(session) == ["<ImageHere>What is it?", "<ImageHere>And this?"] and len(pictures(session)) == 2


def test_lines_of_another_encoding(session, monkeypatch, capsys, picture):
    lines = [b"caf\xe9?", b"/image " + bytes(picture.with_name("caf\udce9.png")), b"What is it?"]
    picture.rename(picture.with_name("caf\udce9.png"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(lines)), encoding="utf-8"))
    ChatPrompt(session).talk()
    assert questions(session) == ["What is it?"] and len(pictures(session)) == 1
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
    assert questions(session) == ["What is it?"] and len(pictures(session)) == 1
    talk(session, monkeypatch, ["/reset", "/image nowhere.png", f"/image {picture}", "/drop", "Hello"])
    assert questions(session) == ["Hello"] and pictures(session) == []


def test_a_question_that_fails_is_not_remembered(session, monkeypatch, capsys, picture):
    """Neither is what it would have changed in the turns before."""
    talk(session, monkeypatch, [f"/image {picture} What?", f"/image {picture} [UNUSED_TOKEN_145]", "/drop", "Why?"])
    assert questions(session) == ["What?", "Why?"] and len(pictures(session)) == 1
    assert "message 2 holds [UNUSED_TOKEN_145]" in capsys.readouterr().err


def test_wrong_number_of_placeholders_is_said_and_the_conversation_goes_on(session, monkeypatch, capsys):
    talk(session, monkeypatch, ["<ImageHere> What?", "Hello"])
    assert "1 <ImageHere> but 0 images are given" in capsys.readouterr().err
    assert len(session.history) == 1


def test_reset_forgets_everything(session, monkeypatch, picture):
    talk(session, monkeypatch, [f"/image {picture}", "What?", "/reset"])
    assert session.turns == session.pending == []


@pytest.mark.parametrize("line", ["/help", "/", "/?", "/nothing", "/imag x.png"])
def test_help(session, monkeypatch, capsys, line):
    talk(session, monkeypatch, ["", line])
    shown = capsys.readouterr().err
    assert "  /image PATH [QUESTION]      adds a picture" in shown
    assert ("there is no command /nothing" in shown) is (line == "/nothing")
    assert ('there is no command /imag; did you mean "image"?' in shown) is line.startswith("/imag ")


def test_an_image_without_a_path(session, monkeypatch, capsys):
    talk(session, monkeypatch, ["/image", "Hello"])
    assert "write /image and a path or an address" in capsys.readouterr().err and len(session.history) == 1


def test_the_prompt_is_shown(session, monkeypatch, capsys, picture):
    talk(session, monkeypatch, [f"/image {picture} What?"], show_prompt=True)
    assert "<image: 4 tokens>" in capsys.readouterr().err


def test_an_empty_answer_says_why(session, served, monkeypatch, capsys, picture):
    (first,) = (token.id for token in list_tokens(session, picture)[:1])
    session.served = replace(served, ends=(first,))
    talk(session, monkeypatch, [f"/image {picture} What?"])
    assert "(the answer is empty: the model ended it at once)" in capsys.readouterr().err
    assert session.history == [] and len(session.pending) == 1


def list_tokens(session, picture):
    session.add_image(str(picture))
    tokens = session.ask_whole("What?").tokens
    session.reset()
    return tokens


def test_interrupt_stops_the_answer_and_keeps_what_was_said(session, monkeypatch, capsys):
    whole = Answer.__iter__

    def interrupted(answer):
        for step, piece in enumerate(whole(answer)):
            if step == 2:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(Answer, "__iter__", interrupted)
    talk(session, monkeypatch, ["Hello", KeyboardInterrupt, "/exit"])
    shown = capsys.readouterr()
    assert "(stopped)" in shown.err and "Ctrl-D or /exit" in shown.err
    assert len(session.history) <= 1


def test_the_last_turn_is_taken_back(session, monkeypatch, capsys, picture):
    talk(session, monkeypatch, ["/undo", "Hello", f"/image {picture} What?", "/undo", "Why?"])
    assert questions(session) == ["Hello", "Why?"] and pictures(session) == []
    shown = capsys.readouterr().err
    assert "(there is no turn to take back)" in shown and "(taken back: What?)" in shown


def test_the_system_turn_is_shown_and_set(session, monkeypatch, capsys):
    session.settings = replace(session.settings, system=None)
    lines = ["/system", "/system Be brief.", "Hello", "/system none", "/system"]
    talk(session, monkeypatch, lines, show_prompt=True)
    shown = capsys.readouterr().err
    assert "(the system turn is the model's own)" in shown and "(the system turn: Be brief.)" in shown
    assert "system\nBe brief.[UNUSED_TOKEN_145]" in shown and shown.count("(the system turn: none)") == 2


def test_settings_are_shown_and_changed(session, monkeypatch, capsys):
    lines = ["/settings", "/settings greedy=false temperature=0.5 max_new_tokens=3 seed=7", "Hello"]
    lines += [
        "/settings temprature=1",
        "/settings top_p",
        "/settings top_p=2",
        "/settings top_k=x",
        "/settings greedy=5",
    ]
    talk(session, monkeypatch, lines)
    shown = capsys.readouterr().err
    assert "(greedy=true temperature=1.0 top_p=1.0 top_k=50 repetition_penalty=1.0 max_new_tokens=6 seed=0)" in shown
    assert "(greedy=false temperature=0.5 top_p=1.0 top_k=50 repetition_penalty=1.0 max_new_tokens=3 seed=7)" in shown
    for message in (
        'there is no setting temprature; did you mean "temperature"?',
        "top_p has no value; write top_p=...",
        "top_p is 2.0, but must be above 0 and at most 1",
        "top_k is x, but must be a whole number",
        "greedy is 5; write greedy=true or greedy=false",
    ):
        assert message in shown
    assert session.settings.sampling.temperature == 0.5


def test_a_conversation_is_saved(session, monkeypatch, capsys, tmp_path):
    there = tmp_path / "there.json"
    there.write_text("somebody's")
    path = tmp_path / "talk.json"
    talk(
        session,
        monkeypatch,
        ["/save", f"/save {path}", "Hello", f"/save {there}", f"/save {path}", "Why?", f"/save {path}"],
    )
    shown = capsys.readouterr().err
    assert "write /save and a name that ends with .json or .md" in shown and "there is nothing to save yet" in shown
    assert "there.json is there already; give another name" in shown and there.read_text() == "somebody's"
    assert "(2 turns in " in shown and len(json.loads(path.read_text())["messages"]) == 4


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

"""`paddle-xc2 chat` up to its prompt: what is asked, of which model, about which pictures."""

import io
import sys
from argparse import ArgumentParser

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.cli import main
from paddle_xc2.commands import chat
from paddle_xc2.data.conversation import DataError
from tests.tiny import tiny_checkpoint


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, [30, 30, 3], np.uint8)).save(path)
    return path


def run(*words):
    parser = ArgumentParser()
    chat.add_arguments(parser)
    return chat.run(parser.parse_args(list(words)))


def test_a_dtype_that_the_device_lacks_is_refused():
    with pytest.raises(ValueError, match="dtype bfloat16 can't be computed in here, only float32; leave --dtype out"):
        run("--from_pretrained", "model", "--dtype", "bfloat16", "--text", "Hi")


def test_pictures_are_looked_at_before_the_model_is_loaded(tmp_path):
    with pytest.raises(DataError, match="nowhere.png: there is no such image file"):
        run("--from_pretrained", str(tmp_path / "no_model"), "--image_path", "nowhere.png", "--text", "Hi")


def test_no_model_is_fetched_unasked(monkeypatch):
    with pytest.raises(
        ValueError, match=r"no model is given; --from_pretrained takes a folder, .*fetched \(about 17 GB"
    ):
        run("--text", "Hi")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    loaded = []
    monkeypatch.setattr(chat, "load_model", lambda path, args: loaded.append(path) or 1 / 0)
    for said in ("\n", "n\n", ""):
        monkeypatch.setattr(sys, "stdin", Terminal(said))
        with pytest.raises(ValueError, match="no model is given"):
            run("--text", "Hi")
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    with pytest.raises(ZeroDivisionError):
        run("--text", "Hi")
    assert loaded == ["internlm/internlm-xcomposer2-7b"]


def test_one_question(tmp_path, picture, capsys):
    """Standard output is the answer alone; --show_prompt shows what the model saw."""
    command = ["chat", "--from_pretrained", str(tiny_checkpoint(tmp_path / "model")), "--greedy"]
    command += ["--image_path", picture.as_uri(), "--text", "What?", "--meta_instruction", "", "--max_new_tokens", "4"]
    assert main([*command, "--show_prompt"]) == 0
    shown = capsys.readouterr()
    prompt = "<s><image: 4 tokens><s>[UNUSED_TOKEN_146]user\nWhat?[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n"
    assert "user\n" in prompt and "<image: 4 tokens>" in shown.err and "What?[UNUSED_TOKEN_145]\n" in shown.err
    assert shown.out.strip() and "UNUSED" not in shown.out
    assert main(command) == 0
    assert capsys.readouterr().out == shown.out


def test_beams_are_for_one_question(tmp_path, capsys):
    command = ["chat", "--from_pretrained", str(tiny_checkpoint(tmp_path / "model")), "--num_beams", "2"]
    assert main(command) == 2
    assert "num_beams is for one question; give it with --text" in capsys.readouterr().err
    assert main([*command, "--text", "What?", "--max_new_tokens", "4", "--show_prompt"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() and "What?[UNUSED_TOKEN_145]" in shown.err


def test_settings_out_of_range_are_told_before_the_model_is_loaded(capsys):
    for words in (("--seed", "-1"), ("--max_new_tokens", "0"), ("--top_p", "2")):
        assert main(["chat", "--from_pretrained", "no_model", "--text", "Hi", *words]) == 2
        assert words[0][2:] in capsys.readouterr().err

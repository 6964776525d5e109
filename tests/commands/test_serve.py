"""`paddle-xc2 serve` up to listening; what it answers, tests/serving knows."""

import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from types import SimpleNamespace

import pytest
import requests

from paddle_xc2 import load_model, load_processor
from paddle_xc2.cli import main
from paddle_xc2.commands import serve
from paddle_xc2.models.lora import lora_layers
from tests.conftest import ROOT
from tests.serving.conftest import adapter_of
from tests.tiny import tiny_checkpoint


def arguments(*words):
    parser = ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(["--from_pretrained", "no_model", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--host", "0.0.0.0"),
            "with --host 0.0.0.0 others can reach this server; give it a key with --api_key or $PAD",
        ),
        (("--adapter", "cats"), '--adapter is "cats"; write NAME=DIR'),
        (("--max_images", "0"), "max_images is 0, but must be above 0"),
        (("--temperature", "0"), "temperature is 0.0, but must be above 0"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(words, message, capsys):
    assert main(["serve", "--from_pretrained", "no_model", *words]) == 2
    assert message in capsys.readouterr().err


def test_limits_are_the_command_lines():
    limits = serve.limits_of(arguments("--max_image_mb", "0.5", "--timeout", "7", "--max_new_tokens", "9"))
    assert (limits.max_image_bytes, limits.answer_seconds, limits.max_new_tokens) == (2**19, 7, 9)


def test_two_models_of_one_name(monkeypatch):
    args = arguments("--served_model_name", "cats")
    model = SimpleNamespace(has_adapter=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "paddle_xc2.generation.served_model.ServedModel.of", lambda *args: type("S", (), {"name": "cats"})
        )
        with pytest.raises(ValueError, match='two models are called "cats"; give each a name of its own'):
            serve.served_models(model, None, "cats", [("cats", "./cats")], args)


def test_adapters_are_models_of_their_own(tmp_path, capsys):
    directory = tiny_checkpoint(tmp_path / "model")
    adapter = adapter_of(load_model(directory), tmp_path / "adapter")
    args = arguments("--served_model_name", "base")
    models = serve.served_models(
        load_model(directory), load_processor(directory).tokenizer, "base", [("cats", adapter)], args
    )
    assert [served.name for served in models] == ["base", "cats"]
    assert "adapter cats: 2 low-rank updates" in capsys.readouterr().err
    for served in reversed(models):
        served.activate()
        assert bool(lora_layers(served.model)) == (served.name == "cats")
    with pytest.raises(ValueError, match="is an adapter itself; give its base"):
        serve.served_models(load_model(adapter), None, "base", [("cats", adapter)], args)


def test_it_serves_and_ends_when_it_is_told_to(tmp_path):
    model = tiny_checkpoint(tmp_path / "model")
    command = [
        sys.executable,
        "-m",
        "paddle_xc2",
        "serve",
        "--from_pretrained",
        str(model),
        "--port",
        "18765",
        "--greedy",
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            while "serving model at http://127.0.0.1:18765/v1" not in process.stderr.readline():
                assert process.poll() is None
            url, end = "http://127.0.0.1:18765", time.monotonic() + 30
            while True:
                try:
                    assert requests.get(f"{url}/health", timeout=5).json()["status"] == "ok"
                    break
                except requests.ConnectionError:
                    assert time.monotonic() < end
                    time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

"""The README's ten commands run as they stand there, one after the other, on a small model under the released name."""

import io
import json

import pytest
from PIL import Image

from paddle_xc2 import cli
from tests.conftest import ROOT
from tests.docs.pages import commands, text_of
from tests.tiny import tiny_checkpoint

# doctor looks at the installation, in processes of its own: tests/commands/test_doctor.py.
TEN = [words[1:] for words in commands(text_of(ROOT / "README.md")) if words[0] == "paddle-xc2"]
# What a CPU and a test's patience ask for beside what is written.
ALSO = {"chat": ["--max_new_tokens", "4"], "finetune": ["--allow_precision_fallback"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, a picture and training data under the names that the README has for them."""
    tiny_checkpoint(tmp_path / "internlm/internlm-xcomposer2-7b")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "cat.jpg")
    turns = [{"from": "user", "value": "What is it?"}, {"from": "assistant", "value": "A red house."}]
    records = [{"id": str(number), "image": ["cat.jpg"], "conversations": turns} for number in range(8)]
    (tmp_path / "train.json").write_text(json.dumps(records))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is in the picture?\nquit\n"))
    return tmp_path


def test_the_ten_commands_run(folder, capsys):
    assert len(TEN) == 10
    for words in TEN:
        if words[0] != "doctor":
            assert cli.main([*words, *ALSO.get(words[0], [])]) == 0, f"{words}\n{capsys.readouterr().err}"
    assert (folder / "report.html").is_file() and (folder / "merged/config.json").is_file()

import errno
import json
import os

import pytest

import paddle_xc2
from paddle_xc2 import cli
from paddle_xc2.commands import configs
from tests.conftest import ROOT


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of argument files, as shipped."""
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "sft.json").write_text(json.dumps({"model_name_or_path": "a/b", "bf16": True}))
    (folder / "lora.json").write_text(json.dumps({"model_name_or_path": "a/c", "lora": True, "fp16": True}))
    qlora = {"model_name_or_path": "a/d", "lora": True, "quantization": "nf4"}
    (folder / "qlora.json").write_text(json.dumps(qlora))
    (folder / "stage.json").write_text(json.dumps({"model_name_or_path": "a/e", "freeze_include": ["model.*"]}))
    monkeypatch.setattr(configs, "config_directory", lambda: folder)
    return folder


def test_list(shipped, capsys):
    assert cli.main(["configs"]) == 0
    assert capsys.readouterr().out == (
        "lora   LoRA, fp16, a/c\nqlora  QLoRA, float32, a/d\nsft    full fine-tuning, bf16, a/b\n"
        "stage  parts of the model, float32, a/e\n"
    )


@pytest.mark.parametrize("name", ["sft", "sft.json"])
def test_copy(shipped, tmp_path, capsys, name):
    assert cli.main(["configs", "--copy", name, str(tmp_path / "mine/here")]) == 0
    copy = tmp_path / "mine/here/sft.json"
    assert copy.read_text() == (shipped / "sft.json").read_text()
    printed = capsys.readouterr()
    assert printed.out == f"paddle-xc2 finetune {copy}\n"
    assert f"set model_name_or_path, dataset and output_dir in {copy}, then" in printed.err


@pytest.mark.parametrize(
    "name, message",
    [
        ("stf", 'there is no argument file "stf"; did you mean "sft"?'),
        ("q", 'no argument file "q"; there are: lora, qlora, sft, stage'),
    ],
)
def test_unknown_name(shipped, tmp_path, capsys, name, message):
    assert cli.main(["configs", "--copy", name, str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_copy_to_the_home(shipped, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["configs", "--copy", "sft", "~/mine"]) == 0
    assert capsys.readouterr().out == f"paddle-xc2 finetune {tmp_path / 'mine' / 'sft.json'}\n"


def test_copy_overwrites_nothing(shipped, tmp_path, capsys):
    (tmp_path / "sft.json").write_text("mine")
    assert cli.main(["configs", "--copy", "sft", str(tmp_path)]) == 2
    assert "sft.json exists; remove it, or copy into another folder" in capsys.readouterr().err
    assert (tmp_path / "sft.json").read_text() == "mine"
    assert cli.main(["configs", "--copy", "sft", str(tmp_path / "sft.json")]) == 2
    assert "sft.json is a file; --copy takes the folder to copy into" in capsys.readouterr().err


def test_copy_onto_a_full_disk(shipped, tmp_path, capsys, monkeypatch):
    def copy_half(source, target):
        target.write_text("{")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    monkeypatch.setattr(configs.shutil, "copyfile", copy_half)
    assert cli.main(["configs", "--copy", "sft", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"paddle-xc2 configs: {tmp_path}/sft.json: No space left on device; make room there")
    assert not (tmp_path / "sft.json").exists()


def test_directory_in_a_checkout_and_in_an_installation(tmp_path, monkeypatch):
    assert configs.config_directory() == ROOT / "config"
    package = tmp_path / "site-packages/paddle_xc2"
    monkeypatch.setattr(paddle_xc2, "__file__", str(package / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="the argument files are missing; install paddle_xc2 again"):
        configs.config_directory()
    (package / "config").mkdir(parents=True)
    assert configs.config_directory() == package / "config"


@pytest.mark.parametrize("name", ["sft_tiny", "sft_tiny.json"])
def test_an_argument_file_is_shown(capsys, name):
    assert cli.main(["configs", "--show", name]) == 0
    assert json.loads(capsys.readouterr().out)["output_dir"]


def test_showing_what_is_not_there(capsys):
    assert cli.main(["configs", "--show", "sft_tinny"]) == 2
    assert 'there is no argument file "sft_tinny"; did you mean "sft_tiny"?' in capsys.readouterr().err

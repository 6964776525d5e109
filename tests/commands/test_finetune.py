import json

import pytest

from paddle_xc2.cli import main
from paddle_xc2.training import finetune as training


def test_words_after_the_config_are_overrides(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(training, "finetune", lambda config, overrides, plan: seen.append((config, overrides)) or 0)
    (tmp_path / "train.json").write_text("[]")
    config = tmp_path / "sft.json"
    config.write_text('{"output_dir": "out", "data_path": "train.json"}')
    assert main(["finetune", str(config), "--learning_rate", "1e-4", "--hd-num", "-1", "--recompute"]) == 0
    assert seen == [(str(config), ["--learning_rate", "1e-4", "--hd_num", "-1", "--recompute"])]


def test_help_tells_every_key(capsys):
    try:
        main(["finetune", "--help"])
    except SystemExit as end:
        assert end.code == 0
    told = capsys.readouterr().out
    assert (
        "paddle-xc2 finetune CONFIG.json [--plan] [--key value ...]" in told
        and "example:\n  paddle-xc2 finetune config/" in told
    )
    assert "learning_rate = null: highest learning rate, per step;" in told


def test_missing_data_is_told_before_anything_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(training, "finetune", lambda *arguments: 0)
    config = tmp_path / "sft.json"
    config.write_text('{"output_dir": "out", "dataset": {"train": [{"data_files": ["a.json", "b.json"]}]}}')
    assert main(["finetune", str(config)]) == 2
    assert "data files of dataset.train are missing: a.json, b.json" in capsys.readouterr().err


def test_missing_files_are_told_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset = {"train": [{"data_files": "path/to/train.json"}], "eval": [{"data_files": "path/to/eval.json"}]}
    keys = {"model_name_or_path": "./no", "output_dir": "out", "dataset": dataset, "evaluation_strategy": "epoch"}
    (tmp_path / "sft.json").write_text(json.dumps(keys))
    assert main(["finetune", "sft.json"]) == 2
    model, train, evaluation = capsys.readouterr().err.splitlines()
    assert "sft.json: model_name_or_path ./no: there is no such directory, nor a released model" in model
    assert (
        train == f"sft.json: data files of dataset.train are missing: path/to/train.json (looked for from {tmp_path})"
    )
    assert 'to train without evaluation, set "evaluation_strategy": "no" (--evaluation_strategy no)' in evaluation
    assert main(["finetune", "sft.json", "--evaluation_strategy", "no", "--data_path", "mine.json"]) == 2
    told = capsys.readouterr().err
    assert "data files of data_path are missing: mine.json" in told and "eval" not in told


def test_only_the_argument_file_has_to_be_given(capsys):
    with pytest.raises(SystemExit):
        main(["finetune"])
    assert capsys.readouterr().err.endswith("the following arguments are required: CONFIG.json\n")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("config/sft_tiny.json", "paddle-xc2 configs --copy sft_tiny . brings it here"),
        ("sft_tiny", "paddle-xc2 configs --copy sft_tiny . brings it here"),
        ("mine.json", "paddle-xc2 configs lists some to copy"),
    ],
)
def test_where_argument_files_come_from_is_said(tmp_path, monkeypatch, capsys, name, hint):
    monkeypatch.chdir(tmp_path)
    assert main(["finetune", name]) == 2
    assert capsys.readouterr().err == f"paddle-xc2 finetune: {name}: there is no such file; {hint}\n"

"""What commands print, whatever the terminal's encoding, and whatever stands in data, configs and file names."""

import io
import json
import sys

import pytest

from paddle_xc2 import cli

# A window's title, a cleared screen, a bidirectional override; and letters that few encodings have.
HOSTILE = "\x1b]0;mine\x07\x1b[2J\u202e好😀"


@pytest.fixture(params=["ascii", "gbk", "utf-8"])
def printed(request, monkeypatch):
    """Runs a command whose output has the encoding. Returns: its exit status and all that it printed."""

    def run(*argv):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=request.param) for _ in range(2)]
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            monkeypatch.setattr(sys, name, stream)
        status = cli.main(list(map(str, argv)))
        for stream in streams:
            stream.flush()
        text = "".join(stream.buffer.getvalue().decode(request.param) for stream in streams)
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
        assert len(text) < 20_000
        return status, text

    return run


@pytest.fixture
def hostile(tmp_path):
    """A data file whose records, keys and values hold all that, and 100 KB."""
    turns = [{"from": "user", "value": f"a {HOSTILE}"}, {"from": "assistant", "value": f"b {HOSTILE}"}]
    about_a_picture = [{**turns[0], "value": "<ImageHere>a"}, turns[1]]
    records = [
        {"id": HOSTILE, "conversations": turns},
        {"conversations": [{"from": HOSTILE, "value": "a" * 100_000}]},
        {"image": [f"{HOSTILE}{'x' * 100_000}.png"], "conversations": about_a_picture},
        {HOSTILE: 1, "text": "a" * 100_000},
    ]
    path = tmp_path / f"{HOSTILE}.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_check_data(printed, hostile):
    status, text = printed("check-data", hostile)
    assert status == 1 and "4 records: 1 can be trained on, 3 can't" in text


def test_convert_data(printed, hostile, tmp_path):
    status, text = printed("convert-data", hostile, tmp_path / "out.json", "--to", "llava")
    assert status == 2 and "3 of 4 records can't be written as llava" in text


def test_finetune_arguments(printed, hostile, tmp_path):
    path = tmp_path / "sft.json"
    values = {HOSTILE: "a" * 100_000, "lora_rank": HOSTILE, "dataset": {HOSTILE: []}, "output_dir": ["a" * 100_000]}
    path.write_text(json.dumps(values))
    status, text = printed("finetune", path, f"--{HOSTILE}", HOSTILE)
    assert status == 2 and "unknown argument" in text and '"lora_rank" is "' in text


@pytest.mark.parametrize("command", [("configs", "--show"), ("finetune",), ("chat", "--from_pretrained")])
def test_names(printed, command):
    status, text = printed(*command, HOSTILE + "a" * 3000)
    assert status == 2 and f"paddle-xc2 {command[0]}: " in text

"""A command opens each JSON file of a model's and of an adapter's directory once, whatever it asks of it."""

import builtins
import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.cli import main
from paddle_xc2.training.finetune import finetune
from tests.tiny import tiny_checkpoint

LORA = {"lora": True, "lora_rank": 2, "lora_alpha": 4}
CONVERTED = {"config.json", "clip_vision_config.json", "model.safetensors.index.json"}
BASE = CONVERTED | {"tokenizer_config.json", "generation_config.json"}
# These come along with a model that is written: copied as they are, with all other files that no one has to understand.
COPIED = {"clip_vision_config.json", "tokenizer_config.json", "generation_config.json"}
ADAPTER = {"adapter_config.json", "paddle_xc2_adapter.json", "paddle_xc2_manifest.json"}
ADAPTERS_TOKENIZER = {"tokenizer_config.json", "special_tokens_map.json"}


@pytest.fixture
def opened(monkeypatch):
    """{directory: how often each of its JSON files was opened for reading} of what the test watches."""
    watched: dict[Path, Counter] = {}

    def note(path, mode):
        if isinstance(path, (str, os.PathLike)) and str(path).endswith(".json") and "w" not in mode:
            resolved = Path(path).resolve()
            for directory, counts in watched.items():
                if resolved.is_relative_to(directory):
                    counts[resolved.relative_to(directory).as_posix()] += 1

    def hook(owner, name, mode_of):
        real = getattr(owner, name)

        def watching(path, *args, **kwargs):
            note(path, mode_of(*args, **kwargs))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(owner, name, watching)

    for owner in (builtins, io):
        hook(owner, "open", lambda mode="r", *_, **__: mode)
    hook(os, "open", lambda flags, *_, **__: "w" if flags & (os.O_WRONLY | os.O_RDWR) else "r")
    return watched


@pytest.fixture
def place(tmp_path):
    """A folder with base/, a model with every file that is read beside the weights, and records to train on."""
    base = tiny_checkpoint(tmp_path / "base", num_unused=4)
    (base / "generation_config.json").write_text('{"do_sample": true}')
    (base / "tokenizer_config.json").write_text('{"padding_side": "left"}')
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    records = [
        {
            "image": "grey.png",
            "conversations": [{"from": "user", "value": "What?"}, {"from": "assistant", "value": "7"}],
        }
    ]
    (tmp_path / "train.json").write_text(json.dumps(4 * records))
    return tmp_path


def train(place, name, **settings):
    arguments = {
        "model_name_or_path": str(place / "base"),
        "data_path": str(place / "train.json"),
        "output_dir": str(place / name),
        "max_steps": 2,
        "save_steps": 1,
        "per_device_train_batch_size": 2,
        "max_length": 128,
        **settings,
    }
    (place / "arguments.json").write_text(json.dumps(arguments))
    assert finetune(place / "arguments.json") == 0
    return place / name


def assert_once(counts: Counter, read: set[str], num_copies: int = 0) -> None:
    """read: files that the command looks into. num_copies: models that it writes."""
    assert counts == Counter(read) + Counter({name: num_copies for name in COPIED})


def test_finetune(place, opened):
    opened[place / "base"] = Counter()
    train(place, "whole")
    assert_once(opened[place / "base"], BASE, num_copies=2)  # a checkpoint and the model


def test_finetune_an_adapter(place, opened):
    opened[place / "base"] = Counter()
    first = train(place, "first", **LORA, new_tokens=["<defect>"])
    assert_once(opened[place / "base"], BASE)
    opened.update({place / "base": Counter(), first: Counter()})
    train(place, "second", **LORA, lora_path=str(first))
    assert_once(opened[place / "base"], BASE)
    assert_once(opened[first], ADAPTER | ADAPTERS_TOKENIZER)


def test_convert(place, opened):
    opened[place / "base"] = Counter()
    assert main(["convert", str(place / "base"), str(place / "converted")]) == 0
    assert_once(opened[place / "base"], CONVERTED, num_copies=1)


def test_chat_and_merge(place, opened):
    base, adapter = place / "base", train(place, "adapter", **LORA, new_tokens=["<defect>"])
    opened.update({base: Counter(), adapter: Counter()})
    assert main(["chat", "--from_pretrained", str(adapter), "--text", "Which?", "--max_new_tokens", "2"]) == 0
    assert_once(opened[adapter], ADAPTER | ADAPTERS_TOKENIZER)
    assert_once(opened[base], BASE - {"tokenizer_config.json"})
    opened.update({base: Counter(), adapter: Counter()})
    assert main(["merge", "--lora_path", str(adapter), "--output_path", str(place / "merged")]) == 0
    assert_once(opened[adapter], ADAPTER | ADAPTERS_TOKENIZER)
    assert_once(opened[base], CONVERTED | {"generation_config.json"}, num_copies=1)  # the latter to compare answers

"""Argument files of a few keys, and what is said of wrong ones."""

import json

import pytest

from paddle_xc2.training.arguments import load_arguments


@pytest.fixture
def load(tmp_path):
    """Loads an argument file of the given keys, beside what a run needs."""

    def load_keys(values=(), overrides=()):
        path = tmp_path / "sft.json"
        path.write_text(json.dumps({"output_dir": "out", "data_path": "train.json", **dict(values)}))
        return load_arguments(path, list(overrides))

    return load_keys


@pytest.fixture
def message(load):
    """What is said of keys or words that are wrong."""

    def message_of(values=(), overrides=()):
        with pytest.raises(ValueError) as caught:
            load(values, overrides)
        return str(caught.value)

    return message_of

"""What a directory says of the model in it."""

import json
import os

import pytest

from paddle_xc2.hub.directory import ModelDirectory, open_model
from paddle_xc2.text.tokenizer import XComposer2Tokenizer


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_sizes_of_the_vit_may_stand_beside_it(tmp_path):
    write(tmp_path / "config.json", {"img_size": 224})
    assert ModelDirectory(tmp_path).config() == {"img_size": 224}
    write(tmp_path / "clip_vision_config.json", {"hidden_size": 32})
    assert open_model(str(tmp_path)).config() == {"img_size": 224, "vision_config": {"hidden_size": 32}}
    write(tmp_path / "config.json", {"vision_config": {"hidden_size": 64}})
    assert ModelDirectory(tmp_path).config() == {"vision_config": {"hidden_size": 64}}


def test_a_directory_that_is_no_checkpoint(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError) as caught:
            ModelDirectory(directory).config()
        assert str(caught.value) == (
            f"{directory}: this is no checkpoint, it has no config.json; give the directory that holds config.json "
            "and the weights"
        )


def test_the_folder_of_a_run_that_has_not_ended(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x"):
        (tmp_path / name).mkdir()
    told = f"it holds a run that has not ended; give {tmp_path}/checkpoint-10, its newest state"
    with pytest.raises(FileNotFoundError, match=f"no config.json; {told}"):
        ModelDirectory(tmp_path).config()
    with pytest.raises(FileNotFoundError, match=f"there is no tokenizer.model; {told}"):
        XComposer2Tokenizer.from_pretrained(tmp_path)


def test_tensor_names_stand_in_the_index(tmp_path):
    assert ModelDirectory(tmp_path).tensor_names() == ()
    write(
        tmp_path / "model.safetensors.index.json", {"weight_map": {"a.weight": "1.safetensors", "b": "2.safetensors"}}
    )
    assert ModelDirectory(tmp_path).tensor_names() == ("a.weight", "b")
    write(tmp_path / "model.safetensors.index.json", {"weight_map": 3})
    assert ModelDirectory(tmp_path).tensor_names() == ()
    write(tmp_path / "model.safetensors.index.json", "{")
    with pytest.raises(ValueError, match="model.safetensors.index.json: invalid JSON at line 1"):
        ModelDirectory(tmp_path).tensor_names()


def test_what_belongs_to_a_model(tmp_path):
    def written(name, content="x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
        return ModelDirectory(tmp_path).identity()

    before = written("config.json")
    assert written("config.json", "y") != before and written("config.json") == before
    for name in ("model.safetensors", "projector/model.safetensors", "visual_encoder/config.json"):
        after = written(name)
        assert after != before and written(name, "y") != after
        before = ModelDirectory(tmp_path).identity()
    for name in ("README.md", "tokenizer_config.json", "out/config.json", "metrics.jsonl"):
        assert written(name) == before
    os.utime(tmp_path / "config.json", (1, 1))
    assert ModelDirectory(tmp_path).identity() == before

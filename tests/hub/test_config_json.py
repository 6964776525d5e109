"""Reading the config.json of a checkpoint."""

import json

import pytest

from paddle_xc2.hub.config_json import read_checkpoint_config, read_tensor_names
from paddle_xc2.text.tokenizer import XComposer2Tokenizer


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_sizes_of_the_vit_may_stand_beside_it(tmp_path):
    write(tmp_path / "config.json", {"img_size": 224})
    assert read_checkpoint_config(tmp_path) == {"img_size": 224}
    write(tmp_path / "clip_vision_config.json", {"hidden_size": 32})
    assert read_checkpoint_config(str(tmp_path)) == {"img_size": 224, "vision_config": {"hidden_size": 32}}
    write(tmp_path / "config.json", {"vision_config": {"hidden_size": 64}})
    assert read_checkpoint_config(tmp_path) == {"vision_config": {"hidden_size": 64}}


def test_a_directory_that_is_no_checkpoint(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError) as caught:
            read_checkpoint_config(directory)
        assert str(caught.value) == (
            f"{directory}: this is no checkpoint, it has no config.json; give the directory that holds config.json "
            "and the weights"
        )


def test_the_folder_of_a_run_that_has_not_ended(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x"):
        (tmp_path / name).mkdir()
    told = f"it holds a run that has not ended; give {tmp_path}/checkpoint-10, its newest state"
    with pytest.raises(FileNotFoundError, match=f"no config.json; {told}"):
        read_checkpoint_config(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"there is no tokenizer.model; {told}"):
        XComposer2Tokenizer.from_pretrained(tmp_path)


def test_tensor_names_stand_in_the_index(tmp_path):
    assert read_tensor_names(tmp_path) == ()
    write(
        tmp_path / "model.safetensors.index.json", {"weight_map": {"a.weight": "1.safetensors", "b": "2.safetensors"}}
    )
    assert read_tensor_names(tmp_path) == ("a.weight", "b")
    write(tmp_path / "model.safetensors.index.json", {"weight_map": 3})
    assert read_tensor_names(tmp_path) == ()
    write(tmp_path / "model.safetensors.index.json", "{")
    with pytest.raises(ValueError, match="model.safetensors.index.json: invalid JSON at line 1"):
        read_tensor_names(tmp_path)

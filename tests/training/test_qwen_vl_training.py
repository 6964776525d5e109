"""Fine-tuning of Qwen-VL: its argument files, what learns by its upstream's rules, and going on exactly."""

import json

import numpy as np
import pytest
from PIL import Image

from paddle_xc2 import load_model, load_processor
from paddle_xc2.models.lora import lora_layers
from paddle_xc2.training.arguments import load_arguments
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.learning.add_lora import target_layers
from paddle_xc2.training.learning.parts import set_trainable
from tests.conftest import ROOT
from tests.tiny import tiny_model, tiny_qwen_checkpoint

FILES = ("qwen_vl_full", "qwen_vl_lora", "qwen_vl_lora_base", "qwen_vl_qlora")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a tiny checkpoint, two pictures, and Qwen-VL's own records about them."""
    folder = tmp_path_factory.mktemp("qwen_vl")
    tiny_qwen_checkpoint(folder / "model")
    for name in ("red", "blue"):
        Image.new("RGB", (30, 20), name).save(folder / f"{name}.png")
    records = [
        ("Picture 1: <img>red.png</img>\nWhich colour?", "red"),
        ("你好", "Hello."),
        (
            "Picture 1: <img>red.png</img>\nPicture 2: <img>blue.png</img>\nWhere?",
            "<ref>it</ref><box>(1,2),(3,4)</box>",
        ),
        ("And here: <img>blue.png</img>", "blue"),
    ]
    records = [{"conversations": [{"from": "user", "value": q}, {"from": "assistant", "value": a}]} for q, a in records]
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def words(folder, out, **changes):
    """Overrides as a user gives them."""
    data = json.dumps({"train": [{"name": "data", "data_files": str(folder / "data.json")}]})
    given = {"model_name_or_path": folder / "model", "dataset": data, "output_dir": out, "learning_rate": 1e-3}
    given |= {"bf16": "false", "fp16": "false", "dataloader_num_workers": 0, "gradient_accumulation_steps": 1}
    given |= {"max_steps": 2, "save_strategy": "no", **changes}
    return [str(word) for key, value in given.items() for word in (f"--{key}", value)]


@pytest.mark.parametrize("name", FILES)
def test_a_file_runs_on_a_cpu_through_overrides(name, folder, tmp_path, capsys):
    assert finetune(ROOT / "config" / f"{name}.json", words(folder, tmp_path / "out")) == 0
    assert "qwen-vl, 42 pixels" in capsys.readouterr().out
    model, processor = load_model(tmp_path / "out"), load_processor(tmp_path / "out")
    assert processor.chat_layout == "as_trained"
    assert model.has_adapter == (name != "qwen_vl_full")
    if model.has_adapter:
        ends = {path.split(".", 3)[3] for path in lora_layers(model)}
        assert ends == {"attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2"}
        kept = {"model.tok_embeddings.weight", "output.weight"} if name == "qwen_vl_lora_base" else set()
        assert set(model.provenance.replaced) == kept


@pytest.mark.parametrize("name", FILES)
def test_settings_are_those_of_upstreams_scripts(name):
    arguments = load_arguments(ROOT / "config" / f"{name}.json")
    assert (arguments.learning_rate, arguments.weight_decay, arguments.adam_beta2) == (1e-5, 0.1, 0.95)
    assert (arguments.num_train_epochs, arguments.warmup_ratio, arguments.max_length) == (5, 0.01, 2048)
    assert arguments.lora == (name != "qwen_vl_full")
    if arguments.lora:
        assert (arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout) == (64, 16, 0.05)


def learning(model, **settings):
    set_trainable(model, **settings)
    return {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}


def test_fix_vit_leaves_the_resampler_and_not_its_fixed_table():
    """As finetune.py, which freezes the tower's last norm and projection too, and lets the fixed table learn."""
    model = tiny_model(xc2_family="qwen-vl")
    names = {name for name, _ in model.named_parameters()}
    pool = {name for name in names if name.startswith("vision_proj.attn_pool.")}
    vision = {name for name in names if name.startswith(("vit.", "vision_proj."))}
    fixed = {"vision_proj.attn_pool.pos_embed"}
    assert learning(model, fix_vit=True) == names - vision | pool - fixed
    assert learning(model) == names - fixed
    assert learning(model, fix_vit=True, fix_sampler=True) == names - vision
    assert learning(model, freeze_exclude=["*.pos_embed"]) == names


def test_lora_targets_by_name():
    model = tiny_model(xc2_family="qwen-vl")
    layers = [f"model.layers.{index}" for index in range(2)]
    assert target_layers(model, ["c_attn"]) == [f"{layer}.attn.c_attn" for layer in layers]
    assert target_layers(model, ["attn.c_proj", "w1"]) == [
        f"{layer}.{end}" for layer in layers for end in ("attn.c_proj", "mlp.w1")
    ]
    default = target_layers(model, ["language_model"])
    assert target_layers(model, ["c_attn", "attn.c_proj", "w1", "w2"]) == default and len(default) == 8
    assert len(target_layers(model, ["vit", "projector"])) == 2 * 4 + 3


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("name", ["qwen_vl_full", "qwen_vl_lora"])
def test_going_on_is_exact(name, packing, folder, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "mixtoken": str(packing).lower()}
    file = ROOT / "config" / f"{name}.json"
    assert finetune(file, words(folder, tmp_path / "whole", **settings)) == 0
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert finetune(file, words(folder, tmp_path / "again", **settings, resume_from_checkpoint=checkpoint)) == 0
    whole, again = load_model(tmp_path / "whole"), load_model(tmp_path / "again")
    for (one, parameter), (_, same) in zip(whole.named_parameters(), again.named_parameters(), strict=True):
        np.testing.assert_array_equal(parameter.numpy(), same.numpy(), err_msg=one)

"""LoRA in a run: what is wrapped, what learns, what is saved, and that going on is exact."""

import json

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_xc2 import XComposer2ForCausalLM
from paddle_xc2.models.lora import is_lora, lora_layers, named_parameters
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.learning.add_lora import add_lora, check_continues, target_layers
from paddle_xc2.training.learning.parts import choose_trainable
from tests.tiny import tiny_checkpoint, tiny_model

LORA = {"lora": True, "lora_rank": 4, "lora_alpha": 8, "save_strategy": "steps", "save_steps": 2}


def tensors(directory):
    return load_file(directory / "adapter_model.safetensors")


def test_defaults_are_upstreams():
    arguments = FinetuneArguments(lora=True)
    assert (arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout) == (64, 64, 0.05)
    assert arguments.learning_rate == 5e-5 and arguments.fix_vit and arguments.fix_sampler
    whole = FinetuneArguments()
    assert whole.learning_rate == 1e-5 and not whole.fix_vit and not whole.fix_sampler
    model = tiny_model()
    add_lora(model, arguments)
    layers = lora_layers(model)
    assert len(layers) == 10 and all(layer.scaling == 1.0 and layer.rank == 64 for layer in layers.values())
    counts = choose_trainable(model, arguments)
    learning = {name for name, parameter in named_parameters(model).items() if not parameter.stop_gradient}
    assert learning and all(is_lora(name) for name in learning) and model.provenance.replaced == {}
    assert counts["LoRA"][0] == counts["LoRA"][1] and not any(counts[part][0] for part in counts if part != "LoRA")


@pytest.mark.parametrize(
    ("targets", "count", "first"),
    [
        (["language_model"], 10, "model.layers.0.attention.wqkv.linear"),
        (["attention.wqkv", "feed_forward.w1"], 4, "model.layers.0.attention.wqkv.linear"),
        ([r".*wqkv.*"], 2, "model.layers.0.attention.wqkv.linear"),  # upstream's trap: it matches PLoRA's matrices too
        ([r".*wqkv\.linear"], 2, "model.layers.0.attention.wqkv.linear"),
        (["vit"], 12, "vit.layers.0.self_attn.q_proj"),
        (["self_attn.q_proj"], 2, "vit.layers.0.self_attn.q_proj"),
        (["vit.vision_tower.vision_model.encoder.layers.1.mlp.fc1"], 1, "vit.layers.1.mlp.fc1"),
        (["projector", "output"], 3, "output"),
    ],
)
def test_targets(targets, count, first):
    found = target_layers(tiny_model(), targets)
    assert (len(found), found[0]) == (count, first)
    assert not any("plora" in path for path in found)


def test_a_preset_leaves_out_layers_that_never_run():
    """LLaVA's last vision layer: LoRA there would be saved and never learn; who names it gets it."""
    model = tiny_model(xc2_family="llava-internlm2", img_size=56)
    parts = [*(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2"]
    first, last = ({f"vit.layers.{index}.{part}" for part in parts} for index in range(2))
    assert set(target_layers(model, ["vit"])) == first
    assert set(target_layers(model, [r"vit\..*"])) == first | last
    assert target_layers(model, ["layers.1.mlp.fc2"]) == ["vit.layers.1.mlp.fc2"]
    assert set(target_layers(model, ["vit", "layers.1.mlp.fc2"])) == first | {"vit.layers.1.mlp.fc2"}
    add_lora(model, FinetuneArguments(lora=True, lora_rank=4, lora_target_modules=["vit"]))
    model.vit(paddle.randn([1, 3, 56, 56])).sum().backward()
    new = [parameter for name, parameter in named_parameters(model).items() if is_lora(name)]
    assert len(new) == 12 and all(parameter.grad is not None for parameter in new)


def test_a_target_that_names_nothing_lists_candidates():
    with pytest.raises(ValueError) as caught:
        target_layers(tiny_model(), ["q_proj", "c_attn"])
    text = str(caught.value)
    assert text.startswith(
        'lora_target_modules: "c_attn" names no linear layer; it may be language_model, vit, projector'
    )
    assert "model.layers.*.attention.wqkv" in text and "vision_proj.0" in text and "Plora" not in text
    with pytest.raises(ValueError, match=r'lora_target_modules: "\(" is no regular expression'):
        target_layers(tiny_model(), ["("])


def test_a_layer_does_not_learn_whole_and_by_lora_at_once():
    arguments = FinetuneArguments(lora=True, fix_vit=False, lora_target_modules=["vit"])
    model = tiny_model()
    add_lora(model, arguments)
    with pytest.raises(
        ValueError, match='would learn whole and by LoRA at once; set "fix_vit": true, or leave the ViT'
    ):
        choose_trainable(model, arguments)
    arguments = FinetuneArguments(lora=True, freeze_exclude=["model.layers.0.attention.wo.linear.weight"])
    model = tiny_model()
    add_lora(model, arguments)
    with pytest.raises(ValueError, match=r'take "model.layers.0.attention.wo.linear.\*" out of freeze_exclude'):
        choose_trainable(model, arguments)
    with pytest.raises(ValueError, match="has an adapter already; go on training it with lora_path, or merge it first"):
        add_lora(model, arguments)


@pytest.mark.parametrize(
    ("key", "family"), [("train_plora", "llava-internlm2"), ("train_separators", "xcomposer2-vl-7b")]
)
def test_a_part_that_the_family_does_not_have(key, family):
    model = tiny_model(xc2_family=family, **({"img_size": 56} if family.startswith("llava") else {}))
    arguments = FinetuneArguments(lora=True, **{key: True})
    add_lora(model, arguments)
    with pytest.raises(ValueError, match=f'"{key}" is true, but {family} has none; leave it out'):
        choose_trainable(model, arguments)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lora": True, "vit_lr": 1e-5}, '"vit_lr" is 1e-05, but nothing of the ViT learns; set "fix_vit": false, or'),
        ({"lora": True, "mm_projector_lr": 1e-5}, 'of the projector learns; set "fix_sampler": false, or leave mm_pro'),
        ({"lora": True, "plora_lr": 1e-5}, 'nothing of the PLoRA learns; set "train_plora": true, or leave plora_lr'),
        ({"separators_lr": 1e-5}, "nothing of the separators learns; leave separators_lr out"),
        (
            {"freeze_include": ["*tok_embeddings*", "output*"], "embeddings_lr": 1e-5},
            "nothing of the embeddings learns",
        ),
    ],
)
def test_learning_rate_of_what_does_not_learn(values, said):
    arguments, model = FinetuneArguments(**values), tiny_model()
    if arguments.lora:
        add_lora(model, arguments)
    with pytest.raises(ValueError) as caught:
        choose_trainable(model, arguments)
    assert said in str(caught.value)


def test_learning_rate_of_updates_and_of_rows_by_need():
    arguments = FinetuneArguments(lora=True, lora_target_modules=["vit"], vit_lr=1e-5, embeddings_lr=1e-5)
    model = tiny_model()
    add_lora(model, arguments)
    choose_trainable(model, arguments)
    assert named_parameters(model)["vit.layers.0.mlp.fc1.lora_a"].optimize_attr["learning_rate"] == pytest.approx(0.2)


def test_rank_of_vision_layers_that_are_not_wrapped():
    with pytest.raises(ValueError, match='"vit_lora_rank" is set, but lora_target_modules names no layer of the vis'):
        add_lora(tiny_model(), FinetuneArguments(lora=True, vit_lora_rank=2))


def test_learning_rates_of_the_parts():
    arguments = FinetuneArguments(
        **{"lora": True, "learning_rate": 1e-3, "fix_vit": False, "fix_sampler": False, "train_plora": True},
        **{"vit_lr": 1e-4, "mm_projector_lr": 2e-3, "plora_lr": 0.0, "lora_plus_scale": 16.0},
    )
    model = tiny_model()
    add_lora(model, arguments)
    choose_trainable(model, arguments)
    factors = {name: p.optimize_attr["learning_rate"] for name, p in named_parameters(model).items()}
    wqkv = "model.layers.0.attention.wqkv"
    assert factors[f"{wqkv}.linear.lora_a"] == 1.0 and factors[f"{wqkv}.linear.lora_b"] == 16.0
    assert factors["vit.class_embedding"] == pytest.approx(0.1) and factors["vision_proj.0.bias"] == 2.0
    assert factors[f"{wqkv}.plora_a.weight"] == 0.0
    # One step of AdamW moves a weight by its own learning rate, and decays it by that.
    learning = [p for p in model.parameters() if not p.stop_gradient]
    before = {name: parameter.numpy() for name, parameter in named_parameters(model).items()}
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=learning, weight_decay=0.0)
    for parameter in learning:
        (parameter * 1000.0).sum().backward()
    optimizer.step()
    after = named_parameters(model)
    moved = {name: np.abs(after[name].numpy() - before[name]).max() for name in factors}
    assert moved[f"{wqkv}.linear.lora_b"] == pytest.approx(16e-3, rel=1e-3)
    assert moved["vit.class_embedding"] == pytest.approx(1e-4, rel=1e-2)
    assert moved[f"{wqkv}.plora_a.weight"] == 0.0 and moved["output.weight"] == 0.0


def test_a_run_saves_an_adapter_that_is_the_model(config, workspace, tmp_path, metrics, capsys):
    """Everything that learned is in it: LoRA, ViT, projector, PLoRA; and the base is untouched."""
    path = config(**LORA, fix_vit=False, fix_sampler=False, train_plora=True, max_steps=3, vit_lr=1e-4)
    assert finetune(path) == 0
    told = capsys.readouterr().out
    assert "LoRA of rank 4, alpha 8 (scaled by alpha / rank), dropout 0.05, on language_model" in told
    assert "from learning rate 0.001 (ViT 0.0001)" in told and "PEFT does not read them" in told
    out = tmp_path / "out"
    settings = json.loads((out / "adapter_config.json").read_text())
    assert settings["target_modules"] == [
        *("attention.wo", "attention.wqkv", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
    ]
    assert (settings["r"], settings["lora_alpha"], settings["modules_to_save"]) == (4, 8, ["vision_proj", "vit"])
    names = set(tensors(out))
    assert len([name for name in names if ".lora_" in name]) == 20
    assert "base_model.model.model.layers.0.attention.wqkv.Plora_A.weight" in names
    assert "base_model.model.vision_proj.2.bias" in names and not (out / "config.json").exists()
    assert not any("attention.wqkv.weight" in name or "tok_embeddings" in name for name in names)
    base = XComposer2ForCausalLM.from_pretrained(workspace / "model")
    before = {name: parameter.numpy() for name, parameter in base.named_parameters()}
    report = base.load_adapter(out)
    assert report.num_updates == 10 and report.change_norm > 0
    after = named_parameters(base)
    changed = {name for name in before if np.abs(after[name].numpy() - before[name]).max() > 0}
    assert changed <= set(base.provenance.replaced)
    assert {name.split(".")[0] for name in changed} == {"vit", "vision_proj", "model"}
    assert all("plora" in name for name in changed if name.startswith("model."))


@pytest.mark.parametrize(
    "extra", [{}, {"use_dora": True, "rslora": True, "fix_sampler": False, "lora_plus_scale": 4.0}]
)
def test_going_on_is_exact(config, tmp_path, extra):
    """4 steps, and 2 steps and then 2 more from the checkpoint, which holds the adapter and not the base."""
    assert finetune(config(**LORA, **extra, output_dir=str(tmp_path / "whole"))) == 0
    parts = config(**LORA, **extra, output_dir=str(tmp_path / "parts"), save_total_limit=2)
    assert finetune(parts) == 0
    checkpoint = tmp_path / "parts" / "checkpoint-2"
    assert not list(checkpoint.glob("model*.safetensors")) and (checkpoint / "adapter_model.safetensors").is_file()
    arguments = ["--resume_from_checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "again")]
    assert finetune(parts, arguments) == 0
    want, got = tensors(tmp_path / "whole"), tensors(tmp_path / "again")
    assert want.keys() == got.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    middle = tensors(checkpoint)
    assert any(np.abs(middle[name] - want[name]).max() > 0 for name in want)


def test_a_checkpoint_of_other_lora_is_not_gone_on_from(config, tmp_path):
    assert finetune(config(**LORA, max_steps=2)) == 0
    for changes, message in (
        ({"lora_rank": 8}, "lora_rank was 4 and is 8"),
        ({"lora": False}, "lora was True and is None"),
    ):
        other = config(**{**LORA, **changes}, max_steps=4)
        with pytest.raises(ValueError, match=message):
            finetune(other, ["--resume_from_checkpoint", "auto", "--max_steps", "2"])


def test_training_goes_on_with_an_adapter(config, tmp_path):
    """lora_path: another run on the same base starts from what the first one learned."""
    assert finetune(config(**LORA, fix_sampler=False)) == 0
    first = tensors(tmp_path / "out")
    again = config(
        **LORA, lora_path=str(tmp_path / "out"), max_steps=1, learning_rate=0.0, output_dir=str(tmp_path / "2")
    )
    assert finetune(again) == 0
    second = tensors(tmp_path / "2")
    assert second.keys() == first.keys()
    for name in first:
        np.testing.assert_array_equal(second[name], first[name])


def test_a_run_goes_on_with_its_own_base_only(config, tmp_path):
    tiny_checkpoint(tmp_path / "other", seed=1)
    assert finetune(config(**LORA)) == 0
    for keys, told in (
        ({"lora_path": "out"}, "was trained on another model than .*give the right one as model_name_or"),
        ({"resume_from_checkpoint": "out/checkpoint-4"}, "can't go on .*: files of the base model was .* and is "),
    ):
        paths = {name: str(tmp_path / path) for name, path in {**keys, "output_dir": "2"}.items()}
        with pytest.raises(ValueError, match=told):
            finetune(config(**LORA, model_name_or_path=str(tmp_path / "other"), **paths))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora_target_modules": ["vit"]}, '"lora_target_modules" names 12 layers like vit.layers.0.mlp.fc1 without'),
        ({"lora_target_modules": ["attention.wqkv"]}, "leaves out 8 layers like model.layers.0.attention.wo.linear"),
        ({"rslora": True}, '"rslora" is true, and its updates are scaled by alpha / rank; leave that out'),
        ({"use_dora": True}, '"use_dora" is true, and it is LoRA'),
        ({"vit_lora_rank": 4}, '"vit_lora_rank" is 4, and it has another, or none'),
        ({"vit_lora_alpha": 4}, '"vit_lora_alpha" is 4, and it has another, or none'),
    ],
)
def test_what_an_adapter_to_go_on_with_decides(changes, said):
    arguments, model = FinetuneArguments(lora=True), tiny_model()
    add_lora(model, arguments)
    check_continues(model, "first", FinetuneArguments(lora=True, lora_target_modules=["language_model"]))
    with pytest.raises(ValueError) as caught:
        check_continues(model, "first", FinetuneArguments(lora=True, **changes))
    assert str(caught.value).startswith("lora_path first goes on as it is, but ") and said in str(caught.value)


def test_an_adapter_to_go_on_with_is_as_asked():
    settings = {"lora": True, "use_dora": True, "rslora": True, "vit_lora_rank": 2, "vit_lora_alpha": 3}
    arguments = FinetuneArguments(**settings, lora_target_modules=["vit", "output"])
    model = tiny_model()
    add_lora(model, arguments)
    check_continues(model, "first", arguments)


def test_an_adapter_is_not_trained_whole(config, tmp_path):
    assert finetune(config(**LORA, max_steps=1)) == 0
    for keys, told in (
        ({}, "is an adapter, which can't be trained whole; merge it first"),
        (LORA, "out has an adapter already; go on training it with lora_path"),
        ({**LORA, "lora_path": str(tmp_path / "out")}, "out has an adapter already; go on training it with lora_path"),
    ):
        path = config(**keys, model_name_or_path=str(tmp_path / "out"), output_dir=str(tmp_path / "2"))
        for plan_only in (True, False):
            with pytest.raises(ValueError, match=told):
                finetune(path, plan_only=plan_only)


def test_a_finished_adapter_is_evaluated_and_not_overwritten(config, tmp_path, metrics):
    assert finetune(config(**{**LORA, "save_strategy": "no"}, max_steps=1)) == 0
    with pytest.raises(ValueError, match="holds a finished run without a checkpoint to go on from"):
        finetune(config(**{**LORA, "save_strategy": "no"}, max_steps=1))
    only = config(
        model_name_or_path=str(tmp_path / "out"), do_train=False, do_eval=True, output_dir=str(tmp_path / "2")
    )
    assert finetune(only) == 0

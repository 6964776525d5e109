import json
import subprocess
import sys

import numpy as np
import pytest

from paddle_xc2.files import durable
from paddle_xc2.model import XComposer2ForCausalLM
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.run_folder.checkpoints import check_whole

# Batches of 2 and of 1 against batches of 4, 5 seeds, float32 on one CPU thread: losses differed by at most 9.5e-7,
# gradient norms by 1.1e-6 of themselves, and where the weights ended by 1.4e-4 of the way they had gone (AdamW
# magnifies rounding where a gradient is almost zero). Two processes against one: losses 1e-6. Margin 4x for other CPUs.
LOSS_TOLERANCE = 4e-6
NORM_TOLERANCE = 5e-6
WAY_TOLERANCE = 6e-4


def weights(folder):
    model = XComposer2ForCausalLM.from_pretrained(folder)
    return {name: parameter.numpy() for name, parameter in model.named_parameters()}


def distance(first, second):
    return np.sqrt(sum(((first[name] - second[name]) ** 2).sum() for name in first))


def test_accumulation_equals_a_larger_batch(train, plain_model):
    """Samples of 0 to 2 images and unequal lengths: a mean over batches instead of over tokens would show."""
    whole, whole_folder = train(
        model_name_or_path=str(plain_model), per_device_train_batch_size=4, gradient_accumulation_steps=1
    )
    start, end = weights(plain_model), weights(whole_folder)
    for size, accumulated in ((2, 2), (1, 4)):
        entries, folder = train(
            model_name_or_path=str(plain_model),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
        )
        for entry, expected in zip(entries, whole, strict=True):
            assert entry["loss"] == pytest.approx(expected["loss"], abs=LOSS_TOLERANCE)
            assert entry["grad_norm"] == pytest.approx(expected["grad_norm"], rel=NORM_TOLERANCE)
            assert entry["trained_tokens"] == expected["trained_tokens"]
        assert distance(weights(folder), end) < WAY_TOLERANCE * distance(start, end)


@pytest.mark.slow
def test_two_processes_equal_one(train, plain_model, config, tmp_path, metrics, root):
    """The last step of the epoch has one sample: the second process computes it without counting it."""
    keys = {"model_name_or_path": str(plain_model), "max_steps": 5, "do_eval": True, "eval_with_do_generation": True}
    expected, _ = train(**keys)
    path = config("two.json", **keys, output_dir=str(tmp_path / "two"), per_device_train_batch_size=1)
    launch = [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        "2",
        "--log_dir",
        str(tmp_path / "log"),
    ]
    script = root / "tools" / "supervised_finetune.py"
    done = subprocess.run([*launch, str(script), str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    for entry, wanted in zip(metrics(tmp_path / "two"), expected, strict=True):
        counts = {"step", "tokens", "trained_tokens", "image_tokens", "eval_tokens", "eval_answers"} & entry.keys()
        assert {name: entry[name] for name in counts} == {name: wanted[name] for name in counts}
        for name in {"loss", "eval_loss", "eval_rouge_l", "eval_anls"} & entry.keys():
            assert entry[name] == pytest.approx(wanted[name], abs=LOSS_TOLERANCE)


def test_workers_change_nothing(train):
    first, _ = train()
    second, _ = train(dataloader_num_workers=2)
    assert [entry["loss"] for entry in first] == [entry["loss"] for entry in second]


def test_recompute_changes_nothing(train):
    first, first_folder = train()
    second, second_folder = train(recompute=True, do_eval=True, eval_with_do_generation=True, max_new_tokens=2)
    assert second.pop()["eval_answers"] == 5
    assert [entry["loss"] for entry in first] == [entry["loss"] for entry in second]
    assert distance(weights(first_folder), weights(second_folder)) == 0
    assert not json.loads((second_folder / "config.json").read_text()).get("use_recompute")


def test_what_takes_no_part_in_a_step_is_not_moved(train, workspace, tmp_path):
    """Text-only samples: ViT and projector have no gradient, so weight decay must not move them either."""
    records = json.loads((workspace / "train.json").read_text())
    path = tmp_path / "text.json"
    path.write_text(json.dumps([record for record in records if not record["image"]]))
    _, folder = train(dataset={"train": [{"data_files": str(path)}]}, weight_decay=0.5)
    before, after = weights(workspace / "model"), weights(folder)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert not any(name.startswith(("vit.", "vision_proj.")) for name in moved)
    assert "model.layers.0.attention.wqkv.linear.weight" in moved


def test_frozen_parts_stay(train, workspace):
    _, folder = train(fix_vit=True, freeze_include=["output.*"])
    before, after = weights(workspace / "model"), weights(folder)
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(("vit.", "output."))}


def test_matrices_decay_and_vectors_do_not(train, workspace):
    """Where a large epsilon leaves nothing of AdamW's own step, what is left is the decay.

    A clipped gradient of 1e-3 moves a weight by 1e-6 at most, the decay by a hundredth of it.
    """
    still = {"learning_rate": 1e-3, "weight_decay": 10.0, "adam_epsilon": 1.0, "max_steps": 1, "warmup_ratio": 0.0}
    _, folder = train(**still, max_grad_norm=1e-3)
    before, after = weights(workspace / "model"), weights(folder)
    for name, value in before.items():
        shrunk = np.allclose(after[name], 0.99 * value, rtol=1e-3, atol=2e-6)
        kept = np.allclose(after[name], value, rtol=1e-6, atol=2e-6)
        assert shrunk if value.ndim > 1 else kept, name


def test_the_large_files_of_a_checkpoint_are_not_read_to_be_hashed(config, tmp_path, monkeypatch):
    sha256, read = durable.sha256, set()
    monkeypatch.setattr(durable, "sha256", lambda path, *others: read.add(path.suffix) or sha256(path, *others))
    assert finetune(config(save_strategy="steps", save_steps=2, max_steps=2)) == 0
    assert ".json" in read and ".safetensors" not in read
    check_whole(tmp_path / "out" / "checkpoint-2")
    assert ".safetensors" in read

"""Mixtures, packing and batches of limited size in whole runs."""

import json
import re

import numpy as np
import pytest

from paddle_xc2.cli import main
from paddle_xc2.data.batches import ItemLoader, TrainingSteps
from paddle_xc2.data.mixture import Mixture
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.data.records.conversations import load_conversations
from paddle_xc2.data.samples import fit_samples
from paddle_xc2.data.step_order import Layout, StepOrder
from paddle_xc2.model import XComposer2ForCausalLM
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.trainer import StepTrainer
from tests.conftest import ROOT
from tests.tiny import tiny_model

# One row of 13 samples against the samples one by one, float32 on one CPU thread, 5 seeds: losses differed by at most
# 4.5e-8 of themselves, gradients by 7e-7 of the largest. Margin 4x for other CPUs, and for a last digit of the loss.
LOSS_TOLERANCE = 3e-7
GRADIENT_TOLERANCE = 3e-6


def loss_and_gradients(model, samples, processor, **layout):
    """Of one step over all samples."""
    order = StepOrder(
        Mixture(samples.dataset_of, [len(samples)], 0), samples.lengths[:, 0], samples.has_image, Layout(**layout), 0
    )
    steps = TrainingSteps(samples, processor, order, batch_size=1)
    (item,) = ItemLoader(steps, range(order.end_of_epoch(0)), num_workers=0)
    model.clear_gradients()
    loss = 0.0
    for batch in item.batches:
        part = model(**batch, loss_denominator=item.num_trained_tokens).loss
        part.backward()
        loss += float(part)
    return loss, {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def test_packed_rows_train_as_their_samples_one_by_one(processor, samples):
    """PLoRA, images and unequal lengths; attention that crossed a sample's border would show."""
    model = tiny_model(plora_dropout=0.0)
    model.train()
    alone, expected = loss_and_gradients(model, samples, processor, rows_per_step=len(samples))
    for row_tokens in (100, 150, 600):
        loss, gradients = loss_and_gradients(model, samples, processor, rows_per_step=99, row_tokens=row_tokens)
        assert loss == pytest.approx(alone, rel=LOSS_TOLERANCE)
        largest = max(abs(gradient).max() for gradient in expected.values())
        for name, gradient in expected.items():
            # The largest of all is the yardstick: of a bias of keys, the exact gradient is zero.
            assert abs(gradients[name] - gradient).max() < GRADIENT_TOLERANCE * largest, name


def record(entries):
    measured = {"tokens_per_second", "peak_memory_gb", "eval_seconds"}
    return [{key: value for key, value in entry.items() if key not in measured} for entry in entries]


def weights(folder):
    model = XComposer2ForCausalLM.from_pretrained(folder)
    return {name: parameter.numpy() for name, parameter in model.named_parameters()}


@pytest.fixture
def mixed(workspace):
    """Two data sets, one drawn in part and one more than once, packed, in epochs of unequal length."""
    return {
        "dataset": {
            "train": [
                {"name": "most", "data_files": str(workspace / "train.json"), "num_samples": 9},
                {"name": "few", "data_files": str(workspace / "eval.json"), "ratio": 1.4},
            ]
        },
        "mixtoken": True,
        "max_tokens_per_batch": 130,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "max_steps": None,
        "num_train_epochs": 1.5,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": None,
    }


def test_stopped_at_any_step_and_gone_on_equals_uninterrupted(config, mixed, tmp_path, metrics, monkeypatch):
    """The same samples in the same order with workers, packing and a mixture; bit by bit the same weights."""
    step, seen = StepTrainer.training_step, []

    def stop_after(last):
        def training_step(trainer, model, inputs):
            if trainer.state.global_step == last:
                raise RuntimeError("the power fails")
            seen.append((trainer.state.global_step, inputs.sources))
            return step(trainer, model, inputs)

        return training_step

    monkeypatch.setattr(StepTrainer, "training_step", stop_after(None))
    assert finetune(config(**mixed)) == 0
    expected, uninterrupted = metrics(tmp_path / "out"), list(seen)
    assert [number for number, _ in seen] == list(range(len(expected))) and expected[-1]["epoch"] > 1.2
    seen.clear()
    path = config("again.json", **mixed, output_dir=str(tmp_path / "again"), dataloader_num_workers=2)
    for last in (1, len(expected) - 1):  # within the first epoch and the second
        monkeypatch.setattr(StepTrainer, "training_step", stop_after(last))
        with pytest.raises(RuntimeError, match="the power fails"):
            finetune(path)
    monkeypatch.setattr(StepTrainer, "training_step", stop_after(None))
    assert finetune(path) == 0
    assert seen == uninterrupted
    assert record(metrics(tmp_path / "again")) == record(expected)
    first, second = weights(tmp_path / "again"), weights(tmp_path / "out")
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_loss_of_each_data_set(config, workspace, mixed, tmp_path, metrics):
    """Weighted by their tokens they give the loss of the whole; entries of one name are one."""
    train = mixed["dataset"]["train"]
    train.append({"name": "few", "data_files": train[0]["data_files"], "num_samples": 2})
    keys = {"dataset": {"train": train}, "max_steps": 3, "mixtoken": True, "max_tokens_per_batch": 300}
    assert (
        finetune(config(**keys, logging_steps=3, learning_rate=1e-9, model_name_or_path=str(workspace / "model"))) == 0
    )
    (entry,) = metrics(tmp_path / "out")
    assert [name for name in entry if name.startswith("loss/")] == ["loss/most", "loss/few"]
    assert min(entry["loss/most"], entry["loss/few"]) < entry["loss"] < max(entry["loss/most"], entry["loss/few"])
    assert finetune(config(max_steps=1, output_dir=str(tmp_path / "one"))) == 0
    assert not [name for name in metrics(tmp_path / "one")[0] if name.startswith("loss/")]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("ResourceExhaustedError: Out of memory error on GPU 0."),
        RuntimeError("CUDA error: out of memory"),
        OSError("(External) CUDA error(2), out of memory."),
    ],
)
def test_too_little_memory_names_the_batch_and_what_to_do(config, monkeypatch, capsys, error):
    def forward(*_, **__):
        raise error

    monkeypatch.setattr(XComposer2ForCausalLM, "forward", forward)
    assert main(["finetune", str(config(per_device_train_batch_size=3))]) == 2
    told = capsys.readouterr().err
    assert re.search(r"step 1: the memory does not suffice for a batch of 3 x \d+ tokens and \d images \(", told)
    assert told.count("train.json[") == 3 and "set recompute to true, lower per_device_train_batch_size" in told
    assert "max_tokens_per_batch, max_length or hd_num" in told and str(error) in told and "Traceback" not in told


def test_other_errors_of_a_step_stay_as_they_are(config, monkeypatch):
    def forward(*_, **__):
        raise RuntimeError("a broken kernel")

    monkeypatch.setattr(XComposer2ForCausalLM, "forward", forward)
    with pytest.raises(RuntimeError, match="^a broken kernel$"):
        finetune(config())


def test_step_without_a_trained_token_stops_the_run(config, monkeypatch):
    step = StepTrainer.training_step

    def untrained(trainer, model, inputs):
        inputs.num_trained_tokens = 0
        return step(trainer, model, inputs)

    monkeypatch.setattr(StepTrainer, "training_step", untrained)
    with pytest.raises(
        ValueError, match=r"step 1 would train nothing: no token of its samples is trained \(.*train.json"
    ):
        finetune(config())


@pytest.mark.parametrize(
    "keys",
    [
        {"group_by_length": True},
        {"group_by_modality_length": True},
        {"max_tokens_per_batch": 150, "gradient_accumulation_steps": 1},
        {"mixture": "official"},
        {"mixtoken": True},
    ],
)
def test_ways_to_make_batches(config, tmp_path, metrics, keys):
    assert finetune(config(max_steps=None, evaluation_strategy="epoch", **keys)) == 0
    entries = metrics(tmp_path / "out")
    assert entries[-1]["epoch"] == 1.0 and "eval_loss" in entries[-1]
    samples = fit_samples(
        load_conversations(json.loads((tmp_path / "config.json").read_text())["dataset"]["train"][0]["data_files"]),
        XComposer2Processor.from_pretrained(tmp_path / "out"),
    )
    if "mixture" not in keys:
        assert sum(entry.get("tokens", 0) for entry in entries) == samples.lengths[:, 0].sum()


@pytest.mark.skipif(not (ROOT.parent / "shared" / "samples").is_dir(), reason="upstream's sample files are not there")
def test_upstreams_own_sample_list_trains_as_it_is(config, workspace, tmp_path, metrics, monkeypatch, capsys):
    """20, 10 and 10 samples, as its numbers say with given_num; its images are named from the folder it lies in."""
    monkeypatch.chdir(ROOT.parent / "shared" / "samples" / "xcomposer_finetune")
    keys = {"data_path": "data.txt", "given_num": True, "dataset": None, "mixtoken": True, "max_steps": 2}
    # The tiny vocabulary takes a token for almost every letter: of the longest samples, only the last turns fit.
    keys |= {"max_length": 1800, "truncation": "turns", "per_device_train_batch_size": 1, "learning_rate": 1e-5}
    assert finetune(config(**keys)) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "data set records asked drawn unique" in told
    for name, asked, unique in (
        ("only_text", 20, 2),
        ("single_turn_single_image", 10, 2),
        ("multi_turn_multi_images", 10, 2),
    ):
        assert f"{name}_example {unique} {asked} {asked} {unique} " in told
    entries = metrics(tmp_path / "out")
    assert len(entries) == 2 and all(entry["image_tokens"] and entry["loss"] > 0 for entry in entries)

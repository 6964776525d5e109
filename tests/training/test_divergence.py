"""Runs that come upon NaN: none of it is trained on, saved as a success, or put in the place of something sound."""

import json

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from safetensors.numpy import load_file

from paddle_xc2 import XComposer2ForCausalLM
from paddle_xc2.models import internlm2
from paddle_xc2.training import finetune as finetune_module
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.trainer import StepTrainer

EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9}


def strict_json(path):
    """The lines of a file by a reader that knows no NaN and Infinity."""

    def refuse(word):
        raise AssertionError(f"{path}: {word}")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


@pytest.fixture
def overflowing_silu(monkeypatch):
    """Paddle's own silu, whose gradient is NaN below -88: large parameters are finite, and their gradients are not."""
    monkeypatch.setattr(internlm2, "swiglu", lambda gate, x: F.silu(gate) * x)


@pytest.fixture
def breaks(monkeypatch):
    """Has the gradients of some steps, counted from 1, hold an infinity; returns what learns and lasts around these."""

    def arrange(*wanted):
        states, step, settle = [], StepTrainer.training_step, StepTrainer._settle_step

        def with_infinity(trainer, model, inputs):
            loss = step(trainer, model, inputs)
            if trainer.state.global_step + 1 in wanted:
                states.append(state_of(trainer))
                with paddle.no_grad():
                    next(p.grad for p in model.parameters() if p.grad is not None).multiply_(paddle.to_tensor(np.inf))
            return loss

        def then(trainer):
            if trainer.state_check.pending and trainer.state.global_step in wanted:
                states.append(state_of(trainer))
            settle(trainer)

        monkeypatch.setattr(StepTrainer, "training_step", with_infinity)
        monkeypatch.setattr(StepTrainer, "_settle_step", then)
        return states

    return arrange


def state_of(trainer):
    """Parameters, moments and schedule."""
    values = [parameter.numpy() for parameter in trainer.model.parameters()]
    for tensors in trainer.optimizer._accumulators.values():
        values += [tensor.numpy() for tensor in tensors.values()]
    return [*values, np.array([trainer.lr_scheduler.last_epoch, trainer.optimizer.get_lr()])]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_step_that_is_not_finite_changes_nothing(config, tmp_path, breaks, monkeypatch, precision):
    """As float16 at level O1, whose weights are float32: a CPU has no autocast, but scales the loss."""
    monkeypatch.setattr(finetune_module.runtime, "choose_precision", lambda *args: precision)
    states = breaks(2)
    assert finetune(config(**EVERY_STEP, lora=True, fix_sampler=False)) == 0
    before, after = states
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    entries = strict_json(tmp_path / "out/metrics.jsonl")
    assert [entry.get("skipped_steps") for entry in entries] == [None, 1, None, None]
    assert entries[1]["loss"] is None and entries[1]["grad_norm"] is None and entries[1]["trained_tokens"] == 0
    assert entries[1]["learning_rate"] == entries[2]["learning_rate"] != entries[3]["learning_rate"]
    scales = [
        json.loads((tmp_path / f"out/checkpoint-{step}/optimizer.json").read_text())["scaler"]["scale"][0]
        for step in (1, 2, 3)
    ]
    assert scales == ([32768.0, 16384.0, 16384.0] if precision == "float16" else [1.0] * 3)


def test_a_skipped_step_is_left_out_of_the_logged_mean_and_of_what_resumes(config, tmp_path, breaks, metrics):
    breaks(2)
    keys = {"logging_steps": 4, "skip_memory_metrics": True, **EVERY_STEP}
    assert finetune(config(**keys)) == 0
    (whole,) = metrics(tmp_path / "out")
    assert whole["skipped_steps"] == 1
    again = {"resume_from_checkpoint": str(tmp_path / "out/checkpoint-3"), "output_dir": str(tmp_path / "again")}
    assert finetune(config(**keys, **again)) == 0
    (resumed,) = metrics(tmp_path / "again")
    assert {**resumed, "tokens_per_second": 0} == {**whole, "tokens_per_second": 0}
    for name in ("model.safetensors", "optimizer/model.safetensors"):
        one, other = (load_file(tmp_path / folder / "checkpoint-4" / name) for folder in ("out", "again"))
        assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_too_many_skipped_steps_end_the_run(config, tmp_path, breaks, capsys):
    breaks(*range(3, 30))
    assert finetune(config(max_steps=30)) == 1
    told = capsys.readouterr().err
    assert "out: step 7: loss " in told and "gradient norm nan, 5 steps skipped in a row; training can't go on" in told
    assert "lower learning_rate (0.001), lengthen warmup_ratio or warmup_steps, and begin anew" in told
    assert told.rstrip().endswith("no checkpoint was written yet")
    assert len(strict_json(tmp_path / "out/metrics.jsonl")) == 6
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_float16_goes_on_until_no_scale_helps(config, tmp_path, breaks, capsys, monkeypatch):
    monkeypatch.setattr(finetune_module.runtime, "choose_precision", lambda *args: "float16")
    breaks(*range(1, 30))
    assert finetune(config(max_steps=30, fp16=True, scale_loss=64.0)) == 1
    told = capsys.readouterr().err
    assert "step 7: loss" in told and "7 steps skipped in a row" in told
    assert "compute in bf16 or float32 instead of fp16" in told


@pytest.mark.parametrize("lora", [False, True])
def test_an_unsound_state_never_replaces_a_sound_one(config, tmp_path, capsys, overflowing_silu, lora):
    """After such a learning rate's second step, of LoRA its third, parameters are finite and their gradients NaN."""
    rate, last = (10.0, 3) if lora else (3.0, 2)
    keys = {**EVERY_STEP, "learning_rate": rate, "save_total_limit": 1, "max_steps": 8, "lora": lora}
    assert finetune(config(**keys)) == 1
    out = tmp_path / "out"
    told, sound = capsys.readouterr().err, f"checkpoint-{last - 1}"
    assert f"{out}: the state after step {last} is not saved: loss " in told and "gradient norm nan" in told
    assert told.rstrip().endswith(f"{out}/{sound}, from before, is sound")
    assert [path.name for path in out.glob("checkpoint-*")] == [sound]
    for path in out.rglob("*.safetensors"):
        assert path.is_relative_to(out / sound)
        assert all(np.isfinite(values).all() for values in load_file(path).values())
    strict_json(out / "metrics.jsonl")


@pytest.mark.parametrize("keys", [{"logging_steps": 50}, {"logging_strategy": "no"}])
def test_what_training_ends_with_is_looked_at(config, tmp_path, capsys, overflowing_silu, keys):
    assert finetune(config(learning_rate=10.0, warmup_ratio=0.0, max_steps=1, **keys)) == 1
    assert "the state after step 1 is not saved" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_parameters_that_are_not_finite_are_not_saved(config, capsys, monkeypatch):
    settle = StepTrainer._settle_step

    def then(trainer):
        settle(trainer)
        trainer.model.model.norm.weight.set_value(paddle.full([64], np.inf))

    monkeypatch.setattr(StepTrainer, "_settle_step", then)
    assert finetune(config(max_steps=1)) == 1
    assert "the state after step 1 is not saved: model.norm.weight is not finite" in capsys.readouterr().err


@pytest.fixture
def with_weight(workspace, tmp_path):
    """A copy of the workspace's model in which one weight is another."""

    def write(change):
        model = XComposer2ForCausalLM.from_pretrained(workspace / "model")
        weight = model.model.layers[1].feed_forward.w2.linear.weight
        weight.set_value(change(weight))
        model.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return write


def test_weights_that_are_not_finite_are_told_before_anything_is_trained(config, tmp_path, with_weight):
    path = with_weight(lambda weight: paddle.full_like(weight, np.nan))
    name = "model.layers.1.feed_forward.w2.linear.weight"
    with pytest.raises(ValueError, match=f"{path}: NaN or infinity in {name}: the model would compute NaN before"):
        finetune(config(model_name_or_path=path))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=f"NaN or infinity in {name}"):
        finetune(config(model_name_or_path=path, do_train=False, do_eval=True))


def test_a_starting_model_that_computes_nan_is_told_at_its_layer(config, with_weight):
    path = with_weight(lambda weight: weight * 1e38)
    told = r"before anything is trained, the model computes (NaN|infinity), in float32, and it begins at model.layers.1"
    with pytest.raises(ValueError, match=f"{path}: {told}"):
        finetune(config(model_name_or_path=path, lora=True))
    with pytest.raises(ValueError, match=f"{path}: {told}"):
        finetune(config(model_name_or_path=path, do_train=False, do_eval=True))


def test_a_model_that_diverged_is_not_asked(config, capsys, overflowing_silu):
    """Or generation would say that the weights are too large, and not why."""
    keys = {"evaluation_strategy": "steps", "eval_steps": 2, "eval_with_do_generation": True, "max_new_tokens": 1}
    assert finetune(config(learning_rate=3.0, **keys)) == 1
    assert "the state after step 2 is not saved" in capsys.readouterr().err


def test_an_evaluation_that_is_not_finite_is_never_the_best(config, tmp_path, monkeypatch):
    """Of one sample, say, that overflows: training goes on."""
    forward = XComposer2ForCausalLM.forward

    def with_infinity(model, *args, **kwargs):
        out = forward(model, *args, **kwargs)
        if out.loss is not None and not model.training:
            out.loss = out.loss + float("inf")
        return out

    monkeypatch.setattr(XComposer2ForCausalLM, "forward", with_infinity)
    keys = {"evaluation_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_total_limit": 2}
    assert finetune(config(**keys, save_strategy="steps", save_steps=2)) == 0
    entries = strict_json(tmp_path / "out/metrics.jsonl")
    assert [entry["eval_loss"] for entry in entries if "eval_loss" in entry] == [None, None]

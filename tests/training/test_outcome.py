"""What a run says where it can't teach, or has not taught, the model anything."""

from types import SimpleNamespace

import pytest

from paddle_xc2.training import finetune as recipe
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.outcome import diverged, few_steps_line, little_learned, outcome_lines, overfitted


def plan(num_steps, **changes):
    return SimpleNamespace(arguments=FinetuneArguments("model", output_dir="out", **changes), num_steps=num_steps)


def test_the_plan_says_when_steps_are_too_few():
    assert few_steps_line(plan(100)) is None
    assert few_steps_line(plan(12, num_train_epochs=1, gradient_accumulation_steps=8)) == (
        "12 steps will teach little, below 100 a model hardly changes; set num_train_epochs to 9, or "
        "gradient_accumulation_steps to 1 or so"
    )
    assert few_steps_line(plan(1, num_train_epochs=1, gradient_accumulation_steps=8)) == (
        "1 step will teach little, below 100 a model hardly changes; set num_train_epochs to 100 or so"
    )
    assert few_steps_line(plan(12, num_train_epochs=3)).endswith("set num_train_epochs to 25 or so")
    assert few_steps_line(plan(12, max_steps=12)).endswith("set max_steps to 100 or more")


def test_a_loss_that_hardly_moved():
    assert little_learned([7.61, 7.46]) == "the loss hardly moved, from 7.6100 to 7.4600: the model has learned little"
    assert little_learned([2.0, 1.0]) is None and little_learned([2.0]) is None and little_learned([]) is None
    noisy = [2.0] * 20 + [1.0] * 19 + [2.5]
    assert little_learned(noisy) is None  # the last tenth counts, not the last value


def test_a_loss_that_rose():
    told = (
        "the loss rose, from 2.0000 to 2.5000: the model is worse than before; lower learning_rate (0.3), or lengthen"
    )
    assert diverged([2.0, 2.5], 0.3).startswith(told) and little_learned([2.0, 2.5]) is None
    assert diverged([2.0, 2.1], 0.3) is None and diverged([2.0], 0.3) is None


def test_a_loss_of_evaluations_that_rose():
    def entries(*losses):
        return [{"step": step, "eval_loss": loss} for step, loss in enumerate(losses, 1)]

    assert overfitted([{"step": 1, "loss": 1.0}, *entries(2.0)]) is None
    assert overfitted(entries(2.0, 1.0, 1.05)) is None
    assert "was lowest after step 2, 1.0000, and rose to 1.5000: the model learned the training samples by heart" in (
        overfitted(entries(2.0, 1.0, float("nan"), 1.5))
    )


def test_the_end_says_what_to_do():
    def lines(answer, losses, num_steps=12):
        entries = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
        return outcome_lines(plan(num_steps, lora=True), entries, "What?", answer)

    assert lines("A cat.", [2.0, 0.5]) == ['asked "What?" of the first sample, the model answers "A cat."']
    told = lines("\n", [7.6, 7.5])
    assert told[1].startswith("the loss hardly moved") and told[2] == "the answer is empty"
    assert told[3].startswith("12 steps will teach little") and told[3].endswith(
        'begin a new run with "lora_path": "out" and another output_dir'
    )
    worse = outcome_lines(plan(12), [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 9.0, "eval_loss": 3.0}], "Q", "")
    assert len(worse) == 2 and worse[1].startswith("the loss rose, from 2.0000 to 9.0000")
    rising = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 1.0}, {"step": 2, "loss": 0.1, "eval_loss": 2.0}]
    assert "learned the training samples by heart" in outcome_lines(plan(200), rising, "Q", "A")[1]
    best_kept = plan(200, load_best_model_at_end=True)
    assert len(outcome_lines(best_kept, rising, "Q", "A")) == 1
    assert lines("", [2.0, 0.5], 200)[2].startswith("raise learning_rate (it was ")


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_that_is_over_is_trained_longer(config, tmp_path, capsys, metrics, lora):
    key = "lora_path" if lora else "model_name_or_path"
    keys = {"max_steps": None, "num_train_epochs": 1, "save_strategy": "steps", "save_steps": 4, "lora": lora}
    assert finetune(config(**keys)) == 0
    told = capsys.readouterr().out
    assert "steps will teach little, below 100" in told and 'asked "' in told
    longer = f'to train its model longer, begin a new run with "{key}": "{tmp_path / "out"}" and another output_dir'
    with pytest.raises(
        ValueError, match="steps was 4 and is 8; .* the run is over: to train its model longer"
    ) as error:
        finetune(config(**{**keys, "num_train_epochs": 2}))
    assert longer in str(error.value)
    assert finetune(config(**keys)) == 0
    assert f"every step is trained already; {longer}" in capsys.readouterr().out
    again = config("again.json", **{**keys, key: str(tmp_path / "out"), "output_dir": str(tmp_path / "again")})
    assert finetune(again) == 0
    assert metrics(tmp_path / "again")[0]["loss"] < metrics(tmp_path / "out")[0]["loss"]


def test_a_finished_run_without_checkpoints_says_how_to_train_it_longer(config, tmp_path):
    assert finetune(config(max_steps=1)) == 0
    with pytest.raises(ValueError, match='begin a new run with "model_name_or_path": ".*out" and another output_dir'):
        finetune(config(max_steps=2))


def test_an_empty_answer_is_said(config, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "answer_to_first_sample", lambda *_: ("What?", " "))
    assert finetune(config(max_steps=1)) == 0
    told = capsys.readouterr().out
    assert "the answer is empty\n" in told and "set max_steps to 100 or more; to train its model longer" in told

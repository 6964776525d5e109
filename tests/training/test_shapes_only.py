"""`finetune --plan`: the plan of a run, without its weights."""

import shutil

import pytest

from paddle_xc2.cli import main
from paddle_xc2.hub import find
from paddle_xc2.training import finetune as training


def planned(text):
    """The lines of a plan, from "model" to the end of its first sample."""
    return text[text.index("model   ") : text.index("⟧")].splitlines()


@pytest.mark.parametrize(
    "keys", [{}, {"lora": True, "lora_rank": 3}, {"lora": True, "train_tokens": [], "use_dora": True}], ids=range(3)
)
def test_plan_is_the_runs(config, tmp_path, capsys, monkeypatch, keys):
    path = config(**keys)
    with monkeypatch.context() as patch:
        patch.setattr(training, "load_starting_model", lambda *args: pytest.fail("the model is loaded"))
        assert main(["finetune", str(path), "--plan"]) == 0
        assert main(["finetune", "--plan", str(path)]) == 0
    said = capsys.readouterr().out
    first, second = (planned(part) for part in said.split("this was the plan: nothing is trained or written")[:2])
    assert first == second and not (tmp_path / "out").exists()
    assert main(["finetune", str(path)]) == 0
    run = planned(capsys.readouterr().out)
    if "use_dora" in keys:  # its norms, taken from the values, aren't counted
        first, run = ([line for line in lines if line[:8].strip() in ("model", "step")] for lines in (first, run))
    assert first == run


def test_plan_of_a_run_that_goes_on_with_an_adapter(config, tmp_path, capsys):
    assert main(["finetune", str(config(lora=True, output_dir=str(tmp_path / "adapter")))]) == 0
    capsys.readouterr()
    path = config(lora=True, lora_path=str(tmp_path / "adapter"), output_dir=str(tmp_path / "second"))
    assert main(["finetune", str(path), "--plan"]) == 0
    assert f"goes on with {tmp_path / 'adapter'}" in capsys.readouterr().out
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("lora", [True, False])
def test_plan_of_a_run_that_goes_on(config, tmp_path, capsys, lora):
    path = config(lora=lora, save_strategy="steps", save_steps=2, save_total_limit=2)
    assert main(["finetune", str(path)]) == 0
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    assert main(["finetune", str(path), "--plan"]) == 0
    assert f"goes on      after step 2, from {tmp_path / 'out' / 'checkpoint-2'}" in capsys.readouterr().out
    assert main(["finetune", str(path), "--plan", "--learning_rate", "1"]) == 2
    assert "learning_rate was 0.001 and is 1.0; set that back" in capsys.readouterr().err


@pytest.mark.parametrize("lora", [True, False])
def test_plan_of_a_released_model_that_is_not_here(config, workspace, tmp_path, capsys, monkeypatch, lora):
    """Its weights stay where they are."""

    def fetch(name, offline, without):
        assert name == "somebody/model" and without
        shutil.copytree(workspace / "model", tmp_path / "fetched", ignore=shutil.ignore_patterns(*without))
        return tmp_path / "fetched"

    monkeypatch.setattr(find, "HUBS", (find.Hub("a hub", "its library", fetch, lambda: "its cache"),))
    monkeypatch.setattr(find, "_resolved", {})
    assert main(["finetune", str(config(lora=lora)), "--plan"]) == 0
    here = planned(capsys.readouterr().out)
    assert main(["finetune", str(config(lora=lora, model_name_or_path="somebody/model")), "--plan"]) == 0
    model, *others = planned(capsys.readouterr().out)
    assert model.startswith("model        somebody/model (xcomposer2-") and others == here[1:]
    assert not list((tmp_path / "fetched").glob("*.safetensors"))


def test_plan_of_an_evaluation(config, capsys):
    path = config(do_train=False, do_eval=True)
    assert main(["finetune", str(path), "--plan"]) == 0
    assert "an evaluation of 5 samples; nothing is trained" in capsys.readouterr().out

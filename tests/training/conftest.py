"""Argument files for a run on the tiny checkpoint, and what happens in mid-run."""

import json
import shutil

import pytest

from paddle_xc2.training.arguments import FinetuneArguments


@pytest.fixture(scope="module")
def processor(workspace):
    from paddle_xc2.data.processor import XComposer2Processor

    return XComposer2Processor.from_pretrained(workspace / "model")


@pytest.fixture(scope="module")
def samples(workspace, processor):
    """The workspace's training data."""
    from paddle_xc2.data.records.conversations import load_conversations
    from paddle_xc2.data.samples import fit_samples

    return fit_samples(load_conversations(workspace / "train.json"), processor)


@pytest.fixture
def plan_of():
    """Makes the plan of a run on the given samples."""
    from paddle_xc2.training.plan import Plan
    from paddle_xc2.training.run_folder.start import StartingPoint

    def make(samples, evaluation=None, start=None, precision="float32", **arguments):
        values = {"output_dir": "out", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, **arguments}
        start = start or StartingPoint(None, 0, {}, 1)
        return Plan(FinetuneArguments("model", **values), precision, start, samples, evaluation)

    return make


@pytest.fixture
def config(workspace, tmp_path):
    """Writes an argument file with the given keys beside those that a run needs, and returns its path. None: no key."""

    def write(name="config.json", **changes):
        values = {
            "model_name_or_path": str(workspace / "model"),
            "dataset": {
                "train": [{"name": "train", "data_files": str(workspace / "train.json")}],
                "eval": [{"name": "eval", "data_files": str(workspace / "eval.json")}],
            },
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_steps": 4,
            "learning_rate": 1e-3,
            "save_strategy": "no",
            "disable_tqdm": True,
            **changes,
        }
        path = tmp_path / name
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        return path

    return write


@pytest.fixture
def metrics():
    """Reads the entries of metrics.jsonl in a folder."""

    def read(folder):
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return read


@pytest.fixture
def at_step(monkeypatch):
    """Has something done at the beginning of a step, counted from 1."""

    from paddle_xc2.training.trainer import StepTrainer

    def arrange(wanted, action):
        step = StepTrainer.training_step

        def with_action(trainer, model, inputs):
            if trainer.state.global_step + 1 == wanted:
                action()
            return step(trainer, model, inputs)

        monkeypatch.setattr(StepTrainer, "training_step", with_action)

    return arrange


@pytest.fixture
def power_fails(at_step):
    """Has training break off at the beginning of a step, until `monkeypatch.undo()`."""

    def fail():
        raise RuntimeError("the power fails")

    return lambda wanted: at_step(wanted, fail)


@pytest.fixture
def train(config, tmp_path, metrics):
    """Trains with the given keys; returns the entries of metrics.jsonl and the folder."""
    runs = iter(range(100))

    from paddle_xc2.training.finetune import finetune

    def run(**changes):
        folder = tmp_path / f"run{next(runs)}"
        assert finetune(config(output_dir=str(folder), **changes)) == 0
        return metrics(folder), folder

    return run


@pytest.fixture(scope="module")
def plain_model(workspace, tmp_path_factory):
    """The workspace's model without PLoRA's dropout, whose masks depend on how samples are spread over batches."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    shutil.copytree(workspace / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "plora_dropout": 0.0}))
    return folder

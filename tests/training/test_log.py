"""What is summed up between two logged steps, and goes on from a checkpoint as if nothing had been in between."""

import time
from dataclasses import replace

import numpy as np
import paddle
import pytest

from paddle_xc2.data.batches import StepItem
from paddle_xc2.data.mixture import Dataset, DatasetSpec
from paddle_xc2.training.log import TrainingLog
from paddle_xc2.training.run_folder.checkpoints import INTERVAL, SETTINGS, save_checkpoint
from paddle_xc2.training.run_folder.start import StartingPoint


@pytest.fixture
def mixed_plan(samples, plan_of, tmp_path):
    """Of a run on three data sets, two of which share a name, from a checkpoint if one is given."""
    datasets = tuple(Dataset(DatasetSpec(name, ()), 4, False) for name in ("a", "b", "a"))
    mixed = replace(samples, dataset_of=np.arange(len(samples)) % 3, datasets=datasets)

    def make(checkpoint=None):
        start = StartingPoint(checkpoint, 1 if checkpoint else 0, {}, 5)
        return plan_of(mixed, start=start, output_dir=str(tmp_path), disable_tqdm=True, skip_memory_metrics=True)

    return make


def step(log, loss, datasets, losses):
    """A step of one pass. losses: of its trained tokens."""
    log.begin_step()
    log.add_dataset_losses(paddle.to_tensor(losses, "float32"), np.array(datasets))
    log.add_step(StepItem([], len(losses), 10, 4), paddle.to_tensor(loss), len(losses), 1e-4)


def test_means_are_over_the_trained_tokens(mixed_plan, tmp_path):
    log = TrainingLog(mixed_plan(), tmp_path)
    step(log, 2.0, [0, 1, 2], [1.0, 2.0, 3.0])
    step(log, 4.0, [0], [4.0])
    step(log, 9.0, [1], [np.nan])
    log.interval.drop_last_step()
    entry = log.log_step(3, 0.75, np.inf)
    assert entry["loss"] == (3 * 2.0 + 4.0) / 4 and entry["loss/a"] == (1.0 + 3.0 + 4.0) / 3 and entry["loss/b"] == 2.0
    assert (entry["trained_tokens"], entry["tokens"], entry["image_tokens"], entry["skipped_steps"]) == (4, 30, 12, 1)
    assert entry["grad_norm"] is None and log.entries == [entry]
    assert log.log_step(3, 0.75, 1.0) is None


def test_an_interval_goes_on_from_a_checkpoint(mixed_plan, tmp_path):
    whole = TrainingLog(mixed_plan(), tmp_path)
    step(whole, 2.0, [0, 1, 2], [1.0, 2.0, 3.0])
    marker = {"started": 5, SETTINGS: {}, INTERVAL: whole.interval_record()}
    checkpoint = save_checkpoint(tmp_path, 1, whole.metrics.save_copy, marker)
    again = TrainingLog(mixed_plan(checkpoint), tmp_path)
    entries = []
    for log in (whole, again):
        step(log, 4.0, [1, 2], [4.0, 5.0])
        entries.append({**log.log_step(2, 0.5, 1.0), "tokens_per_second": 0})
    assert entries[0] == entries[1] and entries[0]["loss/b"] == 3.0


def test_what_is_not_training_does_not_count(mixed_plan, tmp_path):
    log = TrainingLog(mixed_plan(), tmp_path)
    with log.not_training():
        time.sleep(0.2)
    step(log, 2.0, [0], [2.0])
    assert log.log_step(1, 0.25, 1.0)["tokens_per_second"] > 10 / 0.2

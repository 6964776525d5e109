"""What a run measures: summed up from one logged step to the next, written, shown, and kept in checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle

from paddle_xc2 import runtime
from paddle_xc2.data.batches import StepItem
from paddle_xc2.data.collate import to_device
from paddle_xc2.training.metrics_file import MetricsFile
from paddle_xc2.training.parallel import sum_over_processes
from paddle_xc2.training.plan import Plan
from paddle_xc2.training.progress import Progress
from paddle_xc2.training.reporting import Reporters
from paddle_xc2.training.run_folder.checkpoints import INTERVAL, read_marker


@dataclass
class LogInterval:
    """What happened since the last logged step."""

    # Of every step that was taken. On the device; numbers after a checkpoint was gone on from.
    losses: list[paddle.Tensor | float] = field(default_factory=list)
    trained_tokens: list[int] = field(default_factory=list)  # of all processes
    tokens: int = 0  # of this process, as the rest
    image_tokens: int = 0
    # Of every pass of these steps, where there are several data sets: sum of token losses of each, and their number.
    dataset_losses: list[paddle.Tensor | list[float]] = field(default_factory=list)
    dataset_tokens: list[list[int]] = field(default_factory=list)
    sources: list = field(default_factory=list)  # of `to_device`, until the losses have been waited for
    learning_rate: float = 0.0  # of the last step
    num_skipped: int = 0  # steps that were not taken
    started: float = field(default_factory=time.perf_counter)  # moved on by what is not training
    num_taken_passes: int = 0  # entries of dataset_losses before the last step

    def drop_last_step(self) -> None:
        """The last step was not taken: what it computed counts as work, not as training."""
        self.num_skipped += 1
        del self.losses[-1], self.trained_tokens[-1]
        del self.dataset_losses[self.num_taken_passes :], self.dataset_tokens[self.num_taken_passes :]


class TrainingLog:
    """The measurements of a run. Every process adds its own; the first one writes and shows them.

    Attributes:
        interval: what happened since the last logged step.
        metrics: the file, of the first process of a run that trains; else None.
        reporters: likewise.
        progress: bar or lines on the terminal.
        dataset_names: of the data sets, each once.

    Args:
        plan: of the run.
        output_dir: where metrics.jsonl is begun anew, with what the checkpoint to go on from holds of it.
    """

    def __init__(self, plan: Plan, output_dir: Path):
        arguments = plan.arguments
        self.plan = plan
        names = [dataset.spec.name for dataset in plan.train.datasets] if plan.train else []
        self.dataset_names = list(dict.fromkeys(names))  # several entries may share a name
        self.name_of_dataset = np.array([self.dataset_names.index(name) for name in names], np.int64)
        self.interval = self._interval_of_checkpoint()
        self.metrics = self.reporters = None
        if plan.train and plan.rank == 0:
            self.metrics = MetricsFile(output_dir, plan.start.checkpoint)
            logging_dir = Path(arguments.logging_dir or output_dir / "runs")
            self.reporters = Reporters(arguments.reporters, logging_dir, plan.start.started, self.metrics.entries)
        num_steps, lines = (plan.num_steps, arguments.disable_tqdm) if plan.train else (0, True)
        self.progress = Progress(num_steps, plan.start.step, lines, silent=plan.rank > 0)

    @property
    def entries(self) -> list[dict]:
        """Of metrics.jsonl so far; only the first process knows them."""
        return self.metrics.entries if self.metrics else []

    # Within a step

    def begin_step(self) -> None:
        self.interval.num_taken_passes = len(self.interval.dataset_losses)

    def add_dataset_losses(self, token_losses, datasets: np.ndarray) -> None:
        """Adds a pass; without several data sets, or with tokens that don't count, there is nothing to add.

        Args:
            token_losses: float32 [trained tokens].
            datasets: int64 [trained tokens], the data set of each.
        """
        if len(self.dataset_names) < 2:
            return
        names = self.name_of_dataset[datasets]
        sums = paddle.zeros([len(self.dataset_names)], "float32")
        sums = paddle.index_add(sums, to_device(names, self.interval.sources), 0, token_losses)
        self.interval.dataset_losses.append(sums)
        self.interval.dataset_tokens.append(np.bincount(names, minlength=len(self.dataset_names)).tolist())

    def add_step(self, item: StepItem, loss, num_trained: int, learning_rate: float) -> None:
        """Args:
        loss: of the step, float32 scalar on the device.
        num_trained: tokens, of all processes.
        """
        interval = self.interval
        interval.losses.append(loss)
        interval.trained_tokens.append(num_trained)
        interval.tokens += item.num_tokens
        interval.image_tokens += item.num_image_tokens
        interval.learning_rate = learning_rate
        self.progress.step()

    @contextmanager
    def not_training(self) -> Iterator[None]:
        """What the block takes is left out of tokens a second."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.interval.started += time.perf_counter() - started

    # What is measured

    def log_step(self, step: int, epoch: float, grad_norm: float) -> dict | None:
        """Ends the interval. Returns: its entry of metrics.jsonl, or None if nothing happened in it.

        Args:
            grad_norm: of the last step.
        """
        interval, losses = self.interval, self._losses()
        if not len(losses) and not interval.num_skipped:
            return None
        tokens, image_tokens = sum_over_processes([interval.tokens, interval.image_tokens])
        entry = {
            "step": step,
            "epoch": round(epoch, 6),
            "loss": float(np.average(losses, weights=interval.trained_tokens)) if len(losses) else None,
            "learning_rate": interval.learning_rate,
            "grad_norm": grad_norm,
            **({"skipped_steps": interval.num_skipped} if interval.num_skipped else {}),
            **self._dataset_entries(),
            "trained_tokens": sum(interval.trained_tokens),
            "image_tokens": int(image_tokens),
            "tokens": int(tokens),
            "tokens_per_second": round(float(tokens) / (time.perf_counter() - interval.started), 1),
        }
        if not self.plan.arguments.skip_memory_metrics:
            entry["peak_memory_gb"] = round(runtime.peak_memory_gb(), 3)
        self.interval = LogInterval()
        self.report(entry)
        return entry

    def report(self, entry: dict) -> None:
        """Notes and shows what was measured. What is not finite becomes None: JSON has no other word for it."""
        broken = [name for name, value in entry.items() if isinstance(value, float) and not math.isfinite(value)]
        entry.update(dict.fromkeys(broken))
        if self.metrics:
            self.metrics.append(entry)
            self.reporters.write(entry)
        self.progress.logged(entry)

    def _losses(self) -> np.ndarray:
        """float64 [steps], loss of every step in the interval."""
        if not self.interval.losses:
            return np.empty(0)
        return sum_over_processes([float(loss) for loss in self.interval.losses]) / self.plan.num_processes

    def _dataset_sums(self) -> np.ndarray:
        """float64 [2, names]: sum of token losses and their number, by name of data set, of the interval."""
        interval, nothing = self.interval, np.zeros([len(self.dataset_names)])
        if len(self.dataset_names) < 2:
            return np.zeros([2, 0])
        losses = sum((np.asarray(losses, "float64") for losses in interval.dataset_losses), nothing)
        tokens = sum((np.asarray(tokens, "float64") for tokens in interval.dataset_tokens), nothing)
        return sum_over_processes([*losses, *tokens]).reshape(2, -1)

    def _dataset_entries(self) -> dict:
        """{"loss/name": mean loss} of the data sets that the interval has trained tokens of."""
        losses, tokens = self._dataset_sums()
        return {
            f"loss/{name}": loss / number
            for name, loss, number in zip(self.dataset_names, losses.tolist(), tokens.tolist(), strict=False)
            if number
        }

    # In a checkpoint

    def interval_record(self) -> dict:
        """The interval as JSON values: what a checkpoint needs for the next logged step to be as it would have been."""
        losses = self._losses().tolist()
        tokens, image_tokens = sum_over_processes([self.interval.tokens, self.interval.image_tokens])
        return {
            "losses": losses,
            "num_skipped": self.interval.num_skipped,
            "trained_tokens": self.interval.trained_tokens,
            "tokens": int(tokens),
            "image_tokens": int(image_tokens),
            "dataset_losses": self._dataset_sums().tolist(),
            "seconds": time.perf_counter() - self.interval.started,
        }

    def _interval_of_checkpoint(self) -> LogInterval:
        """The interval that the checkpoint to go on from was written in."""
        checkpoint = self.plan.start.checkpoint
        record = read_marker(checkpoint).get(INTERVAL) if checkpoint else None
        if record is None:
            return LogInterval()
        interval = LogInterval(record["losses"], record["trained_tokens"], num_skipped=record.get("num_skipped", 0))
        if self.plan.rank == 0:  # these were summed over all processes
            interval.tokens, interval.image_tokens = record["tokens"], record["image_tokens"]
            losses, tokens = record["dataset_losses"]
            interval.dataset_losses, interval.dataset_tokens = [losses], [tokens]
        interval.started = time.perf_counter() - record["seconds"]
        return interval

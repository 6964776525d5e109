"""What a run reports while it runs: metrics.jsonl, and a bar or lines on the terminal."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from pathlib import Path

from tqdm.auto import tqdm

from paddle_xc2.files.durable import replace_file
from paddle_xc2.generation.scores import METRICS
from paddle_xc2.messages import counted

METRICS_FILE = "metrics.jsonl"


class MetricsFile:
    """metrics.jsonl: one JSON object a logged step or evaluation, in the order of the steps.

    Training: step, epoch, loss (nats, mean over the trained tokens since the last logged step), learning_rate and
    grad_norm (of the last step, before clipping), skipped_steps (since the last logged step, if there are any: their
    gradients were not finite, they changed nothing, and no other number but tokens counts them), trained_tokens,
    image_tokens and tokens (since the last logged step), loss/<name> for each data set of which tokens were trained
    since then, if there are several, tokens_per_second and, unless left out, peak_memory_gb.
    What is not finite, or was not measured because every step was skipped, is null.
    Evaluation: step, epoch, eval_loss, eval_tokens, eval_seconds; with generation also eval_answers (how many) and
    those of generation/scores.py, as eval_exact_match.
    """

    def __init__(self, directory: Path, start_from: Path | None = None):
        """Begins a file in `directory`, with the lines that the checkpoint `start_from` holds."""
        self.path = directory / METRICS_FILE
        kept = (start_from / METRICS_FILE).read_bytes() if start_from else b""
        replace_file(self.path, kept)
        self.entries = read_metrics(start_from) if start_from else []

    def append(self, entry: dict) -> None:
        self.entries.append(entry)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")

    def save_copy(self, directory: Path) -> None:
        """Writes what there is so far into a checkpoint."""
        (directory / METRICS_FILE).write_bytes(self.path.read_bytes())


def read_metrics(directory: Path) -> list[dict]:
    """The entries of the metrics.jsonl in a folder."""
    return [json.loads(line) for line in (directory / METRICS_FILE).read_bytes().splitlines()]


def best_evaluation(entries: list[dict], metric: str, greater: bool) -> dict | None:
    """The evaluation with the best value of `metric`; of equals the first, None if there is none."""
    evaluated = [entry for entry in entries if is_measured(entry, metric)]
    return min(evaluated, key=lambda entry: -entry[metric] if greater else entry[metric], default=None)


def is_measured(entry: dict, key: str) -> bool:
    """Whether an entry of metrics.jsonl has a number under `key`; null was not finite, NaN is an earlier version's."""
    return entry.get(key) is not None and math.isfinite(entry[key])


def peak_memory_gb() -> float:
    """Largest memory so far, in 1e9 bytes: the GPU's if one computes, else this process's."""
    import paddle

    if paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.max_memory_allocated() / 1e9
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def device_memory() -> int:
    """Bytes that the device which computes has in all."""
    import paddle

    if paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.get_device_properties().total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Progress:
    """A bar on standard error, or a line for every logged step. `lines`: no bar."""

    def __init__(self, num_steps: int, first_step: int, lines: bool, silent: bool = False):
        self.num_steps = num_steps
        self.lines = lines
        self.silent = silent
        # Where nobody watches, a bar is a line every now and then.
        interval = 0.2 if sys.stderr.isatty() else 10.0
        self.bar = tqdm(
            total=num_steps,
            initial=first_step,
            desc="training",
            unit="step",
            mininterval=interval,
            dynamic_ncols=True,
            disable=lines or silent,
        )

    def step(self) -> None:
        self.bar.update()

    def logged(self, entry: dict) -> None:
        """Shows an entry of metrics.jsonl."""
        place = f"step {entry['step']}/{self.num_steps}"
        if "eval_loss" in entry:
            measured = [name for name in METRICS if f"eval_{name}" in entry]
            told = "".join(f", {name} {entry[f'eval_{name}']:.4f}" for name in measured)
            self.say(f"{place}  evaluation loss {_number(entry['eval_loss'])}{told}")
            return
        loss = _number(entry["loss"])
        if skipped := entry.get("skipped_steps"):
            loss += f" ({counted(skipped, 'step')} skipped)"
        speed = f"{entry['tokens_per_second']:.0f} tokens/s"
        if self.lines:
            self.say(f"{place}  epoch {entry['epoch']:.2f}  loss {loss}  lr {entry['learning_rate']:.2e}  {speed}")
        else:
            self.bar.set_postfix_str(f"loss {loss}, {speed}", refresh=False)

    def over(self, items, total: int, what: str):
        """Yields `items`, counted by a bar of their own that goes when they are done."""
        yield from tqdm(items, what, total, leave=False, dynamic_ncols=True, disable=self.lines or self.silent)

    def say(self, text: str) -> None:
        """Prints a line without disturbing the bar."""
        if not self.silent:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"

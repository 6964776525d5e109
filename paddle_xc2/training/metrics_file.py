"""metrics.jsonl: what was measured in a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

from paddle_xc2.checkpoint.companions import METRICS_FILE
from paddle_xc2.files.durable import replace_file


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
    """The evaluation with the best value of `metric`; None if there is none.

    Of equals that with the lowest loss, as where no answer is exact yet; of these the first.
    """

    def key(entry: dict) -> tuple[float, float]:
        loss = entry["eval_loss"] if is_measured(entry, "eval_loss") else math.inf
        return -entry[metric] if greater else entry[metric], loss

    return min((entry for entry in entries if is_measured(entry, metric)), key=key, default=None)


def is_measured(entry: dict, key: str) -> bool:
    """Whether an entry of metrics.jsonl has a number under `key`; null was not finite, NaN is an earlier version's."""
    return entry.get(key) is not None and math.isfinite(entry[key])

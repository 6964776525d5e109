"""What a run reports while it runs: metrics.jsonl, loss.png, and a bar or lines on the terminal."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from pathlib import Path

from tqdm.auto import tqdm

from paddle_xc2.durable import replace_file, written_aside
from paddle_xc2.evaluation.metrics import METRICS

METRICS_FILE = "metrics.jsonl"
LOSS_PLOT = "loss.png"


class MetricsFile:
    """metrics.jsonl: one JSON object a logged step or evaluation, in the order of the steps.

    Training: step, epoch, loss (nats, mean over the trained tokens since the last logged step; null if float16
    overflowed), learning_rate and grad_norm (of the last step, before clipping), trained_tokens, image_tokens and
    tokens (since the last logged step), loss/<name> for each data set of which tokens were trained since then, if there
    are several, tokens_per_second and, unless left out, peak_memory_gb.
    Evaluation: step, epoch, eval_loss, eval_tokens, eval_seconds; with generation also eval_answers (how many) and
    those of evaluation/metrics.py, as eval_exact_match.
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
            file.write(json.dumps(entry) + "\n")

    def save_copy(self, directory: Path) -> None:
        """Writes what there is so far into a checkpoint."""
        (directory / METRICS_FILE).write_bytes(self.path.read_bytes())


def read_metrics(directory: Path) -> list[dict]:
    """The entries of the metrics.jsonl in a folder."""
    return [json.loads(line) for line in (directory / METRICS_FILE).read_bytes().splitlines()]


def best_evaluation(entries: list[dict], metric: str, greater: bool) -> dict | None:
    """The evaluation with the best value of `metric`; of equals the first, None if there is none."""
    evaluated = [entry for entry in entries if metric in entry and math.isfinite(entry[metric])]
    return min(evaluated, key=lambda entry: -entry[metric] if greater else entry[metric], default=None)


# The panels of loss.png: (what is measured, key of metrics.jsonl), each over the steps.
_PANELS = (
    ("loss (nats a trained token)", "loss"),
    ("learning rate", "learning_rate"),
    ("gradient norm", "grad_norm"),
    ("tokens a second", "tokens_per_second"),
    ("peak memory (GB)", "peak_memory_gb"),
)
# What is drawn smoothed too, with the weight of the past; evaluations are few, and are noisy less.
_SMOOTHED = {"loss": 0.9, "eval_loss": 0.5, "grad_norm": 0.9, "tokens_per_second": 0.9}


def draw_metrics(entries: list[dict], path: Path) -> None:
    """The course of a run, as a PNG file.

    A panel each for loss (training and evaluation, raw and smoothed), learning rate, gradient norm, tokens a second and
    memory, and for the scores of generated answers; what was not measured has none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores = [f"eval_{name}" for name in METRICS if any(f"eval_{name}" in entry for entry in entries)]
    panels = [(title, [key]) for title, key in _PANELS if key == "loss" or _points(entries, key)[0]]
    panels[0][1].append("eval_loss")
    if scores:
        panels.insert(1, ("score of the answers", scores))
    num_rows = 1 + len(panels) // 2  # the first panel has a row to itself
    figure = Figure(figsize=(10, 2.6 * (num_rows + 0.6)), dpi=100)
    grid = figure.add_gridspec(num_rows, 2, height_ratios=[1.6, *[1.0] * (num_rows - 1)])
    # By hand: finding the margins takes longer than all the rest.
    grid.update(left=0.08, right=0.985, wspace=0.25, hspace=0.35, top=0.97, bottom=0.19 / num_rows)
    for place, panel in enumerate(panels):
        cell = grid[0, :] if place == 0 else grid[(place + 1) // 2, (place + 1) % 2]
        _draw_panel(figure.add_subplot(cell), entries, *panel)
    with written_aside(path) as aside:
        FigureCanvasAgg(figure).print_png(str(aside))


def _draw_panel(axes, entries: list[dict], title: str, keys: list[str]) -> None:
    for number, key in enumerate(keys):
        steps, values = _points(entries, key)
        if not steps:
            continue
        colour = "tab:orange" if key == "eval_loss" else f"C{number}"
        marker = "o" if key.startswith("eval_") else None
        name = {"loss": "training", "eval_loss": "evaluation"}.get(key, key.removeprefix("eval_"))
        past = _SMOOTHED.get(key)
        axes.plot(steps, values, color=colour, alpha=1.0 if past is None else 0.35, marker=marker, label=name)
        if past is not None:
            axes.plot(steps, smooth(values, past), color=colour, label=f"{name}, smoothed")
    highest = max((max(line.get_ydata()) for line in axes.lines), default=0)
    axes.set(xlabel="step", ylabel=title, ylim=(0, 1.05 * highest or 1))
    axes.set_xlim(0, max((entry["step"] for entry in entries), default=0) or 1)
    axes.grid(alpha=0.3)
    if len(keys) > 1 and axes.lines:
        axes.legend()


def _points(entries: list[dict], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of what was measured and is a number."""
    found = [
        (entry["step"], entry[key]) for entry in entries if entry.get(key) is not None and math.isfinite(entry[key])
    ]
    return [step for step, _ in found], [value for _, value in found]


def smooth(values, past: float = 0.9) -> list[float]:
    """Exponential moving average without a start-up bias. past: weight of what came before each value."""
    average, weight, smoothed = 0.0, 0.0, []
    for value in values:
        average = past * average + (1 - past) * value
        weight = past * weight + (1 - past)
        smoothed.append(average / weight)
    return smoothed


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
            self.say(f"{place}  evaluation loss {entry['eval_loss']:.4f}{told}")
            return
        loss = "overflow" if entry["loss"] is None else f"{entry['loss']:.4f}"
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

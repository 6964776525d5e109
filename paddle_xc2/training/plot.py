"""loss.png: what was measured in a run, as a picture."""

from __future__ import annotations

import io
from pathlib import Path

from paddle_xc2.files.durable import replace_file
from paddle_xc2.generation.scores import METRICS
from paddle_xc2.training.metrics_file import is_measured
from paddle_xc2.training.outcome import lowest_evaluation, risen_evaluation

LOSS_PLOT = "loss.png"

# What each panel shows beside the loss: (its title, key of metrics.jsonl), over the steps.
_PANELS = (
    ("learning rate", "learning_rate"),
    ("gradient norm", "grad_norm"),
    ("tokens a second", "tokens_per_second"),
    ("peak memory (GB)", "peak_memory_gb"),
)
_LOSS = "loss (nats a trained token)"
_LOSS_LOG = "the same, logarithmic"
_SMOOTHED = ("loss", "grad_norm", "tokens_per_second")  # beside the raw values; evaluations are shown as they are
_NAMES = {"loss": "training", "eval_loss": "evaluation", "grad_norm": "measured", "tokens_per_second": "measured"}
_FAR = 20.0  # largest value : smallest, from which on a logarithmic axis shows more


def draw_metrics(entries: list[dict], path: Path) -> None:
    """What was measured in a run, as a PNG file.

    A panel each for loss (training and evaluation; where it falls far, also on a logarithmic axis), scores of
    generated answers, learning rate, gradient norm, tokens a second and memory; what was not measured has none. The
    lowest loss of the evaluations is marked, and so is what comes after it where it rises again.

    Args:
        entries: of metrics.jsonl.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(entries)
    num_rows = 1 + len(panels) // 2  # the first panel has a row to itself
    figure = Figure(figsize=(10, 2.6 * (num_rows + 0.9)), dpi=100)
    grid = figure.add_gridspec(num_rows, 2, height_ratios=[1.9, *[1.0] * (num_rows - 1)])
    # By hand: finding the margins takes longer than all the rest.
    grid.update(left=0.08, right=0.965, wspace=0.25, hspace=0.35, top=0.97, bottom=0.19 / num_rows)
    for place, (title, keys) in enumerate(panels):
        cell = grid[0, :] if place == 0 else grid[(place + 1) // 2, (place + 1) % 2]
        axes = figure.add_subplot(cell)
        _draw_curves(axes, entries, title, keys)
        if place == 0:
            _mark_evaluations(axes, entries)
        if axes.lines and (len(axes.lines) > 1 or len(keys) > 1) and title != _LOSS_LOG:
            axes.legend()
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    replace_file(path, png.getvalue())


def _panels(entries: list[dict]) -> list[tuple[str, list[str]]]:
    """(title, keys of metrics.jsonl) of each panel."""
    losses = ["loss", "eval_loss"]
    panels = [(_LOSS, losses)]
    if _falls_far([value for key in losses for value in _points(entries, key)[1]]):
        panels.append((_LOSS_LOG, losses))
    scores = [f"eval_{name}" for name in METRICS if any(f"eval_{name}" in entry for entry in entries)]
    if scores:
        panels.append(("score of the answers", scores))
    return panels + [(title, [key]) for title, key in _PANELS if _points(entries, key)[0]]


def _draw_curves(axes, entries: list[dict], title: str, keys: list[str]) -> None:
    logarithmic = title == _LOSS_LOG or keys == ["grad_norm"] and _falls_far(_points(entries, keys[0])[1])
    for number, key in enumerate(keys):
        steps, values = _points(entries, key)
        if not steps:
            continue
        colour = "tab:orange" if key == "eval_loss" else f"C{number}"
        name = _NAMES.get(key, key.removeprefix("eval_").replace("_", " "))
        count = smoothing_window(len(values)) if key in _SMOOTHED else 1
        marker = "o" if key.startswith("eval_") else None
        axes.plot(
            steps, values, color=colour, alpha=1.0 if count == 1 else 0.3, marker=marker, markersize=4, label=name
        )
        if count > 1:
            axes.plot(steps, smooth(values, count), color=colour, label=f"{name}, mean of {count} points")
    axes.set(xlabel="step", ylabel=title)
    if logarithmic:
        axes.set_yscale("log")
    else:
        highest = max((max(line.get_ydata()) for line in axes.lines), default=0)
        axes.set_ylim(0, 1.05 * highest or 1)
        axes.ticklabel_format(axis="y", scilimits=(-3, 5))
    axes.set_xlim(0, max((entry["step"] for entry in entries), default=0) or 1)
    axes.grid(alpha=0.3, which="both" if logarithmic else "major")


def _mark_evaluations(axes, entries: list[dict]) -> None:
    """Where the loss of the evaluations is lowest, and what follows if it rises again."""
    best, last = lowest_evaluation(entries), entries[-1]["step"] if entries else 0
    if best is None or len(_points(entries, "eval_loss")[0]) < 2:
        return
    label = f"lowest evaluation: {best['eval_loss']:.4f}, step {best['step']}"
    style = {"color": "tab:orange", "marker": "*", "markersize": 14, "linestyle": "none", "clip_on": False}
    axes.plot([best["step"]], [best["eval_loss"]], label=label, **style)
    if risen_evaluation(entries):
        label = "from here on it learns by heart: training falls, evaluation rises"
        axes.axvspan(best["step"], last, color="tab:red", alpha=0.08, label=label)


def _points(entries: list[dict], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of what was measured and is a number."""
    found = [(entry["step"], entry[key]) for entry in entries if is_measured(entry, key)]
    return [step for step, _ in found], [value for _, value in found]


def _falls_far(values: list[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > _FAR * min(values)


def smoothing_window(num_points: int) -> int:
    """Points that a smoothed curve averages over, an odd number: a thirtieth of them, 51 at most, none of few."""
    return min(51, num_points // 30 // 2 * 2 + 1)


def smooth(values: list[float], window: int) -> list[float]:
    """The mean of the `window` points around each, of those that there are at the ends.

    Of those before alone, it would lag behind a steep fall.
    """
    reach, means = window // 2, []
    for index in range(len(values)):
        around = values[max(0, index - reach) : index + reach + 1]
        means.append(sum(around) / len(around))
    return means

"""What a run shows while it runs: a bar, or lines on the terminal."""

from __future__ import annotations

import sys

from tqdm.auto import tqdm

from paddle_xc2.generation.scores import METRICS
from paddle_xc2.messages import counted


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
            scores = "".join(f", {name} {entry[f'eval_{name}']:.4f}" for name in measured)
            self.say(f"{place}  evaluation loss {_number(entry['eval_loss'])}{scores}")
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

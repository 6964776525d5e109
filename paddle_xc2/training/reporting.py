"""VisualDL and TensorBoard: the numbers of metrics.jsonl, for those who watch them there."""

from __future__ import annotations

import importlib.util
import shutil
import time
from pathlib import Path

# Each with the module that writes for it, and how to get that.
REPORTERS = {
    "visualdl": ("visualdl", "visualdl>=2.5,<3"),
    "tensorboard": ("tensorboardX", "tensorboardX>=2.6,<3"),
}
_NOT_SHOWN = ("step", "epoch")


def check_installed(names: tuple[str, ...]) -> None:
    """Raises: ValueError naming what to install."""
    for name in names:
        module, requirement = REPORTERS[name]
        if importlib.util.find_spec(module) is None:
            raise ValueError(
                f'"report_to" names {name}, which needs a package that is not installed: pip install --no-deps '
                f'"{requirement}"'
            )


class Reporters:
    """Writes every entry of metrics.jsonl to each of the reporters.

    The records lie in a folder of their own for every run, named by its beginning, so that runs can be compared. A run
    that goes on writes them anew, from the entries that its checkpoint holds: so no step is shown twice, and none that
    was lost is missing.
    """

    def __init__(self, names: tuple[str, ...], logging_dir: Path, started: int, entries: list[dict]):
        """Args:
        names: keys of REPORTERS.
        started: of the run, nanoseconds since 1970.
        entries: of the run so far.
        """
        self.directory = logging_dir / time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(started / 1e9))
        self.writers = []
        if not names:
            return
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in names:
            self.writers.append(_open(name, self.directory / name))
        for entry in entries:
            self.write(entry)

    def write(self, entry: dict) -> None:
        """Shows an entry: loss as train/loss, eval_loss as eval/loss."""
        for name, value in entry.items():
            if name in _NOT_SHOWN or value is None:
                continue
            part, bare = ("eval", name.removeprefix("eval_")) if name.startswith("eval_") else ("train", name)
            for writer in self.writers:
                writer.add_scalar(f"{part}/{bare}", value, entry["step"])

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


def _open(name: str, directory: Path):
    if name == "visualdl":
        from visualdl import LogWriter

        return LogWriter(logdir=str(directory))
    from tensorboardX import SummaryWriter

    return SummaryWriter(logdir=str(directory))

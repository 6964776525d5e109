import importlib.util
import sys
import types

import pytest

from paddle_xc2.training import reporting
from paddle_xc2.training.reporting import Reporters, check_installed

STARTED = 1_700_000_000_000_000_000
ENTRIES = [
    {"step": 1, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-4},
    {"step": 2, "epoch": 1.0, "loss": None, "learning_rate": 2e-4},  # float16 overflowed
    {"step": 2, "epoch": 1.0, "eval_loss": 3.0, "eval_exact_match": 0.25},
]
SHOWN = [
    *(("train/loss", 2.0, 1), ("train/learning_rate", 1e-4, 1), ("train/learning_rate", 2e-4, 2)),
    *(("eval/loss", 3.0, 2), ("eval/exact_match", 0.25, 2)),
]


def read_visualdl(directory):
    """[(tag, value, step)] of all records in a folder, read by VisualDL itself."""
    from visualdl import LogReader

    (file,) = directory.iterdir()
    reader = LogReader(file_path=str(file))
    tags = reader.get_tags()["scalar"]
    return sorted((tag, record.value, record.id) for tag in tags for record in reader.get_data("scalar", tag))


def rounded(shown):
    return [(tag, pytest.approx(value), step) for tag, value, step in sorted(shown)]


def test_visualdl(tmp_path):
    reporters = Reporters(("visualdl",), tmp_path, STARTED, [])
    for entry in ENTRIES:
        reporters.write(entry)
    reporters.close()
    assert read_visualdl(reporters.directory / "visualdl") == rounded(SHOWN)


def test_run_that_goes_on_has_every_step_once(tmp_path):
    lost = Reporters(("visualdl",), tmp_path, STARTED, ENTRIES[:1])
    lost.write({"step": 2, "loss": 9.0})
    lost.close()
    reporters = Reporters(("visualdl",), tmp_path, STARTED, ENTRIES[:1])
    for entry in ENTRIES[1:]:
        reporters.write(entry)
    reporters.close()
    assert read_visualdl(reporters.directory / "visualdl") == rounded(SHOWN)
    other = Reporters(("visualdl",), tmp_path, STARTED + 10**12, [])
    other.close()
    assert len(list(tmp_path.iterdir())) == 2  # another run's stay


def test_tensorboard(tmp_path, monkeypatch):
    """Through a stand-in: the package is optional."""
    shown = []

    class SummaryWriter:
        def __init__(self, logdir):
            self.logdir = logdir

        def add_scalar(self, *values):
            shown.append(values)

        def close(self):
            shown.append("closed")

    stand_in = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "tensorboardX", stand_in)
    reporters = Reporters(("tensorboard",), tmp_path, STARTED, ENTRIES)
    reporters.close()
    assert shown == [*SHOWN, "closed"]
    assert reporters.writers[0].logdir == str(reporters.directory / "tensorboard")


def test_none_writes_nothing(tmp_path):
    reporters = Reporters((), tmp_path, STARTED, ENTRIES)
    reporters.write(ENTRIES[0])
    reporters.close()
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named(monkeypatch):
    check_installed(("visualdl",))
    monkeypatch.setattr(reporting.importlib.util, "find_spec", lambda name: None)
    assert importlib.util.find_spec("os") is None
    with pytest.raises(ValueError, match='names tensorboard, .* pip install --no-deps "tensorboardX>=2.6,<3"'):
        check_installed(("tensorboard",))

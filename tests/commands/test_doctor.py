"""What doctor prints, and its exit status."""

import builtins
import json
import re
import sys

import pytest

from paddle_xc2 import cli
from paddle_xc2.commands import doctor
from paddle_xc2.installation import faults
from paddle_xc2.installation.faults import Installation

VERSIONS = {"paddlepaddle": "3.3.1", "numpy": "1.26.4", "paddlemix": "0.1.0"}
REQUIRED = {"paddlepaddle": ">=3.0,<3.4", "numpy": ">=1.24,<2"}
PROBE = {
    "paddle": {"device": "cpu", "lines": ["device: cpu, A CPU"], "gflops": 100.0, "seconds": 2.0},
    "paddlenlp": {"version": "3.0.0b4", "seconds": 3.0},
}


@pytest.mark.parametrize("version, status", [("3.3.1", 0), ("2.6.2", 1)])
def test_report_and_exit_status(monkeypatch, capsys, version, status):
    installed = Installation({**VERSIONS, "paddlepaddle": version}, REQUIRED, PROBE, has_gpu=False)
    monkeypatch.setattr(faults, "read_installation", lambda: installed)
    assert cli.main(["doctor"]) == status
    text = capsys.readouterr().out
    assert "device: cpu, A CPU" in text and "ok    numpy 1.26.4" in text and "also here: paddlemix 0.1.0" in text
    assert ("1 to mend, from the top" if status else "Nothing to mend.") in text
    assert cli.main(["doctor", "--json"]) == status
    assert json.loads(capsys.readouterr().out)["versions"]["numpy"] == "1.26.4"


def test_memory():
    assert re.fullmatch(r"[\d.]+ [MG]B of [\d.]+ GB available", doctor.memory_text())


@pytest.fixture
def missing(monkeypatch):
    """Makes a package one that is not installed."""
    real = builtins.__import__

    def without(name):
        def refuse(asked, *arguments, **names):
            if asked.split(".")[0] == name:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)
            return real(asked, *arguments, **names)

        for module in [one for one in sys.modules if one.startswith("paddle_xc2.installation")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setattr(builtins, "__import__", refuse)

    return without


def test_without_psutil_the_memory_is_unknown(missing):
    missing("psutil")
    assert doctor.memory_text() == "unknown, because psutil is not installed"


def test_without_packaging_it_says_what_to_install(missing, capsys):
    missing("packaging")
    assert cli.main(["doctor"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("paddle-xc2 doctor: No module named 'packaging', by which doctor itself compares versions")
    assert line.endswith("-m pip install packaging")

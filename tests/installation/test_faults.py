"""Faults of an installation that are looked for, and what is said to mend them."""

from dataclasses import replace
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from paddle_xc2.installation import faults
from paddle_xc2.installation.faults import Installation
from paddle_xc2.installation.requirements import PIP, read_requirements
from tests.conftest import ROOT

PADDLE = {"device": "cpu", "lines": ["device: cpu, A CPU"], "gflops": 100.0, "seconds": 2.0}


def healthy() -> Installation:
    """An installation without a fault: what requirements.lock names."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in locked
        if one.marker is None or one.marker.evaluate()
    }
    probe = {"paddle": PADDLE, "paddlenlp": {"version": "3.0.0b4", "seconds": 3.0}}
    return Installation(versions, read_requirements(), probe, has_gpu=False)


def problems(installed):
    """[(state, text, mend)] of what is not as it should be."""
    return [
        (found.state, found.text, found.mend.replace(PIP, "pip"))
        for found in faults.examine(installed)
        if found.state != "ok"
    ]


def with_versions(**versions):
    """The healthy installation with other versions; None takes a package out."""
    changed = {**healthy().versions, **{name.replace("_", "-"): version for name, version in versions.items()}}
    return replace(healthy(), versions={name: version for name, version in changed.items() if version})


def with_error(installed, error, library="paddlenlp"):
    return replace(installed, probe={**installed.probe, library: {"error": error, "seconds": 1.0}})


def test_healthy():
    assert problems(healthy()) == []
    assert len(list(faults.examine(healthy()))) == len(healthy().requirements) + 2


@pytest.mark.parametrize(
    "name, version, error, says, mend",
    [
        (
            "aistudio_sdk",
            "0.3.9",
            "ImportError: cannot import name 'download'",
            "has no download",
            '"aistudio-sdk==0.2.6"',
        ),
        ("datasets", "5.2.0", "ImportError: BucketNotFoundError", "datasets wants another", '"datasets>=2.14,<4"'),
        ("pyarrow", "26.0.1", "ImportError: pyarrow requires NumPy 2.0", "pyarrow wants NumPy 2", '"pyarrow>=12,<21"'),
        ("protobuf", "7.36.2", None, "training with report_to visualdl stops", '"protobuf>=3.20.2,<7"'),
    ],
)
def test_known_faults(name, version, error, says, mend):
    installed = with_versions(**{name: version})
    if error:
        installed = with_error(installed, error)
    state, text, command = problems(installed)[0]
    assert state == "fault" and version in text and says in text
    assert command == f"pip install {mend}"


def test_untested_version_that_works_is_only_noted():
    ((state, text, command),) = problems(with_versions(numpy="2.2.6"))
    assert state == "note" and "numpy 2.2.6 is not >=1.24,<2" in text and command == 'pip install "numpy>=1.24,<2"'


def test_missing_package():
    installed = with_error(with_versions(sentencepiece=None), "ModuleNotFoundError: No module named 'sentencepiece'")
    first, second = problems(installed)
    assert first == ("fault", "sentencepiece is not installed", 'pip install "sentencepiece>=0.2.3,<0.3"')
    assert second[1] == "PaddleNLP can't be imported: ModuleNotFoundError: No module named 'sentencepiece'"


def test_missing_package_of_paddlenlp(monkeypatch):
    asked = ['tokenizers<=0.20.3; python_version <= "3.8"', 'tokenizers<0.22,>=0.21; python_version > "3.8"']
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    ((_, _, command),) = problems(with_error(healthy(), "ModuleNotFoundError: No module named 'tokenizers'"))
    assert command == 'pip install "tokenizers<0.22,>=0.21"'


def test_unknown_import_error_points_to_the_lock_file():
    ((_, text, command),) = problems(with_error(healthy(), "RuntimeError: something new"))
    assert text == "PaddleNLP can't be imported: RuntimeError: something new"
    assert command.startswith("mend what is above; if nothing is, pip install --no-deps -r ")
    assert "requirements.lock" in command


def test_no_paddle():
    (found, *_) = problems(with_versions(paddlepaddle=None))
    assert found == ("fault", "Paddle is not installed", 'pip install "paddlepaddle>=3.0,<3.4"')
    (found, *_) = problems(replace(with_versions(paddlepaddle=None), has_gpu=True))
    assert "paddlepaddle-gpu >=3.0,<3.4 from Paddle's own package index" in found[2]


def test_gpu_build_of_the_public_index():
    ((state, text, command),) = problems(with_versions(paddlepaddle=None, paddlepaddle_gpu="2.6.2"))
    assert state == "fault" and "paddlepaddle-gpu 2.6.2" in text and "the public package index ends at 2.6.2" in text
    assert command.startswith(
        "pip uninstall -y paddlepaddle-gpu; then install paddlepaddle-gpu >=3.0,<3.4 from Paddle's own"
    )


def test_old_cpu_build():
    ((_, text, command),) = problems(with_versions(paddlepaddle="2.6.2"))
    assert text == "paddlepaddle 2.6.2 is not >=3.0,<3.4" and command == 'pip install "paddlepaddle>=3.0,<3.4"'


def test_two_builds_of_paddle():
    ((state, text, command),) = problems(with_versions(paddlepaddle_gpu="3.3.1"))
    assert state == "fault" and "overwrite each other's files: paddlepaddle 3.3.1, paddlepaddle-gpu 3.3.1" in text
    assert command.startswith("pip uninstall -y paddlepaddle paddlepaddle-gpu; then pip install")


def test_cpu_build_on_a_machine_with_a_gpu():
    ((state, text, command),) = problems(replace(healthy(), has_gpu=True))
    assert state == "note" and "computes on the CPU though this machine has a GPU" in text
    assert command.startswith("pip uninstall -y paddlepaddle; then install paddlepaddle-gpu")
    ((_, _, command),) = problems(replace(with_versions(paddlepaddle=None, paddlepaddle_gpu="3.3.1"), has_gpu=True))
    assert "CUDA_VISIBLE_DEVICES" in command


@pytest.mark.parametrize(
    "build, mend", [("paddlepaddle", "--force-reinstall"), ("paddlepaddle_gpu", "own package index")]
)
def test_paddle_that_crashes(build, mend):
    installed = with_versions(**{"paddlepaddle": None, build: "3.3.1"})
    ((state, text, command),) = problems(with_error(installed, "the process was ended by signal 4", "paddle"))
    assert state == "fault" and "can't be used: the process was ended by signal 4" in text and mend in command


def test_python_that_is_too_new(monkeypatch):
    assert faults.examine_python((3, 10)).state == "ok"
    found = faults.examine_python((3, 13))
    assert found.state == "fault" and "need 3.10 to 3.12" in found.text

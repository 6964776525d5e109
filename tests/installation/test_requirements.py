"""What setup.py asks for, and whether a version is in its range."""

from importlib import metadata

import pytest

from paddle_xc2.installation import requirements


@pytest.mark.parametrize(
    "version, allowed, expected",
    [
        ("3.0.0b4", "==3.0.0b4", True),
        ("3.0.0", "==3.0.0b4", False),
        ("3.6.0", ">=2.14,<4", True),
        ("4.0.0", ">=2.14,<4", False),
        ("2.9", ">=2.14,<4", False),
        ("3.0.0rc1", ">=3.0,<3.4", False),
        ("3.3.1+cu118", ">=3.0,<3.4", True),
        ("3.4.0.dev20260101", ">=3.0,<3.4", False),
        ("unknown", ">=3.0,<3.4", False),
    ],
)
def test_is_in_range(version, allowed, expected):
    assert requirements.is_in_range(version, allowed) == expected


def test_requirements_of_an_installation_are_those_of_the_checkout(monkeypatch, tmp_path):
    requires = [
        f"{name}{allowed}" for name, allowed in requirements.read_requirements().items() if name != "paddlepaddle"
    ]
    extras = ['paddlepaddle<3.4,>=3.0; extra == "cpu"', 'paddlepaddle-gpu<3.4,>=3.0; extra == "gpu"']
    expected = {**requirements.read_requirements(), "paddlepaddle": "<3.4,>=3.0"}
    monkeypatch.setattr(requirements, "PACKAGE", tmp_path / "paddle_xc2")
    monkeypatch.setattr(metadata, "requires", lambda name: requires + extras)
    assert requirements.read_requirements() == expected
    assert requirements.install_all().endswith('pip install --force-reinstall "paddle_xc2[cpu]"')

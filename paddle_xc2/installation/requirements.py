"""What setup.py asks for, and whether a version is in its range."""

from __future__ import annotations

import ast
import shlex
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

import paddle_xc2

PACKAGE = Path(paddle_xc2.__file__).resolve().parent
PIP = f"{shlex.quote(sys.executable)} -m pip"


def read_requirements() -> dict[str, str]:
    """What setup.py asks for, with Paddle for the CPU: from the file in a checkout, else from the metadata.

    Returns: version range by a package's canonical name, which all its spellings have in common.
    """
    setup_file = PACKAGE.parent / "setup.py"
    if setup_file.is_file():
        lists = {
            ast.unparse(statement.targets[0]): ast.literal_eval(statement.value)
            for statement in ast.parse(setup_file.read_text(encoding="utf-8")).body
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) in ("REQUIRES", "EXTRAS")
        }
        lines = lists["REQUIRES"] + lists["EXTRAS"]["cpu"]
    else:
        lines = _asked_for(metadata.requires("paddle_xc2") or (), extra="cpu")
    names = [Requirement(line).name for line in lines]
    return {
        canonicalize_name(name): line.removeprefix(name).replace(" ", "")
        for name, line in zip(names, lines, strict=True)
    }


def is_in_range(version: str, allowed: str) -> bool:
    """Whether `version` is in a range of setup.py, e.g. ">=2.14,<4"."""
    try:
        return SpecifierSet(allowed).contains(version, prereleases=True)
    except InvalidVersion:
        return False


def paddlenlp_requirement(module: str) -> str | None:
    """What PaddleNLP's metadata ask for under the name of `module`, e.g. "tokenizers<0.22,>=0.21"; None if nothing."""
    try:
        lines = _asked_for(metadata.requires("paddlenlp") or ())
    except metadata.PackageNotFoundError:
        return None
    wanted = canonicalize_name(module)
    return next((line for line in lines if canonicalize_name(Requirement(line).name) == wanted), None)


def _asked_for(lines, extra: str = "") -> list[str]:
    """Requirements that hold here, with an extra or none, without their conditions."""
    markers = [(line, Requirement(line).marker) for line in lines]
    asked = [line for line, marker in markers if marker is None or marker.evaluate({"extra": extra})]
    return [line.partition(";")[0].strip() for line in asked]


def install_all() -> str:
    """The command that installs what is tested."""
    lock = PACKAGE.parent / "requirements.lock"
    if lock.is_file():
        return f"{PIP} install --no-deps -r {shlex.quote(str(lock))}"
    return f'{PIP} install --force-reinstall "paddle_xc2[cpu]"'

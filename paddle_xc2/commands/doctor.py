"""`paddle-xc2 doctor`: what is installed, what it can do, and what is wrong with it."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import paddle_xc2
from paddle_xc2.messages import Failure, sized

HELP = "show versions, device, precision and threads, and what is wrong with the installation"
EXAMPLE = "paddle-xc2 doctor"

# Shown where they are installed: nothing here needs them.
_ALSO = ("paddlemix", "paddleformers", "scikit-learn", "gradio", "av")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(args: Namespace) -> int:
    try:
        from paddle_xc2.installation.faults import examine, read_installation
    except ModuleNotFoundError as error:
        what = f"{error}, by which doctor itself compares versions"
        raise Failure(f"{what}; run: {sys.executable} -m pip install {error.name}") from error
    installed = read_installation()
    findings = list(examine(installed))
    if args.json:
        print(json.dumps({**asdict(installed), "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print("\n".join(report(installed, findings)))
    return 1 if any(finding.state == "fault" for finding in findings) else 0


def report(installed, findings: list) -> Iterator[str]:
    """The lines that a person reads of an Installation and the Findings in it."""
    from paddle_xc2.installation.requirements import install_all

    yield f"paddle_xc2 {paddle_xc2.__version__} in {Path(paddle_xc2.__file__).resolve().parent}"
    yield f"Python {platform.python_version()} in {sys.prefix}, {platform.platform()}"
    for name in _ALSO:
        if name in installed.versions:
            yield f"also here: {name} {installed.versions[name]}"
    yield ""
    yield from installed.probe["paddle"].get("lines", ["device: unknown, because Paddle can't be used"])
    yield f"memory: {memory_text()}"
    yield f"disk: {sized(shutil.disk_usage('.').free)} free here"
    yield ""
    for finding in findings:
        yield f"{finding.state:<6}{finding.text}"
        if finding.mend:
            yield f"      mend: {finding.mend}"
    yield ""
    faults = sum(finding.state == "fault" for finding in findings)
    if faults:
        yield f"{faults} to mend, from the top; or all packages at once: {install_all()}"
    else:
        yield "Nothing to mend."


def memory_text() -> str:
    """Available and total memory of the machine."""
    try:
        import psutil
    except ImportError:
        return "unknown, because psutil is not installed"
    memory = psutil.virtual_memory()
    return f"{sized(memory.available)} of {sized(memory.total)} available"

"""Every fault of an installation that is looked for, and what mends it.

Nothing of what may be broken is imported into this process: versions are read from the packages' metadata, and Paddle
and PaddleNLP are tried by `probe.py`.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from paddle_xc2.installation.probe import run_probe
from paddle_xc2.installation.requirements import (
    PIP,
    install_all,
    is_in_range,
    paddlenlp_requirement,
    read_requirements,
)

GPU_WHEEL = (
    "install paddlepaddle-gpu {range} from Paddle's own package index, as its installation page says for your CUDA"
)

# Why a version outside setup.py's range is known to break things, as its users meet it.
KNOWN_FAULTS = {
    "aistudio-sdk": "PaddleNLP can't be imported: aistudio_sdk.hub has no download (PaddleNLP#10781, #11133)",
    "datasets": "PaddleNLP can't be imported: datasets wants another huggingface_hub or pyarrow",
    "pyarrow": "PaddleNLP can't be imported: pyarrow wants NumPy 2",
    "numpy": "PaddleNLP asks for at most 1.26.4",
    "protobuf": "VisualDL refuses the Trainer's settings: training with report_to visualdl stops",
    "sentencepiece": "0.2.2 refuses InternLM2's tokenizer.model",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: str  # "ok"; "fault": mend it; "note": works, but not as well as it could, or not as tested
    text: str
    mend: str = ""  # what to do, as a command where there is one


@dataclass(frozen=True)
class Installation:
    """What the findings are drawn from."""

    versions: dict[str, str]  # of the installed packages, by canonical name
    requirements: dict[str, str]  # of setup.py: name -> version range; "paddlepaddle" stands for all builds of Paddle
    probe: dict[str, dict]  # "paddle" and "paddlenlp" -> what `probe()` found, or {"error": ...}
    has_gpu: bool  # the machine has one, whether Paddle sees it or not


def read_installation() -> Installation:
    found = [one for one in metadata.distributions() if one.name]
    versions = {str(canonicalize_name(one.name)): one.version for one in found}
    has_gpu = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    return Installation(versions, read_requirements(), run_probe(), has_gpu)


def examine(installed: Installation) -> Iterator[Finding]:
    """Every fault that is looked for, found or not."""
    yield examine_python(sys.version_info[:2])
    yield from examine_paddle(installed)
    works = "error" not in installed.probe["paddlenlp"]
    for name, allowed in installed.requirements.items():
        if name != "paddlepaddle":
            yield examine_package(name, installed.versions.get(name), allowed, works)
    yield examine_paddlenlp(installed.probe["paddlenlp"])


def examine_python(version: tuple[int, int]) -> Finding:
    if (3, 10) <= version <= (3, 12):
        return Finding("ok", f"Python {platform.python_version()}")
    mend = "install Python 3.12, 3.11 or 3.10, and paddle_xc2 with it"
    return Finding("fault", f"Python {platform.python_version()}: PaddleNLP and Paddle need 3.10 to 3.12", mend)


def examine_paddle(installed: Installation) -> Iterator[Finding]:
    allowed = installed.requirements["paddlepaddle"]
    install_cpu = f'{PIP} install "paddlepaddle{allowed}"'
    gpu_wheel = GPU_WHEEL.format(range=allowed)
    builds = {name: version for name, version in installed.versions.items() if name.startswith("paddlepaddle")}
    names = ", ".join(f"{name} {version}" for name, version in builds.items())
    if not builds:
        yield Finding("fault", "Paddle is not installed", gpu_wheel if installed.has_gpu else install_cpu)
        return
    remove = f"{PIP} uninstall -y {' '.join(builds)}"
    if len(builds) > 1:
        mend = f"{remove}; then {gpu_wheel if installed.has_gpu else install_cpu}"
        yield Finding("fault", f"several builds of Paddle overwrite each other's files: {names}", mend)
        return
    ((name, version),) = builds.items()
    if not is_in_range(version, allowed):
        what = f"{names} is not {allowed}"
        if name == "paddlepaddle-gpu":
            what += "; the public package index ends at 2.6.2"
        yield Finding("fault", what, f"{remove}; then {gpu_wheel}" if name == "paddlepaddle-gpu" else install_cpu)
        return
    probe = installed.probe["paddle"]
    if "error" in probe:
        mend = gpu_wheel if name == "paddlepaddle-gpu" else f"{install_cpu} --force-reinstall --no-deps"
        yield Finding("fault", f"{names} can't be used: {probe['error']}", mend)
    elif installed.has_gpu and probe["device"] == "cpu":
        what = f"{names} computes on the CPU though this machine has a GPU"
        if name == "paddlepaddle":
            yield Finding("note", what, f"{remove}; then {gpu_wheel}")
        else:
            yield Finding("note", what, "look at nvidia-smi and CUDA_VISIBLE_DEVICES: Paddle sees no GPU")
    else:
        yield Finding("ok", names)


def examine_package(name: str, version: str | None, allowed: str, paddlenlp_works: bool) -> Finding:
    """Whether a package is there, in setup.py's range. Outside of it, it is a fault where it stops PaddleNLP."""
    install = f'{PIP} install "{name}{allowed}"'
    if version is None:
        return Finding("fault", f"{name} is not installed", install)
    if is_in_range(version, allowed):
        return Finding("ok", f"{name} {version}")
    what = f"{name} {version} is not {allowed}"
    if name in KNOWN_FAULTS:
        what += f": {KNOWN_FAULTS[name]}"
    # protobuf breaks training later, not the import.
    return Finding("note" if paddlenlp_works and name != "protobuf" else "fault", what, install)


def examine_paddlenlp(probe: dict) -> Finding:
    if "error" not in probe:
        return Finding("ok", f"PaddleNLP's Trainer can be imported ({probe['seconds']:.1f} s)")
    missing = re.search(r"No module named '(\w+)", probe["error"])
    requirement = missing and paddlenlp_requirement(missing[1])
    mend = f'{PIP} install "{requirement}"' if requirement else f"mend what is above; if nothing is, {install_all()}"
    return Finding("fault", f"PaddleNLP can't be imported: {probe['error']}", mend)

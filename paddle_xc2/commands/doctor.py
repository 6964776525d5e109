"""`paddle-xc2 doctor`: what is installed, what it can do, and what is wrong with it.

Nothing of what may be broken is imported into this process: versions are read from the packages' metadata, and Paddle
and PaddleNLP are tried in a process of their own (`probe()`), which may fail, hang or crash.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import paddle_xc2

HELP = "show versions, device, precision and threads, and what is wrong with the installation"
EXAMPLE = "paddle-xc2 doctor"

PACKAGE = Path(paddle_xc2.__file__).resolve().parent
PIP = f"{shlex.quote(sys.executable)} -m pip"
GPU_WHEEL = (
    "install paddlepaddle-gpu {range} from Paddle's own package index, as its installation page says for your CUDA"
)
PROBE_MARK = "paddle_xc2 probe: "
PROBE_SECONDS = 180

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
class Facts:
    """What the findings are drawn from."""

    versions: dict[str, str]  # of the installed packages, by normalized name
    requirements: dict[str, str]  # of setup.py: name -> version range; "paddlepaddle" stands for all builds of Paddle
    probe: dict[str, dict]  # "paddle" and "paddlenlp" -> what `probe()` found, or {"error": ...}
    has_gpu: bool  # the machine has one, whether Paddle sees it or not


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(args: Namespace) -> int:
    facts = gather_facts()
    findings = list(examine(facts))
    if args.json:
        print(json.dumps({**asdict(facts), "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print("\n".join(report(facts, findings)))
    return 1 if any(finding.state == "fault" for finding in findings) else 0


def gather_facts() -> Facts:
    versions = {normalized(found.name): found.version for found in metadata.distributions() if found.name}
    has_gpu = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    return Facts(versions, read_requirements(), run_probe(), has_gpu)


def normalized(name: str) -> str:
    """A package's name as all its spellings have it in common: "huggingface_hub" -> "huggingface-hub"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_requirements() -> dict[str, str]:
    """What setup.py asks for, with Paddle for the CPU: from the file in a checkout, else from the metadata."""
    setup_file = PACKAGE.parent / "setup.py"
    if setup_file.is_file():
        lists = {
            statement.targets[0].id: ast.literal_eval(statement.value)
            for statement in ast.parse(setup_file.read_text(encoding="utf-8")).body
            if isinstance(statement, ast.Assign) and statement.targets[0].id in ("REQUIRES", "EXTRAS")
        }
        lines = lists["REQUIRES"] + lists["EXTRAS"]["cpu"]
    else:
        conditions = [line.partition(";") for line in metadata.requires("paddle_xc2") or ()]
        lines = [line for line, _, condition in conditions if not condition or re.search(r"extra == .cpu.", condition)]
    split = [re.match(r"[\w.-]+", line.strip()) for line in lines]
    return {normalized(name[0]): name.string[name.end() :].replace(" ", "") for name in split}


def is_in_range(version: str, allowed: str) -> bool:
    """Whether `version` is in a range of setup.py, e.g. ">=2.14,<4"."""
    tests = {
        "==": lambda ours, theirs: version == theirs,
        ">=": lambda ours, theirs: ours >= numbers(theirs),
        "<": lambda ours, theirs: ours < numbers(theirs),
    }
    parts = [re.match(r"(==|>=|<)(.+)", part).groups() for part in allowed.split(",")]
    return all(tests[relation](numbers(version), bound) for relation, bound in parts)


def numbers(version: str) -> tuple[int, ...]:
    """The release part of a version: "3.0.0b4" -> (3, 0, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in release[0].split(".")) if release else ()


def examine(facts: Facts) -> Iterator[Finding]:
    """Every fault that is looked for, found or not."""
    yield examine_python(sys.version_info[:2])
    yield from examine_paddle(facts)
    works = "error" not in facts.probe["paddlenlp"]
    for name, allowed in facts.requirements.items():
        if name != "paddlepaddle":
            yield examine_package(name, facts.versions.get(name), allowed, works)
    yield examine_paddlenlp(facts.probe["paddlenlp"])


def examine_python(version: tuple[int, int]) -> Finding:
    if (3, 10) <= version <= (3, 12):
        return Finding("ok", f"Python {platform.python_version()}")
    mend = "install Python 3.12, 3.11 or 3.10, and paddle_xc2 with it"
    return Finding("fault", f"Python {platform.python_version()}: PaddleNLP and Paddle need 3.10 to 3.12", mend)


def examine_paddle(facts: Facts) -> Iterator[Finding]:
    allowed = facts.requirements["paddlepaddle"]
    install_cpu = f'{PIP} install "paddlepaddle{allowed}"'
    gpu_wheel = GPU_WHEEL.format(range=allowed)
    builds = {name: version for name, version in facts.versions.items() if name.startswith("paddlepaddle")}
    names = ", ".join(f"{name} {version}" for name, version in builds.items())
    if not builds:
        yield Finding("fault", "Paddle is not installed", gpu_wheel if facts.has_gpu else install_cpu)
        return
    remove = f"{PIP} uninstall -y {' '.join(builds)}"
    if len(builds) > 1:
        mend = f"{remove}; then {gpu_wheel if facts.has_gpu else install_cpu}"
        yield Finding("fault", f"several builds of Paddle overwrite each other's files: {names}", mend)
        return
    ((name, version),) = builds.items()
    if not is_in_range(version, allowed):
        what = f"{names} is not {allowed}"
        if name == "paddlepaddle-gpu":
            what += "; the public package index ends at 2.6.2"
        yield Finding("fault", what, f"{remove}; then {gpu_wheel}" if name == "paddlepaddle-gpu" else install_cpu)
        return
    probe = facts.probe["paddle"]
    if "error" in probe:
        mend = gpu_wheel if name == "paddlepaddle-gpu" else f"{install_cpu} --force-reinstall --no-deps"
        yield Finding("fault", f"{names} can't be used: {probe['error']}", mend)
    elif facts.has_gpu and probe["device"] == "cpu":
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


def paddlenlp_requirement(module: str) -> str | None:
    """What PaddleNLP's metadata ask for under the name of `module`, e.g. "tokenizers<0.22,>=0.21"; None if nothing."""
    try:
        lines = metadata.requires("paddlenlp") or ()
    except metadata.PackageNotFoundError:
        return None
    for line in lines:
        requirement, _, condition = line.partition(";")
        name = re.match(r"[\w.-]+", requirement)[0]
        of_old_python = 'python_version <= "3.8"' in condition
        if normalized(name) == normalized(module) and "extra ==" not in condition and not of_old_python:
            return requirement.strip()
    return None


def install_all() -> str:
    """The command that installs what is tested."""
    lock = PACKAGE.parent / "requirements.lock"
    if lock.is_file():
        return f"{PIP} install --no-deps -r {shlex.quote(str(lock))}"
    return f'{PIP} install --force-reinstall "paddle_xc2[cpu]"'


def report(facts: Facts, findings: list[Finding]) -> Iterator[str]:
    """The lines that a person reads."""
    yield f"paddle_xc2 {paddle_xc2.__version__} in {PACKAGE}"
    yield f"Python {platform.python_version()} in {sys.prefix}, {platform.platform()}"
    for name in ("paddlemix", "paddleformers", "scikit-learn", "gradio", "av"):
        if name in facts.versions:
            yield f"also here: {name} {facts.versions[name]}"
    yield ""
    yield from facts.probe["paddle"].get("lines", ["device: unknown, because Paddle can't be used"])
    yield f"memory: {memory_text()}"
    yield f"disk: {shutil.disk_usage('.').free / 1e9:.0f} GB free here"
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
    """Total and available memory of the machine."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return "unknown on this system"
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return f"{kilobytes['MemAvailable'] / 1e6:.1f} of {kilobytes['MemTotal'] / 1e6:.1f} GB available"


def run_probe() -> dict[str, dict]:
    """Runs `probe()` in a process of its own.

    Returns: "paddle" and "paddlenlp" -> their facts, or {"error": a line}.
    """
    path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "paddle_xc2.commands.doctor"]
    end = f"it was still running after {PROBE_SECONDS} s"
    try:
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=PROBE_SECONDS
        )
        output, end = done.stdout, f"the process ended with status {done.returncode}"
        if done.returncode < 0:
            end = f"the process was ended by signal {-done.returncode}"  # 4 on a CPU without AVX, 9 without memory
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode(errors="replace")
    facts = {}
    for line in output.splitlines():
        if line.startswith(PROBE_MARK):
            facts.update(json.loads(line.removeprefix(PROBE_MARK)))
    return {"paddle": {"error": end}, "paddlenlp": {"error": end}, **facts}


def probe() -> None:
    """Tries Paddle, then PaddleNLP, and prints what it found as marked lines of JSON."""
    for name, examine_library in (("paddle", probe_paddle), ("paddlenlp", probe_paddlenlp)):
        start = time.perf_counter()
        try:
            found = examine_library()
        except Exception as error:  # whatever it is, it is what the user wants to know
            found = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        found["seconds"] = time.perf_counter() - start
        print(PROBE_MARK + json.dumps({name: found}), flush=True)


def probe_paddle() -> dict:
    """Device and settings as `runtime.prepare()` decides them, and the speed of a product under them."""
    from paddle_xc2 import runtime

    settings = runtime.prepare()
    import paddle

    side = 2048
    matrix = paddle.ones([side, side])
    seconds = []
    for _ in range(4):  # the first ones warm up
        start = time.perf_counter()
        paddle.matmul(matrix, matrix)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    speed = 2 * side**3 / min(seconds) / 1e9
    lines = [*settings.lines(), f"float32 product of {side} x {side}: {speed:,.0f} GFLOP/s"]
    return {"device": settings.device, "lines": lines, "gflops": speed}


def probe_paddlenlp() -> dict:
    import paddlenlp
    from paddlenlp.trainer import Trainer  # noqa: F401  (imports nearly everything that can be missing)

    return {"version": paddlenlp.__version__}


if __name__ == "__main__":
    probe()

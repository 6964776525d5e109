"""setup.py, the lock file and the set-up that both commands share.

The set-up runs with a stand-in for Python that writes down what it is asked to install: each case takes milliseconds.
"""

import ast
import re
import shutil
import subprocess
import sys

import pytest
from packaging.utils import canonicalize_name

from paddle_xc2.installation.requirements import is_in_range
from tests.conftest import ROOT

STAND_IN = f"""#!/bin/sh
case "$*" in
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    *"-m pip "*) echo "$*" >>"$INSTALLED"; [ ! -e "$BROKEN" ] ;;
    *"-m compileall "*) ;;
    *"platform.python_version"*) echo "${{VERSION:-3.11.7}}" ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with nothing in it but the set-up, in a folder with a space in its name."""
    folder = tmp_path / "a checkout"
    for part in ("tools/setup_venv.sh", "tests/run.sh", "examples/quickstart.sh"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, folder / part)
    (folder / "requirements.lock").write_text("a==1\nb==2\n")
    (folder / "setup.py").write_text("\n")
    stand_in = tmp_path / "python-stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return folder


def set_up(checkout, script="tests/run.sh", **variables):
    """Runs a script's set-up from another folder. Returns: (exit status, output, what pip was asked for)."""
    installed = checkout.parent / "installed"
    installed.write_text("")
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(checkout.parent / "python-stand-in")}
    environment |= {"INSTALLED": str(installed), "BROKEN": str(checkout.parent / "broken"), **variables}
    done = subprocess.run(
        ["sh", str(checkout / script), "--setup-only"], env=environment, cwd="/", capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr, installed.read_text()


@pytest.mark.parametrize("first, second", [("tests/run.sh", "examples/quickstart.sh"), ("examples/quickstart.sh",) * 2])
def test_first_run_installs_and_second_reuses(checkout, first, second):
    status, output, installed = set_up(checkout, first)
    assert status == 0 and f"Ready: {checkout}/.venv" in output
    assert "Installing the 2 packages" in output
    assert "--requirement requirements.lock" in installed and "--editable ." in installed
    assert set_up(checkout, second) == (0, f"Ready: {checkout}/.venv\n", "")


@pytest.mark.parametrize("file", ["requirements.lock", "setup.py"])
def test_changed_requirements_are_installed_into_the_same_environment(checkout, file):
    set_up(checkout)
    (checkout / ".venv" / "kept").touch()
    (checkout / file).write_text("c==3\n")
    status, _, installed = set_up(checkout)
    assert status == 0 and "requirements.lock" in installed
    assert (checkout / ".venv" / "kept").exists()


def test_interrupted_installation_is_made_anew(checkout):
    broken = checkout.parent / "broken"
    broken.touch()
    assert set_up(checkout)[0] != 0
    (checkout / ".venv" / "half").touch()
    broken.unlink()
    status, output, installed = set_up(checkout)
    assert status == 0 and "Making .venv anew" in output and "requirements.lock" in installed
    assert not (checkout / ".venv" / "half").exists()


def test_installation_under_way_is_left_alone(checkout):
    set_up(checkout)
    with subprocess.Popen(["sleep", "60"]) as other:
        (checkout / ".venv" / "paddle_xc2_unfinished").write_text(f"{other.pid}\n")
        status, output, installed = set_up(checkout)
        other.kill()
    assert status == 1 and f"is being set up by process {other.pid}; wait for it" in output
    assert not installed


def test_moved_environment_is_made_anew(checkout):
    set_up(checkout)
    moved = checkout.rename(checkout.parent / "elsewhere")
    status, output, _ = set_up(moved)
    assert status == 0 and "Making .venv anew" in output and f"Ready: {moved}/.venv" in output


def test_other_python_makes_the_environment_anew(checkout):
    set_up(checkout)
    stand_in = checkout.parent / "python-stand-in"
    newer = checkout.parent / "newer"
    newer.write_text(stand_in.read_text().replace("3.11.7", "3.12.1"))
    newer.chmod(0o755)
    _, output, installed = set_up(checkout, PYTHON=str(newer))
    assert "Making .venv anew" in output and "with Python 3.12.1" in output and installed
    # Without PYTHON, whatever is there is good.
    assert set_up(checkout, PYTHON="")[1] == f"Ready: {checkout}/.venv\n"


def test_somebody_elses_environment_is_used_and_never_removed(checkout):
    (checkout / ".venv/bin").mkdir(parents=True)
    shutil.copy(checkout.parent / "python-stand-in", checkout / ".venv/bin/python")
    (checkout / ".venv" / "theirs").touch()
    status, _, installed = set_up(checkout)
    assert status == 0 and "requirements.lock" in installed and (checkout / ".venv" / "theirs").exists()


def test_somebody_elses_broken_environment_is_refused(checkout):
    (checkout / ".venv").mkdir()
    status, output, installed = set_up(checkout)
    assert status == 1 and "was not made by this script" in output and "move it away" in output
    assert (checkout / ".venv").is_dir() and not installed


def test_unsuitable_python_is_refused(checkout):
    status, output, _ = set_up(checkout, PYTHON="/bin/false")
    assert status == 1 and "PYTHON=/bin/false is no CPython 3.10, 3.11 or 3.12" in output
    empty = checkout.parent / "empty"
    empty.mkdir()
    for tool in ("sh", "cat", "cksum", "dirname", "tail"):
        (empty / tool).symlink_to(shutil.which(tool))
    status, output, _ = set_up(checkout, PYTHON="", PATH=str(empty))
    assert status == 1 and "There is no CPython 3.10, 3.11 or 3.12 with pip and venv" in output
    assert not (checkout / ".venv").exists()


def setup_lists():
    """(REQUIRES, EXTRAS) of setup.py."""
    body = ast.parse((ROOT / "setup.py").read_text()).body
    return [ast.literal_eval(part.value) for part in body if isinstance(part, ast.Assign)]


def test_lock_file_holds_what_setup_asks_for():
    locked = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if not line.startswith("#"):
            name, version = re.match(r"([\w.-]+)==([^ ]+)", line).groups()
            locked.setdefault(name, []).append(version)
    requires, extras = setup_lists()
    for requirement in requires + extras["cpu"] + extras["demo"] + extras["test"]:
        name, allowed = re.match(r"([\w-]+)(.*)", requirement).groups()
        versions = locked[canonicalize_name(name)]
        assert all(is_in_range(version, allowed) for version in versions), f"{requirement}: locked {versions}"


def test_every_requirement_has_a_range_and_a_reason():
    requires, extras = setup_lists()
    lines = (ROOT / "setup.py").read_text().splitlines()
    for requirement in requires:
        assert re.search("<|==|>=", requirement), requirement
        line = next(number for number, text in enumerate(lines) if f'"{requirement}"' in text)
        assert lines[line - 1].strip().startswith("#"), f"no reason for {requirement}"
    assert {"cpu", "gpu", "video", "demo", "tensorboard", "serve", "web", "test"} == set(extras)


def test_every_extra_is_for_code_that_is_there():
    sources = "\n".join(path.read_text() for top in ("paddle_xc2", "examples") for path in (ROOT / top).rglob("*.py"))
    modules = {"scikit-learn": "sklearn"}
    for requirement in [one for name in ("video", "demo", "tensorboard") for one in setup_lists()[1][name]]:
        name = re.match(r"[\w-]+", requirement).group()
        module = modules.get(name, name)
        assert re.search(rf"^\s*(import|from) {module}\b", sources, re.MULTILINE), requirement

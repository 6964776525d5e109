"""Importing: cheap, without effects, and with the required packages only."""

import ast
import pkgutil
import subprocess
import sys

import pytest
from packaging.utils import canonicalize_name

import paddle_xc2
from tests.conftest import ROOT
from tests.test_install import setup_lists

MODULES = ["paddle_xc2"] + [found.name for found in pkgutil.walk_packages(paddle_xc2.__path__, "paddle_xc2.")]
# Modules whose package has another name.
PACKAGES = {"PIL": "pillow", "paddle": "paddlepaddle", "sklearn": "scikit-learn", "google": "protobuf"}
# Used where users have them, for what they have with them; nothing asks anybody to install them.
IF_PRESENT = {"modelscope"}


def run_python(program):
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_cheap():
    heavy = ("paddle", "paddlenlp", "numpy", "PIL", "matplotlib", "sentencepiece")
    program = f"import sys, paddle_xc2; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(program) == "[]\n"


def test_every_module_can_be_imported_without_effects():
    program = f"""
import os, random, numpy, paddle

def state():
    return (
        dict(os.environ), os.getcwd(), paddle.get_device(), paddle.get_default_dtype(), random.getstate(),
        str(numpy.random.get_state()), paddle.base.core.default_cpu_generator().get_state().current_seed(),
    )

import paddlenlp.trainer, paddlenlp.transformers  # what these do themselves is not ours to judge
before = state()
import importlib
for name in {MODULES}:
    importlib.import_module(name)
for name, was, now in zip(("environment", "folder", "device", "dtype", "random", "numpy", "paddle"), before, state()):
    assert was == now, name
"""
    run_python(program)


def third_party_imports(path):
    """Yields (line, top-level module, whether it is imported with the file) of what a file imports from elsewhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            continue
        for name in {name.split(".")[0] for name in names}:
            if name not in sys.stdlib_module_names and name != "paddle_xc2":
                yield node.lineno, name, id(node) not in lazy


@pytest.mark.parametrize("path", sorted((ROOT / "paddle_xc2").rglob("*.py")), ids=lambda path: path.stem)
def test_modules_import_what_setup_lists(path):
    requires, extras = setup_lists()
    required = {name_of(line) for line in requires + extras["cpu"]}
    optional = {name_of(line) for lines in extras.values() for line in lines}
    if path.parent.name == "serving":  # only its commands import it, and they say which extra is missing
        required |= {name_of(line) for line in extras["serve"]}
    for line, module, at_import in third_party_imports(path):
        package = canonicalize_name(PACKAGES.get(module, module))
        allowed = required if at_import else required | optional | IF_PRESENT
        assert package in allowed, (
            f"{path.name}:{line}: {module} is not in setup.py, or optional and imported at the top"
        )


def name_of(requirement):
    """ "datasets>=2.14,<4" -> "datasets"."""
    return canonicalize_name(requirement.replace("=", "<").replace(">", "<").split("<")[0])

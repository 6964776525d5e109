"""Imports point one way: from a command down to the facts, never back up, and never in a circle.

docs/architecture.md says what each room is for. Every import counts, those inside functions too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the bottom to the top. A room may import what stands in a line before its own, and itself. Rooms of one line
# don't import each other.
ORDER = [
    {"messages", "__init__"},
    {"files"},
    {"families"},
    {"hub", "batch_layout"},
    {"text", "runtime", "device_errors"},
    {"checkpoint"},
    {"data", "models"},
    {"weights", "generation"},
    {"model"},
    {"training", "serving", "integrations", "installation", "merge_check"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name of every module below the package, without the package's own name, and its file."""
    names = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return names


def imported(text: str, known: dict[str, Path], package: str = "paddle_xc2") -> Iterator[str]:
    """Yields the package's own modules that a file imports, be it for a type checker."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"line {node.lineno}: a relative import; STYLE: absolute ones")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            within = node.module.removeprefix(package).lstrip(".")
            whole = [f"{within}.{alias.name}".lstrip(".") for alias in node.names]
            names = [name if name in known else within or "__init__" for name in whole]
        elif isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.split(".")[0] == package]
            names = [name.removeprefix(package).lstrip(".") or "__init__" for name in ours]
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
            and node.args[0].value.split(".")[0] == package
        ):
            names = [node.args[0].value.removeprefix(package).lstrip(".") or "__init__"]
        else:
            continue
        yield from names


def arrows(package: Path) -> dict[str, set[str]]:
    """What each module imports."""
    known = modules(package)
    return {module: set(imported(path.read_text(encoding="utf-8"), known)) for module, path in known.items()}


def room(module: str) -> str:
    return module.split(".")[0]


def faults(found: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Arrows that point up or sideways. The package's own __init__, which imports on demand, is looked at elsewhere."""
    return {
        (module, other)
        for module, others in found.items()
        for other in others
        if module != "__init__" and room(module) != room(other) and FLOOR[room(other)] >= FLOOR[room(module)]
    }


def circle(found: dict[str, set[str]]) -> list[str] | None:
    """Modules that import each other in turn, if there are any."""
    done: set[str] = set()

    def follow(module: str, way: list[str]) -> list[str] | None:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done or module not in found:
            return None
        for other in sorted(found[module]):
            if other != "__init__" and (met := follow(other, [*way, module])):
                return met
        done.add(module)
        return None

    return next((met for module in sorted(found) if (met := follow(module, []))), None)


def test_every_room_has_its_place():
    assert {room(module) for module in modules(ROOT / "paddle_xc2")} <= set(FLOOR)


def test_imports_point_down():
    found = faults(arrows(ROOT / "paddle_xc2"))
    assert found == set(), "these point up or sideways: see ORDER"


def test_no_circle():
    assert circle(arrows(ROOT / "paddle_xc2")) is None


@pytest.mark.parametrize(
    "module, line",
    [
        ("files/durable.py", "from paddle_xc2.families import table"),
        ("families/table.py", "from paddle_xc2.hub.find import find_model"),
        ("models/lora.py", "from paddle_xc2.data.collate import collate"),
        ("data/collate.py", "def f():\n    import paddle_xc2.models.lora"),
        ("training/trainer.py", "def f():\n    from paddle_xc2 import cli"),
    ],
)
def test_an_arrow_that_is_turned_round_is_seen(tmp_path, module, line):
    for path in modules(ROOT / "paddle_xc2").values():
        copy = tmp_path / "paddle_xc2" / path.relative_to(ROOT / "paddle_xc2")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8") + (line if path.match(module) else ""), encoding="utf-8")
    (fault,) = faults(arrows(tmp_path / "paddle_xc2"))
    assert fault[0] == module.removesuffix(".py").replace("/", ".")


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]


# Imported when it is needed, not with the file: what takes seconds, is optional, or isn't needed by most commands.
STAYS_UNLOADED = {
    "paddle": "seconds, and `paddle-xc2 --help` needs none",
    "paddlenlp": "seconds",
    "av": "an extra",
    "matplotlib": "half a second, for a picture at the end",
    "jinja2": "for a report",
    "tqdm": "for what takes long",
    "requests": "for addresses",
    "huggingface_hub": "for models that aren't here",
    "modelscope": "used where it is installed",
    "aistudio_sdk": "for models that aren't here",
    "visualdl": "for report_to",
    "tensorboardX": "an extra",
    "numpy": "importing the package is cheap",
    "psutil": "importing the package is cheap",
}


def inner_imports(path: Path) -> Iterator[str]:
    """Yields the modules that the functions of a file import."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield node.module


def test_imports_in_functions_only_in_commands_and_of_libraries_that_stay_unloaded():
    found = {
        (module, name)
        for module, path in modules(ROOT / "paddle_xc2").items()
        for name in inner_imports(path)
        if room(module) not in ("commands", "cli") and name.split(".")[0] not in STAYS_UNLOADED
    }
    assert found == set()

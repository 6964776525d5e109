"""Files and functions of the package are short enough to be read at once; two files of one name are one thing."""

import ast
from collections import Counter

from paddle_xc2 import cli
from tests.conftest import ROOT

LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 60
# A comment that begins with it, right above a longer function, says why it is one.
REASON = "# Long: "
# A command has the name of the verb that it calls.
COMMANDS = "commands"

PACKAGE = ROOT / "paddle_xc2"
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def long_functions(name: str, text: str) -> set[str]:
    """Those of a file that are too long and don't say why."""
    lines = text.splitlines()
    found = set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if node.end_lineno - first >= LINES_OF_A_FUNCTION and not lines[first - 2].strip().startswith(REASON):
            found.add(f"{name}: {node.name}")
    return found


def test_files():
    assert {name for name, text in SOURCES.items() if text.count("\n") > LINES_OF_A_FILE} == set()


def test_functions():
    assert {one for name, text in SOURCES.items() for one in long_functions(name, text)} == set()


def test_a_long_function_is_seen():
    text = "def f():\n" + "    x = 1\n" * LINES_OF_A_FUNCTION
    assert long_functions("a.py", text) == {"a.py: f"}
    assert long_functions("a.py", f"{REASON}a table\n{text}") == set()
    assert long_functions("a.py", text[: text.rindex("    x")]) == set()


def test_one_name_one_thing():
    names = Counter(name.rpartition("/")[2] for name in SOURCES if not name.startswith(COMMANDS))
    assert {name for name, number in names.items() if number > 1} == {"__init__.py"}
    namesakes = {name.rpartition("/")[2] for name in SOURCES if name.startswith(COMMANDS)} & names.keys()
    commands = {f"{command.replace('-', '_')}.py" for command in cli.COMMANDS}
    assert namesakes - {"__init__.py"} <= commands, "only a command has another file's name: that of its verb"

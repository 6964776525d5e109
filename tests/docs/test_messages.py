"""Messages that the pages quote are ones that the program says."""

import ast
import re

import pytest

from tests.conftest import ROOT
from tests.docs.pages import PAGES, text_of

SHORTEST = 6  # characters of a quotation between two places that differ
PAGES_OF_MESSAGES = [path for path in PAGES if path.name.startswith("troubleshooting")]


@pytest.fixture(scope="module")
def said():
    """Every text in the package and in the set-up of its environment, each in a line."""
    texts = [
        node.value
        for path in (ROOT / "paddle_xc2").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return "\n".join([*texts, (ROOT / "tools/setup_venv.sh").read_text(encoding="utf-8")])


def quoted(page):
    """Quotations in the first column of the page's tables, in pieces: `...` stands for what differs."""
    for line in page.splitlines():
        cells = line.split(" | ")
        if line.startswith("| `") and len(cells) == 3:
            for quotation in re.findall(r"`([^`]+)`", cells[0]):
                yield from (piece.strip() for piece in quotation.split("..."))


@pytest.mark.parametrize("path", PAGES_OF_MESSAGES, ids=lambda path: path.name)
def test_the_program_says_what_is_quoted(path, said):
    pieces = [piece for piece in quoted(text_of(path)) if len(piece) >= SHORTEST]
    assert len(pieces) > 50
    assert [piece for piece in pieces if piece not in said] == []

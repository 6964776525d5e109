"""Python on the pages can be read, and what it imports is there."""

import ast
from importlib import import_module

import pytest

from tests.docs.pages import PAGES, blocks, name_of, text_of

PYTHON = [(path, block) for path in PAGES for block in blocks(text_of(path), "python")]


@pytest.mark.parametrize("path, block", PYTHON, ids=lambda value: name_of(value) if hasattr(value, "name") else "")
def test_what_is_imported_is_there(path, block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []

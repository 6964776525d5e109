"""The reference of the argument file is written from what the program declares, and is up to date."""

import runpy
import sys

import pytest

from tests.conftest import ROOT

TOOL = "tools/configuration_reference.py"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return runpy.run_path(str(ROOT / TOOL))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_what_the_keys_declare(tool, language):
    page = (ROOT / "docs" / tool["NAMES"][language]).read_text(encoding="utf-8")
    assert page == tool["reference"](language, tool["read_translations"]()), f"run python {TOOL}"


def test_every_translation_is_of_a_text_that_the_page_shows(tool):
    assert set(tool["read_translations"]()) <= set(tool["texts"]()), "take out, or change, what is translated no more"


def test_a_key_shows_type_default_bounds_marks_and_other_names(tool):
    page = tool["reference"]("en", {})
    row = next(line for line in page.splitlines() if line.startswith("| `lora_rank` |"))
    assert "a whole number | `64` | F |" in row and "From 1 to 4,096." in row and "Also called `lora_r`." in row
    assert "| `rslora` | true or false | `false` | LF |" in page
    assert "| `max_steps` | a whole number | `-1` | R |" in page


def test_texts_that_look_like_tags_stay_texts(tool):
    assert '["&lt;defect>"]' in tool["reference"]("en", {})


def test_what_is_not_translated_stays_english(tool):
    assert "rank of the updates." in tool["reference"]("zh", {})
    assert "增量的秩。" in tool["reference"]("zh", {"rank of the updates.": "增量的秩。"})

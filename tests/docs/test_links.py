"""Links and paths on the pages lead somewhere, and every page of docs/ is there in English and in Chinese."""

import re

import pytest

from tests.conftest import ROOT
from tests.docs.pages import CHINESE, PAGES, anchors, blocks, headings, links, name_of, text_of, without_blocks

# A path in the checkout, and in the next cell of a table, names that stand there.
_PATH = re.compile(r"`((?:paddle_xc2|tests|tools|config|examples|docs)/[\w./-]*\w/?)`")
_NAMES = re.compile(r"`([A-Za-z_]\w+)(?:=\w+)?`")

# Written in English alone.
ENGLISH_ONLY = {"CHANGELOG.md", "CONTRIBUTING.md", "config/README.md"}
IN_BOTH = [path for path in PAGES if name_of(path) not in ENGLISH_ONLY and CHINESE not in path.name]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    for link in links(text_of(path)):
        file, _, anchor = link.partition("#")
        if "://" in file:
            continue
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{link}: there is no {target}"
        if anchor:
            assert anchor in anchors(text_of(target)), f"{link}: no heading of {target.name} is called so"


@pytest.mark.parametrize("path", IN_BOTH, ids=name_of)
def test_english_and_chinese_say_the_same(path):
    """As far as it shows: the same headings and blocks of code, and a link from one to the other."""
    chinese = path.with_name(f"{path.stem}{CHINESE}.md")
    texts = [text_of(path), text_of(chinese)]
    levels = [[level for level, _ in headings(text)] for text in texts]
    assert levels[0] == levels[1]
    for language in ("sh", "json", "python"):
        assert len(blocks(texts[0], language)) == len(blocks(texts[1], language))
    assert chinese.name in links(texts[0]) and path.name in links(texts[1])


def test_every_page_is_reached_from_the_readme():
    named = {(ROOT / link).resolve() for link in links(text_of(ROOT / "README.md"))}
    assert {path for path in IN_BOTH if path.parent.name == "docs"} <= named


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=name_of)
def test_paths_in_the_checkout_are_there(path):
    for name in _PATH.findall(without_blocks(text_of(path))):
        assert (ROOT / name).exists() or (ROOT / f"{name}.json").exists(), f"there is no {name}"


def test_what_contributing_names_stands_in_the_files():
    """Its table says in which file, and there under which name, a change goes."""
    rows = [line.split(" | ") for line in text_of(ROOT / "CONTRIBUTING.md").splitlines() if line.startswith("| ")]
    looked_at = 0
    for cells in rows:
        for file in _PATH.findall(cells[1]):
            text = text_of(ROOT / file)
            for name in set(_NAMES.findall(cells[2])) - {"resume"}:
                assert re.search(rf"\b{name}\b", text), f"{file} has no {name}"
                looked_at += 1
    assert looked_at > 10

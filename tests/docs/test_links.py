"""Links between the pages lead somewhere, and every page of docs/ is there in English and in Chinese."""

import pytest

from tests.conftest import ROOT
from tests.docs.pages import CHINESE, PAGES, anchors, blocks, headings, links, name_of, text_of

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

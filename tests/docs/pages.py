"""The pages of the documentation, and what stands in them: links, code blocks, commands."""

import re
import shlex

from tests.conftest import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "config").glob("*.md")], key=lambda path: str(path)
)
CHINESE = "_zh-CN"

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


def name_of(path):
    return str(path.relative_to(ROOT))


def text_of(path):
    return path.read_text(encoding="utf-8")


def blocks(text, language):
    """What stands between ```language and ```."""
    return [
        "\n".join(line.removeprefix(indent) for line in body.splitlines())
        for indent, kind, body in _FENCE.findall(text)
        if kind == language
    ]


def without_blocks(text):
    return _FENCE.sub("", text)


def headings(text):
    """(level, title) of every heading."""
    return [(len(marks), title) for marks, title in _HEADING.findall(without_blocks(text))]


def anchors(text):
    """What a link may name behind #, as GitHub makes it from the headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in headings(text)}


def links(text):
    return _LINK.findall(without_blocks(text))


def commands(text):
    """The words of every command in the page's shell blocks; comments don't count."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]

"""What the terminal, JSON and the page say; nothing that a record holds becomes part of the page."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from paddle_xc2.data.checking.check import check_data, open_sources
from paddle_xc2.data.checking.report import length_numbers, report_values, summary_lines
from paddle_xc2.data.checking.report_page import write_html
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.families.table import family_named
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import tiny_tokenizer

ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}{% raw %}&lt;b&gt;</pre>"
OUR_ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "span", "table", "tr", "td", "th", "ul"),
    *("li", "a", "p", "img", "section", "figure", "figcaption", "pre"),
}  # fmt: skip
VOID = {"meta", "img"}


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return XComposer2Processor(family_named("xcomposer2-7b"), tokenizer, 28, max_length=300)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (400, 300), "red").save(tmp_path / "red.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "red.png").read_bytes()[:-30])
    return tmp_path


def turns(*texts, **others):
    messages = [{"from": ("user", "assistant")[index % 2], "value": text} for index, text in enumerate(texts)]
    return {"conversations": messages, **others}


def checked(folder, records, processor=None, name="train.json"):
    (folder / name).write_text(json.dumps(records))
    sources, _ = open_sources([(folder / name, None)])
    return check_data(sources, processor)


class Page(HTMLParser):
    """Texts and elements of a page; fails where they are not nested."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(("style" in self.open, self.open[-1:], data))

    @property
    def text(self):
        return "".join(data for is_style, _, data in self.texts if not is_style)


def test_nothing_in_a_record_gets_into_the_page(folder, processor):
    records = [
        turns(ATTACK, ATTACK, id=ATTACK),
        turns("Q", "A", image=ATTACK),
        {"conversations": [{"from": ATTACK, "value": ATTACK}, {"from": "assistant", "value": "A"}]},
        {ATTACK: ATTACK},
        turns("Q", "</s>" + ATTACK),
        turns(f"<image>{ATTACK}", "A \ud800"),
    ]
    name = 'x"><script>alert(3)<.json'
    (folder / 'r"><b>.png').write_bytes((folder / "red.png").read_bytes())
    records.append(turns("Q", "A", image='r"><b>.png'))
    for with_model in (None, processor):
        write_html(checked(folder, records, with_model, name), folder / "report.html", with_model)
        page = Page(folder / "report.html")
        assert {tag for tag, _ in page.elements} <= OUR_ELEMENTS
        for tag, attributes in page.elements:
            assert not any(key.startswith("on") for key in attributes)
            if tag == "img":
                assert re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", attributes["src"])
            if tag == "a":
                assert re.fullmatch(r"#record-\d+", attributes["href"])
        assert page.text.count(ATTACK) >= 2  # as text, it is there
        policy = next(attributes for tag, attributes in page.elements if "http-equiv" in attributes)["content"]
        assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not list(folder.glob(".paddle_xc2-*"))


def test_the_page_shows_what_is_trained(folder, processor):
    records = [turns("What is it?", "A red field.", image="red.png"), turns("Q", "A", image="cut.png"), turns("Q", "")]
    write_html(checked(folder, records, processor), folder / "report.html", processor)
    page = Page(folder / "report.html")
    spans = [attributes["class"] for tag, attributes in page.elements if tag == "span" and "class" in attributes]
    assert {"given", "trained", "image"} <= set(spans)
    assert "A red field.[UNUSED_TOKEN_145]\n</s>" in page.text and "<image: 4 tokens>" in page.text
    assert "3 records: 1 can be trained on,\n\n2 can't" in page.text
    kinds = [attributes["src"].split(";")[0] for tag, attributes in page.elements if tag == "img"]
    assert kinds == ["data:image/png", "data:image/jpeg"]  # the histogram, the one picture that can be read
    links = [attributes["href"][1:] for tag, attributes in page.elements if tag == "a"]
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert set(links) == {"record-1", "record-2"} and set(sections) == {"record-0", "record-1", "record-2"}
    assert (folder / "report.html").stat().st_size < 100_000


def test_many_findings_are_cut(folder):
    write_html(checked(folder, [turns("Q", "")] * 25), folder / "report.html")
    page = Page(folder / "report.html")
    assert page.text.count("(assistant) is empty") == 20 + 5 and "\nand 5 more\n" in page.text


def test_long_texts_and_many_pictures_are_cut(folder):
    records = [turns("<ImageHere>" * 9, "word " * 5000, image=["red.png"] * 9)]
    write_html(checked(folder, records), folder / "report.html")
    page = Page(folder / "report.html")
    assert "and 3 more pictures" in page.text and re.search(r" … 19,\d\d\d more", page.text)


def test_the_terminal(folder, processor):
    records = (
        [turns("Q", "A", image="red.png")] * 2 + [turns("Q", "\x1b[31mred", imgae="\x1b[2J.png")] * 5 + [turns("", "")]
    )
    records.append({"conversations": [{"from": "\x1b[2J\n", "value": "Q"}]})
    text = "\n".join(summary_lines(checked(folder, records, processor)))
    path = folder / "train.json"
    assert text.startswith(
        f"{path}: 9 records\n\n9 records: 2 can be trained on, 7 can't\n\nerrors\n  misspelt key: 5\n"
    )
    assert f'      {path}[2]: there is a key "imgae" but no "image"; correct it, or call it otherwise\n' in text
    assert "      and 2 more\n" in text
    assert "  empty answer: 1\n" in text
    assert "\x1b" not in text and r'message 0 is from "\x1b[2J\n"' in text
    assert "warnings\n  duplicate record: 1 (the same texts and images as an earlier record)\n" in text
    assert re.search(r"tokens a record: (\d+) to \1, mean \1, median \1; [\d.]+% of all are trained, [\d.]+%", text)
    assert "  max_length is 300; 0 records are longer\n" in text
    assert "images: records name 2; read whole: 1 file, 1.06 kB: 1 png\n" in text
    assert "  width       400 to     400, median 400 pixels\n" in text


def test_without_a_model_characters_count(folder):
    text = "\n".join(summary_lines(checked(folder, [turns("abc", "d"), turns("a" * 30, "b" * 10)])))
    assert "characters a record: 4 to 40, mean 22, median 22; 25.0% of all are answers\n" in text
    assert "   0 to  4  ████████████████████████████████████████ 1\n" in text
    assert "max_length" not in text


@pytest.mark.parametrize("largest", [0, 1, 11, 12, 13, 99, 4096, 123456])
def test_every_record_is_in_the_histogram(folder, largest):
    report = checked(folder, [turns("", "a"), turns("", "b" * max(1, largest))])
    histogram = length_numbers(report)["histogram"]
    assert sum(histogram["counts"]) == 2 and len(histogram["counts"]) <= 13
    assert histogram["edges"][-1] > largest


def test_json(folder, processor):
    values = json.loads(json.dumps(report_values(checked(folder, [turns("Q", "A", image="red.png"), []], processor))))
    path = str(folder / "train.json")
    assert values["files"] == [{"path": path, "records": 2}]
    assert (values["records"], values["usable"], values["warnings"], values["notes"]) == (2, 1, {}, [])
    (message,) = values["errors"]["schema"]["examples"]
    assert message.startswith(f"{path}[1]: ") and values["errors"]["schema"]["count"] == 1
    assert values["lengths"]["unit"] == "tokens" and values["lengths"]["max_length"] == 300
    assert values["images"]["files"] == 1 and values["images"]["width"]["largest"] == 400 and values["images_decoded"]


def test_no_records_and_no_images(folder):
    report = checked(folder, [])
    assert summary_lines(report) == [
        *(f"{folder}/train.json: 0 records", "", "0 records: 0 can be trained on, 0 can't", "", "errors"),
        *("  nothing to train on: 1", "      no record is left to train on; see the warnings"),
    ]
    write_html(report, folder / "report.html")
    assert "0 records: 0 can be trained on" in Page(folder / "report.html").text
    assert report_values(report)["lengths"] is None

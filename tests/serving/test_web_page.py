"""What the page gets from its server; a browser opens it in test_browser.py."""

import json
import os
import re

import pytest
import requests
from PIL import Image

from paddle_xc2.commands.web import examples_of
from paddle_xc2.generation.sampling import SamplingSettings
from paddle_xc2.serving.web_page import WebExample, WebPage, boxes_to_draw, run_so_far
from tests.serving.conftest import LIMITS, running


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("<ref>a cat</ref><box>(100,200),(300,400)</box>", [("a cat", [0.1, 0.2, 0.3, 0.4])]),
        (
            "<ref>two</ref><box>(0,0),(500,500)</box><box>(500,500),(1000,1000)</box>",
            [("two", [0, 0, 0.5, 0.5]), ("two", [0.5, 0.5, 1, 1])],
        ),
        (
            "<ref>a</ref><box>(0,0),(500,500)</box> and <box>(500,0),(1000,500)</box>",
            [("a", [0, 0, 0.5, 0.5]), ("", [0.5, 0, 1, 0.5])],
        ),
        ("It is at [0.1, 0.2, 0.5, 0.9].", [("", [0.1, 0.2, 0.5, 0.9])]),
        ("[250,250,750,1000]", [("", [0.25, 0.25, 0.75, 1.0])]),
        ("[0,0,5000,9000] and nothing else", []),
        ("no box", []),
    ],
)
def test_boxes_become_shares_of_the_picture(text, drawn):
    assert [(one["name"], one["box"]) for one in boxes_to_draw(text)] == drawn


def test_a_run_is_seen_as_far_as_it_is(tmp_path):
    assert run_so_far(tmp_path) == {"name": tmp_path.name, "metrics": [], "answers": [], "predictions": []}
    lines = [{"step": step, "loss": 1.0 / step} for step in range(1, 5001)] + [{"step": 5000, "eval_loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 50')
    for step in (10, 9):
        (tmp_path / f"predictions-{step}.jsonl").write_text(json.dumps({"question": "Q", "answer": str(step)}) + "\n")
        os.utime(tmp_path / f"predictions-{step}.jsonl", (step, step))
    seen = run_so_far(tmp_path)
    assert len(seen["metrics"]) <= 2001 and seen["metrics"][-1] == lines[-1]
    assert seen["predictions"] == [{"question": "Q", "answer": "10"}]


def test_the_page_needs_no_token_and_what_is_behind_it_does(served, tmp_path):
    page = WebPage(SamplingSettings(), LIMITS, [WebExample("What?", ())], tmp_path)
    with running([served], key="secret", page=page) as server:
        for path in ("/", "/page/page.js", "/page/page.css", "/page/words.js"):
            response = requests.get(server.url + path)
            assert response.status_code == 200
            assert response.headers["content-security-policy"].startswith("default-src 'self'")
        for path in ("/page/setup", "/page/run", "/v1/models"):
            assert requests.get(server.url + path).status_code == 401
            assert requests.get(server.url + path, headers={"Authorization": "Bearer secret"}).status_code == 200
        for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/setup.py"):
            assert requests.get(server.url + path, headers={"Authorization": "Bearer secret"}).status_code == 404


def test_texts_without_end_are_not_searched_for_boxes(served):
    with running([served], page=WebPage(SamplingSettings(), LIMITS, [], None)) as server:
        for body in ({"text": "[1,2,3,4]" * 100_000}, {"text": 1}, [], None):
            response = requests.post(f"{server.url}/page/boxes", json=body)
            assert response.status_code == 400 and response.json()["error"]["param"].startswith("body")
            assert len(response.content) < 300


def test_nothing_comes_from_elsewhere(root):
    """It works without a network, and tells nobody who uses it."""
    for path in (root / "paddle_xc2" / "serving" / "page").iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text, path


def test_every_word_is_there_in_both_languages(root):
    text = (root / "paddle_xc2" / "serving" / "page" / "words.js").read_text(encoding="utf-8")
    start, middle, end = (text.index(mark) for mark in ("  en: {", "  zh: {", "let language"))
    english, chinese = (re.findall(r'(\w+): "', part) for part in (text[start:middle], text[middle:end]))
    assert english == chinese and len(english) > 30


def test_examples_are_a_data_files_first_questions(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    records = [{"image": "a.png", "conversations": [{"from": "user", "value": "<ImageHere>What?"}]}] * 14
    records[1] = {"image": "gone.png", "conversations": [{"from": "user", "value": "What?"}]}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    examples = examples_of(tmp_path / "in.jsonl")
    assert len(examples) == 11 and examples[0].text == "What?"
    assert examples[0].images[0].startswith("data:image/*;base64,iVBOR")
    assert "no example: " in capsys.readouterr().err

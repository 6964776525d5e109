"""The same questions have the same greedy answers in chat, in a batch, and from the server, which the page asks too."""

import json

import requests

from paddle_xc2.data.questions import QuestionFile
from paddle_xc2.generation.batch import BatchSettings, answer_file
from paddle_xc2.generation.engine import Engine
from paddle_xc2.generation.sampling_settings import SamplingSettings
from paddle_xc2.generation.session import ChatSession, ChatSettings
from tests.serving.conftest import asking, data_url, picture, running

NUM_QUESTIONS, NEW = 20, 8


def test_twenty_questions(served, tmp_path):
    questions = []
    for index in range(NUM_QUESTIONS):
        paths = [tmp_path / f"{index}_{number}.png" for number in range(index % 3)]
        for number, path in enumerate(paths):
            picture(10 * index + number).save(path)
        questions.append(("Which digit is larger? " * (index % 4 + 1), paths))
    records = [
        {"image": [str(path) for path in paths], "conversations": [{"from": "user", "value": _marked(text, paths)}]}
        for text, paths in questions
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    with Engine(served.model) as engine:
        by_chat = []
        for text, paths in questions:
            session = ChatSession(engine, served, ChatSettings(SamplingSettings(), NEW))
            for path in paths:
                session.add_image(path)
            by_chat.append("".join(session.ask(text)))
        settings = BatchSettings(SamplingSettings(), NEW)
        lines = answer_file(engine, served, QuestionFile(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", settings)
        by_batch = [progress.line["answer"] for progress in lines]
    with running([served]) as server:
        by_server = []
        for text, paths in questions:
            urls = [data_url(picture(int(path.stem.split("_")[0]) * 10 + int(path.stem[-1]))) for path in paths]
            body = {"model": "tiny", "messages": asking(text, *urls), "max_tokens": NEW}
            response = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
            by_server.append(response.json()["choices"][0]["message"]["content"])
    assert by_chat == by_batch == by_server
    assert len(set(by_chat)) > NUM_QUESTIONS / 2


def _marked(text, paths):
    return "<ImageHere>" * len(paths) * (len(paths) > 1) + text

"""A file of questions is answered in order, whatever fails or is killed on the way."""

import json
import os
import random
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.data.questions import QuestionFile
from paddle_xc2.generation.batch import BatchSettings, Rate, answer_file
from paddle_xc2.generation.engine import Engine
from paddle_xc2.generation.sampling_settings import SamplingSettings
from paddle_xc2.generation.served_model import ServedModel
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.kills import in_child, killed_everywhere
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer

SETTINGS = BatchSettings(SamplingSettings(), max_new_tokens=8, meta_instruction="")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return ServedModel.of(tiny_model(vocab_size=TINY_VOCAB_SIZE), tokenizer)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, [20, 20, 3], np.uint8)).save(folder / f"{index}.png")
        record = {"id": f"r{index}", "conversations": [{"from": "user", "value": "What is it? " * (index % 4 + 1)}]}
        if index % 3:
            record["image"] = f"{index}.png"
        if index % 2:
            record["conversations"].append({"from": "assistant", "value": "It is 3."})
        lines.append(json.dumps(record))
    lines[5] = json.dumps({"image": "gone.png", "conversations": [{"from": "user", "value": "What is it?"}]})
    (folder / "in.jsonl").write_text("\n".join(lines))
    return QuestionFile(folder / "in.jsonl")


def answered(served, questions, output, settings=SETTINGS, **options):
    with Engine(served.model, max_rows=3) as engine:
        list(answer_file(engine, served, questions, output, settings, **options))
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_every_record_is_answered_in_order_as_chat_does(served, questions, tmp_path):
    lines = answered(served, questions, tmp_path / "out.jsonl")
    assert [line["index"] for line in lines] == list(range(12))
    for index in (0, 1, 4):
        request = questions[index].request
        want, _ = served.model.chat(
            served.tokenizer,
            request.query,
            list(request.images),
            meta_instruction="",
            do_sample=False,
            max_new_tokens=8,
            repetition_penalty=1.0,
        )
        line = {key: lines[index][key] for key in ("id", "question", "answer")}
        assert line == {"id": f"r{index}", "question": request.query, "answer": want}
    assert "given" not in lines[1] and lines[1]["finish"] in ("stop", "length") and 1 <= lines[1]["tokens"] <= 8


def test_one_bad_record_does_not_keep_the_others_from_being_answered(served, questions, tmp_path):
    lines = answered(served, questions, tmp_path / "out.jsonl")
    assert ["error" in line for line in lines] == [index == 5 for index in range(12)]
    assert 'in.jsonl[5]: there is no image "gone.png"' in lines[5]["error"]


def test_given_answers_are_kept_beside_the_models(served, questions, tmp_path):
    settings = BatchSettings(SamplingSettings(), 8, meta_instruction="", compare=True)
    lines = answered(served, questions, tmp_path / "out.jsonl", settings)
    assert [line.get("given") for line in lines] == [None, "It is 3."] * 2 + [None, None] + [None, "It is 3."] * 3


def test_sampled_answers_follow_from_the_seed(served, questions, tmp_path):
    def sampled(seed, name):
        settings = BatchSettings(SamplingSettings(do_sample=True, temperature=3.0), 8, seed)
        return answered(served, questions, tmp_path / name, settings)

    assert sampled(1, "a") == sampled(1, "b") != sampled(2, "c")


def test_a_file_that_is_there_is_not_replaced_unasked(served, questions, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("somebody's")
    with pytest.raises(ValueError, match="out.jsonl is there already; give another name, or --overwrite"):
        answered(served, questions, output)
    assert output.read_text() == "somebody's"
    assert len(answered(served, questions, output, overwrite=True)) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl"]


def test_other_settings_begin_anew_when_told_to(served, questions, tmp_path):
    output, started = tmp_path / "out.jsonl", []
    with Engine(served.model, max_rows=3) as engine:
        lines = answer_file(engine, served, questions, output, SETTINGS, on_start=started.append)
        for _ in range(4):
            next(lines)
        lines.close()
        lines = answer_file(engine, served, questions, output, SETTINGS, on_start=started.append)
        next(lines)
        lines.close()
        other = BatchSettings(SamplingSettings(), max_new_tokens=4, meta_instruction="")
        with pytest.raises(ValueError, match="not finished, and its answers were made with another settings"):
            list(answer_file(engine, served, questions, output, other))
        lines = answer_file(engine, served, questions, output, SETTINGS, on_start=started.append)
        next(lines)
        lines.close()
        list(answer_file(engine, served, questions, output, other, overwrite=True, on_start=started.append))
    assert started == [0, 4, 5, 0]


def test_killed_at_any_file_operation_it_goes_on(served, questions, tmp_path):
    want = answered(served, questions, tmp_path / "want.jsonl")
    folder = tmp_path / "run"

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def work():
        answered(served, questions, folder / "out.jsonl")

    for place in killed_everywhere(folder, prepare, work):
        if list(folder.glob("*settings*")) or not (folder / "out.jsonl").exists():
            assert in_child(work) == 0, place
        assert [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()] == want, place
        assert {path.name for path in folder.iterdir()} - {".paddle_xc2-lock-out.jsonl"} == {"out.jsonl"}, place


def test_killed_at_random_moments_it_gives_the_same_file(served, questions, tmp_path):
    output, want = tmp_path / "out.jsonl", tmp_path / "want.jsonl"
    start = time.monotonic()
    assert in_child(lambda: answered(served, questions, want) and None) == 0
    seconds = time.monotonic() - start
    draws = random.Random(0)

    def killed():
        timer = threading.Timer(draws.uniform(0, seconds), os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
        answered(served, questions, output)

    kills = 0
    for _ in range(20):
        kills += in_child(killed) == -signal.SIGKILL
        draws.random()
        if not output.exists():
            assert in_child(lambda: answered(served, questions, output) and None) == 0
        assert output.read_bytes() == want.read_bytes()
        output.unlink()
    assert kills > 5


def test_rate_forgets_what_is_long_ago(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("paddle_xc2.generation.batch.time.monotonic", lambda: now[0])
    rate = Rate()
    for _ in range(100):
        now[0] += 1.0
        last = rate.add(5)
    assert last == pytest.approx(5)
    for _ in range(40):
        now[0] += 1.0
        last = rate.add(50)
    assert last == pytest.approx(50)

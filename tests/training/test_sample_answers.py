"""Sample answers before, during and after training."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from paddle_xc2 import XComposer2ForCausalLM, XComposer2Processor
from paddle_xc2.checkpoint.companions import SAMPLE_ANSWERS_FILE
from paddle_xc2.cli import main
from paddle_xc2.messages import LONGEST_VALUE, shown
from paddle_xc2.training import sample_answers
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.sample_answers import TABLE_FILE, Question, SampleAnswers

QUESTIONS = ["What is | in\nthe <b>picture</b>?", "Which digit is 1?"]


@pytest.fixture
def asking(config, tmp_path):
    """`config` of a run that asks two questions about one image, which lies beside the argument file."""
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sample.png")

    def write(name="config.json", **changes):
        keys = {"evaluation_inputs": QUESTIONS, "evaluation_images": "sample.png", "evaluation_max_new_tokens": 5}
        return config(name, **{**keys, **changes})

    return write


def answers(folder):
    return [json.loads(line) for line in (folder / SAMPLE_ANSWERS_FILE).read_text(encoding="utf-8").splitlines()]


def test_before_during_and_after(asking, tmp_path, capsys):
    assert finetune(asking(evaluation_freq=3, save_strategy="steps", save_steps=3)) == 0
    out, told = tmp_path / "out", capsys.readouterr().out
    entries = answers(out)
    assert [(entry["step"], entry["question"]) for entry in entries] == [
        (step, question) for step in (0, 3, 4) for question in QUESTIONS
    ]
    assert {entry["image"] for entry in entries} == {str(tmp_path / "sample.png")}
    assert answers(out / "checkpoint-3") == entries[:4]

    # The answers of the saved model, through the same chat.
    model = XComposer2ForCausalLM.from_pretrained(out)
    tokenizer = XComposer2Processor.from_pretrained(out).tokenizer
    for entry in entries[4:]:
        answer, _ = model.chat(
            tokenizer,
            entry["question"],
            entry["image"],
            do_sample=False,
            max_new_tokens=5,
            repetition_penalty=1.0,
        )
        assert answer == entry["answer"]

    table = (out / TABLE_FILE).read_text(encoding="utf-8").splitlines()
    assert table[0] == "| image | question | before training | step 3 | step 4 |" and len(table) == 4
    assert table[2].startswith("| sample.png | What is \\| in<br>the &lt;b>picture&lt;/b>? | ")
    assert f"sample answers, all of them in {out / TABLE_FILE}:" in told
    lines = told.splitlines()
    first = lines.index("sample.png: Which digit is 1?")
    assert lines[first + 1] == f"    before training:     {shown(' '.join(entries[1]['answer'].split()))}"
    assert lines[first + 2] == f"    after step 4:        {shown(' '.join(entries[5]['answer'].split()))}"


def test_training_is_the_same_without_them(asking, tmp_path, metrics):
    losses = []
    for inputs in (QUESTIONS, None):
        changes = {} if inputs else {"evaluation_images": None, "evaluation_max_new_tokens": None}
        folder = tmp_path / f"out_{bool(inputs)}"
        assert finetune(asking(evaluation_inputs=inputs, output_dir=str(folder), **changes)) == 0
        losses.append([entry["loss"] for entry in metrics(folder)])
        assert (folder / SAMPLE_ANSWERS_FILE).exists() == bool(inputs)
    assert losses[0] == losses[1]


def test_interrupted_and_gone_on(asking, tmp_path, power_fails, monkeypatch):
    """In the midst of a step, and in the midst of answering: nothing is lost or asked twice."""
    keys = {"evaluation_freq": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    assert finetune(asking(**keys)) == 0
    out = tmp_path / "again"
    path = asking("again.json", **keys, output_dir=str(out))
    power_fails(4)
    with pytest.raises(RuntimeError, match="the power fails"):
        finetune(path)
    monkeypatch.undo()

    chat, asked = sample_answers.chat, []

    def stop_at_the_third(*args, **kwargs):
        asked.append(None)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return chat(*args, **kwargs)

    monkeypatch.setattr(sample_answers, "chat", stop_at_the_third)
    assert finetune(path) == 0
    assert {entry["step"] for entry in answers(out)} == {0, 2, 4}
    monkeypatch.undo()
    assert finetune(path) == 0
    assert answers(out) == answers(tmp_path / "out")


def test_the_best_model_is_asked_if_it_is_not_the_last(asking, tmp_path, capsys):
    """Here the worst is called the best, which is an early one."""
    keys = {"evaluation_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    keys |= {"load_best_model_at_end": True, "greater_is_better": True, "save_total_limit": 2}
    assert finetune(asking(**keys)) == 0
    out, told = tmp_path / "out", capsys.readouterr().out
    best = int(told.partition("checkpoint-")[2].partition(" is taken")[0].rpartition("checkpoint-")[2])
    assert best in (1, 2)
    assert [entry["step"] for entry in answers(out)] == [0, 0, 3, 3, best, best]
    assert f"    after step {best}:" in told and "    after step 3:" not in told


def test_before_and_after_needs_two():
    told = SampleAnswers(None, (Question("Who?", None),), 5)
    told.entries = [{"step": 0, "question": "Who?", "image": None, "answer": "I\n am "}]
    assert told.before_and_after(0) == told.before_and_after(7) == []
    told.entries.append({"step": 7, "question": "Who?", "image": None, "answer": ""})
    assert told.before_and_after(7) == ["Who?", "    before training:     I am", "    after step 7:        "]
    assert told.table().splitlines()[2] == "|   | Who? | I<br> am  |   |"
    told.entries[1]["answer"] = "digit " * 600  # as models answer that were not trained yet
    assert told.before_and_after(7)[2] == f"    after step 7:        {('digit ' * 600)[:LONGEST_VALUE]}..."


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"evaluation_inputs": None}, '"evaluation_images" is set, but "evaluation_inputs" holds no question to ask'),
        ({"evaluation_inputs": ["a", " "]}, '"evaluation_inputs" holds an empty question'),
        (
            {"evaluation_images": ["sample.png"] * 3},
            '"evaluation_images" lists 3 images for 2 questions in "evaluation_inputs"; give one for all, or one for',
        ),
        ({"evaluation_freq": 0}, '"evaluation_freq" is 0, but must be at least 1'),
        ({"evaluation_images": ["gone.png"]}, "evaluation_images are missing: gone.png"),
        ({"evaluation_images": ["config.json"]}, "config.json: this is not an image"),
        (
            {"evaluation_inputs": ["<ImageHere><ImageHere>?"]},
            "evaluation_inputs[0]: chat: the messages hold 2 <ImageHere> but 1 image",
        ),
    ],
)
def test_what_can_not_be_asked(asking, tmp_path, capsys, changes, message):
    assert main(["finetune", str(asking(**changes))]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_questions_when_it_goes_on(config, tmp_path):
    keys = {"evaluation_max_new_tokens": 2, "save_strategy": "steps", "save_steps": 4}
    assert finetune(config(**keys, evaluation_inputs=["one"])) == 0
    assert finetune(config(**keys, evaluation_inputs=["one", "two"])) == 0
    asked = [(entry["step"], entry["question"]) for entry in answers(tmp_path / "out")]
    assert asked == [(0, "one"), (4, "one"), (4, "two")]

import json

import numpy as np
import pytest

from paddle_xc2 import XComposer2Processor
from paddle_xc2.model import XComposer2ForCausalLM
from paddle_xc2.training import evaluate
from paddle_xc2.training.finetune import finetune

# Batches of 2 and of 5 against samples one by one: see test_trainer.py.
LOSS_TOLERANCE = 4e-6


def test_evaluation_is_the_mean_over_all_tokens(train, workspace, plain_model):
    entries = [train(do_eval=True, per_device_eval_batch_size=size)[0][-1] for size in (1, 2, 5)]
    assert entries[0]["eval_tokens"] == entries[1]["eval_tokens"] == entries[2]["eval_tokens"]
    for entry in entries[1:]:
        assert entry["eval_loss"] == pytest.approx(entries[0]["eval_loss"], abs=LOSS_TOLERANCE)
    limited = train(do_eval=True, max_evaluate_steps=2)[0][-1]
    assert limited["eval_tokens"] < entries[0]["eval_tokens"]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_generated_answers_are_those_of_chat(train, workspace):
    """Samples of 1 to 2 images and of none in one batch, asked one by one afterwards."""
    keys = {"do_eval": True, "eval_with_do_generation": True, "save_generation_output": True, "max_new_tokens": 6}
    runs = [train(per_device_eval_batch_size=size, max_steps=8, **keys) for size in (1, 5)]
    first, second = (lines_of(folder / "predictions-8.jsonl") for _, folder in runs)
    assert first == second and len(first) == runs[0][0][-1]["eval_answers"] == 5
    model = XComposer2ForCausalLM.from_pretrained(folder := runs[0][1])
    tokenizer = XComposer2Processor.from_pretrained(folder).tokenizer
    records = json.loads((workspace / "eval.json").read_text())
    for index, (line, record) in enumerate(zip(first, records, strict=True)):
        question, expected = (turn["value"] for turn in record["conversations"])
        images = [str(workspace / image) for image in record["image"]]
        answer, _ = model.chat(tokenizer, question, images, do_sample=False, max_new_tokens=6, repetition_penalty=1.0)
        assert line["answer"] == answer and answer
        assert (line["source"], line["question"], line["expected"]) == (
            f"{workspace}/eval.json[{index}]",
            question,
            expected,
        )
        assert set(line["scores"]) == {"exact_match", "rouge_l", "bleu", "anls"}
    entry = runs[0][0][-1]
    for name in ("exact_match", "rouge_l", "anls"):
        assert entry[f"eval_{name}"] == pytest.approx(np.mean([line["scores"][name] for line in first]), abs=1e-5)


def test_drawn_answers_are_the_same_again_and_leave_training_alone(train):
    keys = {"evaluation_strategy": "steps", "eval_steps": 2, "eval_with_do_generation": True}
    keys |= {"save_generation_output": True, "top_k": 0, "max_new_tokens": 8, "max_steps": 3}
    drawn = [lines_of(train(**keys)[1] / "predictions-2.jsonl") for _ in range(2)]
    greedy, folder = train(**{**keys, "top_k": 1})
    assert drawn[0] == drawn[1] != lines_of(folder / "predictions-2.jsonl")
    plain, _ = train(max_steps=3)
    assert [e["loss"] for e in plain] == [entry["loss"] for entry in greedy if "loss" in entry]


def test_answers_as_long_as_the_longest_expected(train, monkeypatch, workspace):
    """The whole expected answer with both its closing tokens fits."""
    processor = XComposer2Processor.from_pretrained(workspace / "model")
    records = json.loads((workspace / "eval.json").read_text())
    num_trained_tokens = [processor.encode_sample(record, workspace).num_trained_tokens for record in records]
    seen = []
    generate = evaluate.generate
    monkeypatch.setattr(evaluate, "generate", lambda *a, **k: seen.append(k["max_new_tokens"]) or generate(*a, **k))
    train(do_eval=True, eval_with_do_generation=True, max_steps=1, max_evaluate_steps=1)
    assert seen == [max(num_trained_tokens)]


def test_predictions_of_an_earlier_run_go(train, config, tmp_path):
    keys = {"evaluation_strategy": "steps", "eval_steps": 2, "eval_with_do_generation": True, "max_new_tokens": 1}
    keys |= {"save_generation_output": True, "output_dir": str(tmp_path / "out")}
    assert finetune(config(**keys)) == 0
    assert finetune(config(**{**keys, "max_steps": 2}, overwrite_output_dir=True)) == 0
    assert [path.name for path in (tmp_path / "out").glob("predictions-*")] == ["predictions-2.jsonl"]

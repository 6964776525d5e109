"""Asks a model the held-out questions and shows how it did: by generation, as a chat does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from examples.demo.digits import Question, QuestionKind
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER

PICTURED = 4  # questions of each kind in the picture
BATCH_SIZE = 120
MAX_NEW_TOKENS = 8  # the longest right answer and its end take fewer


def answer_questions(checkpoint: Path, questions: list[Question]) -> list[str]:
    """The model's greedy answer to every question.

    Args:
        checkpoint: directory. Asked in the layout of the training data, also before a fine-tuning says so.
    """
    from tqdm.auto import tqdm

    from paddle_xc2.data.processor import XComposer2Processor
    from paddle_xc2.generation.chat import decode_answer, stop_ids
    from paddle_xc2.model import XComposer2ForCausalLM

    model = XComposer2ForCausalLM.from_pretrained(checkpoint)
    processor = XComposer2Processor.from_pretrained(checkpoint, chat_layout="as_trained")
    stops = stop_ids(model, processor.tokenizer)
    answers = []
    with tqdm(total=len(questions), desc="asking", unit="question", dynamic_ncols=True) as bar:
        for start in range(0, len(questions), BATCH_SIZE):
            asked = questions[start : start + BATCH_SIZE]
            prompts = [processor.encode_chat(question.kind.query, question.images) for question in asked]
            batch = processor.collate(prompts, padding_side="left")
            del batch["labels"]
            ids, _ = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, eos_token_id=stops)
            answers += [decode_answer(processor.tokenizer, row, stops) for row in ids.tolist()]
            bar.update(len(asked))
    return answers


def accuracy_by_kind(questions: list[Question], answers: list[str]) -> dict[QuestionKind, float]:
    """Share of answers that are right to the letter."""
    right: dict[QuestionKind, list[bool]] = {}
    for question, answer in zip(questions, answers, strict=True):
        right.setdefault(question.kind, []).append(answer == question.answer)
    return {kind: sum(marks) / len(marks) for kind, marks in right.items()}


def table_lines(before: dict[QuestionKind, float], after: dict[QuestionKind, float]) -> list[str]:
    """The accuracies, a line for each kind of question."""
    lines = [f"{'question':16} {'language':9} {'before':>7} {'after':>7}"]
    lines += [f"{kind.name:16} {kind.language:9} {before[kind]:7.1%} {after[kind]:7.1%}" for kind in after]
    return lines


def write_answers(questions: list[Question], before: list[str], after: list[str], path: Path) -> None:
    """Every question with its answers, as JSON."""
    records = [
        {
            "question": question.kind.query,
            "images": [image.name for image in question.images],
            "right": question.answer,
            "before": answer_before,
            "after": answer_after,
        }
        for question, answer_before, answer_after in zip(questions, before, after, strict=True)
    ]
    path.write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def draw_answers(questions: list[Question], answers: list[str], path: Path) -> None:
    """Some of the pictures with question and answer, as a PNG file: green what is right, red what is wrong.

    In English: the fonts that matplotlib brings along have no Chinese characters.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    asked: dict[QuestionKind, list] = {}
    for question, answer in zip(questions, answers, strict=True):
        if question.kind.language == "English":
            asked.setdefault(question.kind, []).append((question, answer))
    figure = Figure(figsize=(3.0 * PICTURED, 2.4 * len(asked)), dpi=100, layout="constrained")
    cells = figure.subfigures(len(asked), PICTURED, squeeze=False)
    for row, of_kind in zip(cells, asked.values(), strict=True):
        for cell, place in zip(row, np.linspace(0, len(of_kind) - 1, PICTURED), strict=True):
            _draw_answer(cell, *of_kind[int(place)])
    FigureCanvasAgg(figure).print_png(str(path))


def _draw_answer(cell, question: Question, answer: str) -> None:
    """Pictures, question and answer in a matplotlib subfigure."""
    is_right = answer == question.answer
    cell.suptitle(question.kind.query.replace(IMAGE_PLACEHOLDER, "").replace(", ", ",\n"), fontsize=10)
    said = answer if answer.isprintable() else ascii(answer)[1:-1]  # a model that has learned nothing says anything
    told = said if is_right else f"{said or '(nothing)'}  (right: {question.answer})"
    cell.supxlabel(told, fontsize=13, color="tab:green" if is_right else "tab:red")
    for axes, image in zip(cell.subplots(1, len(question.images), squeeze=False)[0], question.images, strict=True):
        axes.imshow(Image.open(image), cmap="gray_r")
        axes.set_axis_off()

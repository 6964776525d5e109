"""Sample answers: the same questions before, during and after training, kept side by side.

As XTuner's EvaluateChatHook, but greedy, so that answers differ by what was learned and nothing else, and with the
pixels of the training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from paddle_xc2.checkpoint.companions import SAMPLE_ANSWERS_FILE
from paddle_xc2.data.conversation import DataError
from paddle_xc2.files.durable import replace_file
from paddle_xc2.generation.chat import chat
from paddle_xc2.messages import shown
from paddle_xc2.training.arguments import FinetuneArguments, find_file, sample_images

TABLE_FILE = "evaluation_samples.md"


class Question(NamedTuple):
    """Attributes:
    text: what is asked.
    image: path of the image or video, or None.
    """

    text: str
    image: Path | None


def read_questions(arguments: FinetuneArguments, config_path: str | Path, processor) -> tuple[Question, ...]:
    """evaluation_inputs with evaluation_images, one image for all of them or one each.

    Raises: FileNotFoundError, DataError for an image that can't be used or doesn't fit its question.
    """
    texts = arguments.evaluation_inputs or []
    images = [find_file(name, config_path) for name in sample_images(arguments)]
    missing = [str(image) for image in images if not image.is_file()]
    if missing:
        raise FileNotFoundError(f"{config_path}: evaluation_images are missing: {', '.join(missing)}")
    if len(images) == 1:
        images *= len(texts)
    questions = [Question(*pair) for pair in zip(texts, images or [None] * len(texts), strict=True)]
    for index, question in enumerate(questions):
        try:
            processor.encode_chat(question.text, _images(question))
        except DataError as error:
            raise DataError(f"{config_path}: evaluation_inputs[{index}]: {error}") from None
    return tuple(questions)


class SampleAnswers:
    """The answers of a run so far, in `evaluation_samples.jsonl`, and as a table in `evaluation_samples.md`.

    Each line of the former is one answer: step (0: before training), question, image (path or null), answer.
    """

    def __init__(
        self, directory: Path, questions: tuple[Question, ...], max_new_tokens: int, start_from: Path | None = None
    ):
        """Goes on with the answers that the checkpoint `start_from` holds."""
        self.directory = directory
        self.questions = questions
        self.max_new_tokens = max_new_tokens
        kept = start_from / SAMPLE_ANSWERS_FILE if start_from else None
        lines = kept.read_text(encoding="utf-8").splitlines() if kept and kept.is_file() else []
        self.entries = [json.loads(line) for line in lines]

    def has(self, step: int) -> bool:
        """Whether every question was answered after this step: a run may go on with other questions."""
        return not self._unanswered(step)

    def _unanswered(self, step: int) -> list[Question]:
        there = [(entry["question"], entry["image"]) for entry in self.entries if entry["step"] == step]
        return [question for question in self.questions if (question.text, _name(question)) not in there]

    def ask(self, model, tokenizer, step: int, stopped: Callable[[], object]) -> bool:
        """Has the model, in evaluation mode, answer every question that it has not after this step, and writes both
        files.

        Args:
            stopped: asked before every answer: whether to leave it.
        Returns: whether all were answered; else nothing is written.
        """
        entries = []
        for question in self._unanswered(step):
            if stopped():
                return False
            answer, _ = chat(
                model,
                tokenizer,
                question.text,
                _images(question),
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                repetition_penalty=1.0,
            )
            entries.append({"step": step, "question": question.text, "image": _name(question), "answer": answer})
        self.entries += entries
        self.write(self.directory)
        return True

    def write(self, directory: Path) -> None:
        """Writes what there is so far: into the run's folder, or into a checkpoint."""
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.entries)
        replace_file(directory / SAMPLE_ANSWERS_FILE, lines.encode())
        replace_file(directory / TABLE_FILE, self.table().encode())

    def table(self) -> str:
        """Markdown: a row for each question, a column for each time that it was asked."""
        answers_to = _by_question(self.entries)
        steps = sorted({entry["step"] for entry in self.entries})
        titles = ["image", "question", *("before training" if not step else f"step {step}" for step in steps)]
        rows = [titles, ["---"] * len(titles)]
        for (text, image), answers in answers_to.items():
            rows.append([Path(image).name if image else "", text, *(answers.get(step, "") for step in steps)])
        return "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in rows)

    def before_and_after(self, step: int) -> list[str]:
        """Lines that show how the first answer to each question begins, and that after `step`; none without both."""
        lines = []
        for (text, image), answers in _by_question(self.entries).items():
            first = min(answers)
            if first == step or step not in answers:
                continue
            lines.append(f"{Path(image).name}: {text}" if image else text)
            for asked_at in (first, step):
                when = "before training" if asked_at == 0 else f"after step {asked_at}"
                lines.append(f"    {when + ':':<20} {shown(' '.join(answers[asked_at].split()))}")
        return lines


def _by_question(entries: list[dict]) -> dict[tuple[str, str | None], dict[int, str]]:
    """{(question, image): {step: answer}}, in the order in which they were asked first."""
    found: dict = {}
    for entry in entries:
        found.setdefault((entry["question"], entry["image"]), {})[entry["step"]] = entry["answer"]
    return found


def _images(question: Question) -> list[Path]:
    return [] if question.image is None else [question.image]


def _name(question: Question) -> str | None:
    return None if question.image is None else str(question.image)


def _cell(text: str) -> str:
    """Text within a cell of a Markdown table."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return "<br>".join(escaped.splitlines()) or " "

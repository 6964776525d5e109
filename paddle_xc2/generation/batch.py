"""Answers every question of a data file, many at once, in order, and goes on after a kill where it was."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddle_xc2.data.questions import Question, QuestionFile
from paddle_xc2.files.directory_lock import locked
from paddle_xc2.files.durable import replace_file, scratch, sha256, sync
from paddle_xc2.files.json_file import read_json
from paddle_xc2.generation.engine import Engine
from paddle_xc2.generation.request import Answer, Request
from paddle_xc2.generation.sampling_settings import SamplingSettings
from paddle_xc2.generation.served_model import ServedModel
from paddle_xc2.messages import listed, writing

_AHEAD = 2  # requests that are prepared, as a multiple of those that are decoded at once


@dataclass(frozen=True)
class BatchSettings:
    """How every question of a file is asked.

    Attributes:
        sampling, max_new_tokens: as of Request.
        seed: each record has a seed of its own that follows from it.
        meta_instruction: system turn of the records that have none; None is the checkpoint's default.
        compare: whether the given answer is written beside the model's.
    """

    sampling: SamplingSettings
    max_new_tokens: int = 1024
    seed: int = 0
    meta_instruction: str | None = None
    compare: bool = False


class Progress(NamedTuple):
    """Attributes:
    line: that was written.
    num_tokens: of its answer.
    """

    line: dict
    num_tokens: int


class AnswerFile:
    """The file of answers, which appears under its name when it is whole.

    Until then it is written aside, line by line; a run with the same input, model and settings goes on with it.

    Attributes:
        num_done: lines that an earlier run has written.
        is_whole: whether the file was finished by an earlier run that was killed just then.
    Raises: ValueError if there is a file of this name that we did not just finish, or an unfinished one that was made
        of something else, unless `overwrite`.
    """

    def __init__(self, path: Path, identity: dict, overwrite: bool = False):
        self.path, self._aside, self._settings = path, scratch(path, "answers"), scratch(path, "settings")
        known = self._known_identity()
        goes_on = known == identity
        self.is_whole = goes_on and path.exists() and not self._aside.exists()
        if path.exists() and not self.is_whole and not overwrite:
            raise ValueError(f"{path} is there already; give another name, or --overwrite")
        self.num_done = 0
        if self.is_whole:
            return
        if known is not None and not goes_on and self._aside.exists() and not overwrite:
            others = listed([name for name in identity if known.get(name) != identity[name]])
            raise ValueError(
                f"{path}: an earlier run was not finished, and its answers were made with another {others}; give the "
                "same command again to go on with them, another name, or --overwrite to begin anew"
            )
        if goes_on and self._aside.exists():
            self.num_done = _keep_whole_lines(self._aside)
        else:
            self._aside.unlink(missing_ok=True)
            replace_file(self._settings, json.dumps(identity).encode())

    def write(self, lines: Iterator[Progress]) -> Iterator[Progress]:
        """Appends lines as they come, passes them on, and finishes the file when they end."""
        with writing(self.path):
            with open(self._aside, "ab") as file:
                for progress in lines:
                    file.write(json.dumps(progress.line, ensure_ascii=False).encode() + b"\n")
                    file.flush()
                    yield progress
            sync(self._aside)
            self._aside.replace(self.path)
            sync(self.path.parent)
        self.forget()

    def forget(self) -> None:
        """The file is whole: nobody needs to know any more what it was made of."""
        self._settings.unlink(missing_ok=True)

    def _known_identity(self) -> dict | None:
        try:
            return read_json(self._settings)
        except (FileNotFoundError, ValueError):
            return None


def answer_file(
    engine: Engine,
    served: ServedModel,
    questions: QuestionFile,
    output: Path,
    settings: BatchSettings,
    overwrite: bool = False,
    on_start: Callable[[int], object] = lambda num_done: None,
) -> Iterator[Progress]:
    """Writes `output`, a line of JSON for each record in order, and yields each line as it is written.

    A line holds "index", "id" where the record has one, "question", and "answer" with "finish" ("stop" or "length")
    and "tokens"; or "error" in their place. With settings.compare "given" too, where the record has an answer.

    Args:
        on_start: told how many lines an earlier run has written.
    Raises: ValueError if `output` is there already, or another process writes it.
    """
    identity = {
        "input": sha256(questions.path),
        "model": str(Path(served.model.provenance.directory or ".").resolve()),
        "settings": asdict(settings),
    }
    with locked(output):
        file = AnswerFile(output, identity, overwrite)
        on_start(len(questions) if file.is_whole else file.num_done)
        if file.is_whole:
            file.forget()
            return
        yield from file.write(_answered(engine, served, questions, settings, file.num_done))


def _answered(
    engine: Engine, served: ServedModel, questions: QuestionFile, settings: BatchSettings, start: int
) -> Iterator[Progress]:
    """The lines from record `start` on, in order; so many are on their way that the engine never waits for one."""
    ahead: deque[tuple[dict, Answer | ValueError]] = deque()
    for index in range(start, len(questions)):
        ahead.append(_asked(engine, served, questions, settings, index))
        while ahead and (len(ahead) >= _AHEAD * engine.max_rows or _is_done(ahead[0][1])):
            yield _finished(*ahead.popleft())
    while ahead:
        yield _finished(*ahead.popleft())


def _asked(engine, served, questions, settings, index: int) -> tuple[dict, Answer | ValueError]:
    """(what is known of a line, the answer that is on its way or why there is none)."""
    line: dict = {"index": index}
    try:
        question: Question = questions[index]
        if question.id is not None:
            line["id"] = question.id
        line["question"] = question.request.query
        if settings.compare and question.given is not None:
            line["given"] = question.given
        request = question.request
        if request.system is None:
            request = request._replace(system=settings.meta_instruction)
        seed = np.random.SeedSequence([settings.seed, index]).generate_state(1)[0]
        asked = Request(
            served,
            served.processor.encode_chat_request(request),
            settings.sampling,
            settings.max_new_tokens,
            seed=int(seed),
        )
        return line, engine.submit(asked)
    except (ValueError, FileNotFoundError) as error:
        return line, ValueError(str(error))


def _is_done(answer: Answer | ValueError) -> bool:
    return isinstance(answer, ValueError) or answer.finish is not None


def _finished(line: dict, answer: Answer | ValueError) -> Progress:
    try:
        if isinstance(answer, ValueError):
            raise answer
        answer.wait()
    except ValueError as error:  # of the record, or numbers that are not finite; another one is the device's
        return Progress(line | {"error": str(error)}, 0)
    told = {"answer": answer.text, "finish": answer.finish, "tokens": len(answer.tokens)}
    return Progress(line | told, len(answer.tokens))


def _keep_whole_lines(path: Path) -> int:
    """Cuts off a line that was not written to its end. Returns: the number of lines."""
    num_lines = end = 0
    with open(path, "r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            num_lines, end = num_lines + 1, end + len(line)
        file.truncate(end)
        os.fsync(file.fileno())
    return num_lines


class Rate:
    """Tokens a second, over the last half minute."""

    WINDOW = 30.0  # seconds

    def __init__(self):
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def add(self, num_tokens: int) -> float:
        """Counts tokens. Returns: the rate."""
        now = time.monotonic()
        self._seen.append((now, num_tokens))
        while len(self._seen) > 2 and self._seen[0][0] < now - self.WINDOW:
            self._seen.popleft()
        # The tokens of the first entry were decoded before it.
        return sum(count for _, count in list(self._seen)[1:]) / max(now - self._seen[0][0], 1e-9)

"""A conversation with one model: its turns, its pictures, its settings. The prompt of `paddle-xc2 chat` holds one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paddle_xc2.data.chat_request import ChatRequest, read_request
from paddle_xc2.data.images.given_images import read_picture
from paddle_xc2.data.marked_text import marked_pieces
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER
from paddle_xc2.generation.engine import Engine
from paddle_xc2.generation.request import Answer, Request
from paddle_xc2.generation.sampling_settings import CHAT_SAMPLING, MAX_NEW_TOKENS, SamplingSettings
from paddle_xc2.generation.served_model import ServedModel


@dataclass(frozen=True)
class ChatSettings:
    """How a conversation is led.

    Attributes:
        sampling, max_new_tokens: as of Request.
        system: system turn; None is the checkpoint's default, "" is none.
        seed: the draws of the whole conversation follow from it.
    """

    sampling: SamplingSettings = CHAT_SAMPLING
    max_new_tokens: int = MAX_NEW_TOKENS
    system: str | None = None
    seed: int = 0


@dataclass
class Turn:
    """Attributes:
    question: as it was asked, without the marks of pictures that stand in front.
    pictures: that came with it: PIL images, or paths of videos.
    answer: of the model.
    """

    question: str
    pictures: list = field(default_factory=list)
    answer: str = ""


class ChatSession:
    """Attributes:
    settings: may be replaced between two questions.
    turns: so far, the oldest first.
    pending: pictures of the next question.
    """

    def __init__(self, engine: Engine, served: ServedModel, settings: ChatSettings):
        self.engine, self.served = engine, served
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Forgets turns and pictures."""
        self.turns: list[Turn] = []
        self.pending: list = []

    @property
    def settings(self) -> ChatSettings:
        return self._settings

    @settings.setter
    def settings(self, settings: ChatSettings) -> None:
        self._settings = settings
        self._seeds = np.random.default_rng(settings.seed)

    @property
    def history(self) -> list[tuple[str, str]]:
        """(question, answer) pairs, an `<ImageHere>` for each picture that needs one."""
        return self._laid_out(self.turns)

    def add_image(self, picture) -> None:
        """A picture for the next question: what `read_picture` returned, or a reference for it.

        Raises: DataError if it can't be used, or is a video and the model takes none.
        """
        picture = read_picture(picture)
        if isinstance(picture, Path):
            self.served.processor.num_image_tokens(picture)
        self.pending.append(picture)

    def drop_pending(self) -> None:
        """Takes back the pictures of the next question."""
        self.pending = []

    def undo(self) -> Turn | None:
        """Takes back the last turn, with its pictures. Returns: it, or None if there is none."""
        return self.turns.pop() if self.turns else None

    def ask(self, text: str) -> Iterator[str]:
        """Yields the new part of the answer. A turn that is stopped keeps what was said.

        Returns: the Answer.
        Raises: ValueError, of what can't be asked, or what went wrong; nothing is remembered of the former.
        """
        turn = Turn(text, self.pending)
        request = Request(
            self.served,
            self.served.processor.encode_chat_request(self._request(turn)),
            self.settings.sampling,
            self.settings.max_new_tokens,
            seed=int(self._seeds.integers(2**63)),
        )
        answer = self.engine.submit(request)
        try:
            for piece in answer:
                if piece.text:
                    yield piece.text
        finally:
            answer.cancel()
            turn.answer = answer.text
            if answer.text.strip():  # else the pictures wait for the next question
                self.turns.append(turn)
                self.pending = []
        return answer

    def ask_whole(self, text: str) -> Answer:
        """The answer. Raises: as `ask`."""
        parts = self.ask(text)
        while True:
            try:
                next(parts)
            except StopIteration as end:
                return end.value

    def prompt(self, text: str) -> str:
        """The literal prompt of a question: `<image: 256 tokens>` is an image. Raises: ValueError as `ask`."""
        request, processor = self._request(Turn(text, self.pending)), self.served.processor
        count = len(request.images)
        image_tokens = [processor.num_image_tokens(image, num_images=count) for image in request.images]
        example = processor.encode_request(request, image_tokens)
        return "".join(piece.text for piece in marked_pieces(example, image_tokens, processor.tokenizer))

    def _request(self, turn: Turn) -> ChatRequest:
        """What is asked with one turn more, whose answer is open. Raises: DataError."""
        turns = [*self.turns, turn]
        *history, (query, _) = self._laid_out(turns)
        images = [picture for one in turns for picture in one.pictures]
        return read_request(query, images, history, self.settings.system)

    def _laid_out(self, turns: list[Turn]) -> list[tuple[str, str]]:
        """A single picture of the first turn, without a place, stands where the family's upstream puts it; others stand
        before the question that they came with."""
        leads = sum(len(turn.pictures) for turn in turns) == 1 and bool(turns[0].pictures)
        return [(turn.question if leads else _placed(turn), turn.answer) for turn in turns]


def _placed(turn: Turn) -> str:
    if IMAGE_PLACEHOLDER in turn.question:
        return turn.question
    return IMAGE_PLACEHOLDER * len(turn.pictures) + turn.question

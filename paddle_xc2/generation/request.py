"""What the engine is asked, and what it gives back piece by piece."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from paddle_xc2.data.encode import Example
from paddle_xc2.generation.sampling_settings import MAX_NEW_TOKENS, SamplingSettings
from paddle_xc2.generation.served_model import ServedModel

# Why an answer ended: an end token or a stop text; max_new_tokens; whoever asked no longer wanted it; its deadline; an
# error, which the answer holds.
STOP, LENGTH, CANCELLED, DEADLINE, ERROR = "stop", "length", "cancelled", "deadline", "error"
MOST_LIKELY = 20  # tokens that can be asked for beside the chosen one


@dataclass(frozen=True)
class Request:
    """Attributes:
        served: the model that is asked.
        prompt: with its pixels; see `XComposer2Processor.encode_chat`.
        sampling: how tokens are chosen.
        max_new_tokens: at most so many.
        seed: of the sampling: the same request with the same seed has the same answer, whatever runs beside it. None
            is another one each time.
        stop_texts: the answer ends before the first of them.
        deadline: seconds after which it ends as it is, counted from when it is handed in; None is never.
        num_likeliest: of the likeliest tokens at each place, so many are told, 0 to MOST_LIKELY.
    Raises: ValueError for values out of range.
    """

    served: ServedModel
    prompt: Example
    sampling: SamplingSettings = SamplingSettings()
    max_new_tokens: int = MAX_NEW_TOKENS
    seed: int | None = None
    stop_texts: tuple[str, ...] = ()
    deadline: float | None = None
    num_likeliest: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, but must be at least 1")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed is {self.seed}, but must be 0 or more")
        if not all(self.stop_texts):
            raise ValueError("a stop text is empty; every answer would end before it begins")
        if not 0 <= self.num_likeliest <= MOST_LIKELY:
            raise ValueError(f"num_likeliest is {self.num_likeliest}, but must be from 0 to {MOST_LIKELY}")

    @property
    def num_positions(self) -> int:
        """That it takes in the cache at most."""
        return len(self.prompt) + self.max_new_tokens


class Token(NamedTuple):
    """A token that was chosen.

    Attributes:
        id: of the vocabulary.
        log_probability: natural logarithm, before temperature and the other settings.
        likeliest: (id, log-probability) of the likeliest ones, as many as were asked for.
    """

    id: int
    log_probability: float
    likeliest: tuple[tuple[int, float], ...] = ()


class Piece(NamedTuple):
    """Attributes:
    text: the new part of the answer, often "".
    token: what was chosen; None in a last piece that brings no token.
    finish: in the last piece why the answer ended, else None.
    """

    text: str
    token: Token | None
    finish: str | None


class Answer:
    """An answer that is on its way. Made by `Engine.submit`, filled by its thread.

    Attributes:
        request: what was asked.
        tokens: chosen so far, the end token included.
        text: so far.
        finish: why it ended, or None.
        error: what went wrong, where finish is ERROR.
        submitted, first_token: `time.monotonic()` of when it was handed in, and of its first token or None.
    """

    def __init__(self, request: Request, deliver: Callable[[Piece], object] | None = None):
        """Args:
        deliver: called in the engine's thread with every piece; must not wait. None: iterate over the answer.
        """
        self.request = request
        self.tokens: list[Token] = []
        self.text = ""
        self.finish: str | None = None
        self.error: Exception | None = None
        self.submitted, self.first_token = time.monotonic(), None
        self.is_cancelled = False
        self._pieces: queue.SimpleQueue = queue.SimpleQueue()
        self._deliver = deliver or self._pieces.put

    def cancel(self) -> None:
        """Has it end with the next token; its place is free then. Without effect if it has ended."""
        self.is_cancelled = True

    def __iter__(self) -> Iterator[Piece]:
        """The pieces, as they come. Raises: what went wrong."""
        while True:
            piece = self._pieces.get()
            if piece.finish == ERROR:
                raise self.error
            yield piece
            if piece.finish is not None:
                return

    def wait(self) -> Answer:
        """The answer when it has ended. Raises: what went wrong."""
        for _ in self:
            pass
        return self

    def why_empty(self) -> str | None:
        """Why the answer is empty; None if there is something to read."""
        if self.text.strip():
            return None
        said = [token for token in self.tokens if token.id not in self.request.served.ends]
        if self.finish in (CANCELLED, DEADLINE) and not self.tokens:
            return "it was stopped before its first token"
        if not said:
            return "the model ended it at once"
        hidden = set(self.request.served.tokenizer.hidden_ids)
        if all(token.id in hidden for token in said):
            return f"the model gave only special tokens ({len(said)})"
        if self.text or not self.request.stop_texts:
            return f"the model gave only white space ({len(said)} tokens)"
        return "a stop text came first"

    def add(self, text: str, token: Token | None, finish: str | None = None) -> None:
        """Of the engine: one more piece."""
        if token is not None:
            self.tokens.append(token)
            self.first_token = self.first_token or time.monotonic()
        self.text += text
        self.finish = finish
        self._deliver(Piece(text, token, finish))

    def fail(self, error: Exception) -> None:
        """Of the engine: the answer ends with an error."""
        self.error = error
        self.add("", None, ERROR)

"""Answers many requests at once: chat, batch files, server and web page all come through here.

One thread owns the model. Requests wait in a bounded queue, join the running batch between two tokens, and leave it
when they end, are cancelled, or meet their deadline.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import paddle

from paddle_xc2 import runtime
from paddle_xc2.generation.prefill import group_size
from paddle_xc2.generation.request import CANCELLED, DEADLINE, Answer, Piece, Request
from paddle_xc2.generation.running_batch import RunningBatch
from paddle_xc2.messages import counted

MAX_ROWS, MAX_WAITING = 64, 256
_PART_OF_MEMORY = 0.5  # of what is free, that keys and values may take


class EngineFull(Exception):
    """As many requests wait as may."""


class EngineClosed(Exception):
    """No requests are taken any more."""


class Load(NamedTuple):
    """How busy an engine is.

    Attributes:
        num_running, num_waiting: requests.
    """

    num_running: int
    num_waiting: int


class Engine:
    """Used in a `with` statement, or closed by `close`.

    Args:
        model: of a class in paddle_xc2/model.py. Nobody else may compute with it while the engine is open.
        max_rows: answers that are decoded at once.
        max_waiting: requests that may wait for a place.
        max_positions: tokens of all running answers, prompts and what they may grow to; None is what half of the free
            memory has room for.
    """

    def __init__(
        self, model, max_rows: int = MAX_ROWS, max_waiting: int = MAX_WAITING, max_positions: int | None = None
    ):
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self.max_positions = _positions_in_memory(model) if max_positions is None else max_positions
        self._batch = RunningBatch(model, max_rows, self.max_positions)
        self._waiting: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._was_training = model.training
        self._model = model
        model.eval()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def load(self) -> Load:
        with self._changed:
            return Load(len(self._batch.answers), len(self._waiting))

    def submit(self, request: Request, deliver: Callable[[Piece], object] | None = None) -> Answer:
        """Hands a request in; from any thread.

        Args:
            deliver: as of Answer.
        Raises: ValueError if it can never fit, EngineFull, EngineClosed.
        """
        if request.num_positions > self.max_positions:
            raise ValueError(
                f"the prompt has {counted(len(request.prompt), 'token')} and up to {request.max_new_tokens:,} may "
                f"follow, but there is memory for {self.max_positions:,}; shorten the conversation, or lower the most "
                "that may follow"
            )
        answer = Answer(request, deliver)
        with self._changed:
            if self._is_closed:
                raise EngineClosed("no more requests are taken: the engine is closed")
            if len(self._waiting) >= self.max_waiting:
                raise EngineFull(f"{counted(len(self._waiting), 'request')} wait already; try again later")
            self._waiting.append(answer)
            self._changed.notify_all()
        return answer

    def close(self, patience: float = 0.0) -> None:
        """Takes no more requests, and ends. What is not done after `patience` seconds is cancelled."""
        until = time.monotonic() + patience
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._waiting or self._batch.answers), patience)
            left = [*self._waiting, *self._batch.answers]
        for answer in left:
            answer.cancel()
        self._thread.join(max(0.0, until - time.monotonic()) + 60.0)
        if self._was_training:
            self._model.train()

    @property
    def is_alive(self) -> bool:
        """Whether it answers: until it is closed, or has failed itself."""
        return not self._is_closed

    def _run(self) -> None:
        try:
            with paddle.no_grad():
                while self._wait_for_work():
                    self._batch.advance()
        except Exception as error:  # not of one request, which the batch ends by itself
            self._give_up(error)
            raise

    def _give_up(self, error: Exception) -> None:
        """Nobody waits for a thread that has ended: all answers end with its error, and no more requests are taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            left = [answer for answer in (*self._waiting, *self._batch.answers) if answer.finish is None]
            self._waiting.clear()
            self._batch = RunningBatch(self._model, self.max_rows, self.max_positions)
        for answer in left:
            with suppress(Exception):  # whoever asked may be what failed; the others are told
                answer.fail(error)

    def _wait_for_work(self) -> bool:
        """Lets requests come and go. Returns: whether the engine goes on, as there is something to do."""
        with self._changed:
            while True:
                self._end_unwanted()
                self._admit()
                if self._batch.answers:
                    return True
                self._changed.notify_all()
                if self._is_closed:
                    return False
                self._changed.wait()

    def _end_unwanted(self) -> None:
        """Ends what was cancelled or is past its deadline, here and in the batch."""
        now = time.monotonic()
        for answer in [*self._waiting, *self._batch.answers]:
            deadline = answer.request.deadline
            if answer.finish is not None:
                continue
            if answer.is_cancelled:
                answer.add("", None, CANCELLED)
            elif deadline is not None and now > answer.submitted + deadline:
                answer.add("", None, DEADLINE)
        self._waiting = deque(answer for answer in self._waiting if answer.finish is None)
        self._batch.remove_ended()

    def _admit(self) -> None:
        fitting = self._batch.num_that_fit(self._waiting)
        if fitting:
            joining = list(self._waiting)[:fitting]
            self._batch.add([self._waiting.popleft() for _ in range(group_size(joining))])


def _positions_in_memory(model) -> int:
    """Tokens whose keys and values fit into a part of the free memory."""
    config = model.config
    weight = model.output.weight
    per_layer = 2 * config.num_key_value_heads * config.head_dim * weight.element_size()
    return int(runtime.free_memory() * _PART_OF_MEMORY) // (per_layer * config.num_hidden_layers)

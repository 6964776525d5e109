"""Answers in the form of OpenAI's chat completions, whole or streamed."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator

from paddle_xc2.generation.engine import Engine, EngineClosed, EngineFull
from paddle_xc2.generation.request import DEADLINE, ERROR, LENGTH, Answer, Piece, Request, Token
from paddle_xc2.serving.chat_forms import ChatForm
from paddle_xc2.serving.errors import ApiError
from paddle_xc2.serving.measures import Measures

CLOSED = "the server takes no more requests: it is shutting down, or has failed, and its log says why"


class Completion:
    """The answers to one request, on their way.

    Args:
        requests: one for each choice.
    Raises: ApiError: 429 if the queue is full, 503 if the server ends.
    """

    def __init__(self, engine: Engine, requests: list[Request], form: ChatForm, measures: Measures):
        self._form, self._measures = form, measures
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._tokenizer = requests[0].served.tokenizer
        self.answers: list[Answer] = []
        loop = asyncio.get_running_loop()
        for choice, request in enumerate(requests):

            def deliver(piece: Piece, choice: int = choice) -> None:
                if form.stream or piece.finish is not None:
                    loop.call_soon_threadsafe(self._take, choice, piece)

            try:
                self.answers.append(engine.submit(request, deliver))
            except (EngineFull, EngineClosed, ValueError) as error:
                self.cancel()
                raise _as_api_error(error, engine, measures) from error

    def _take(self, choice: int, piece: Piece) -> None:
        if piece.finish is not None:
            self._measures.count_answer(self.answers[choice])
        self._pieces.put_nowait((choice, piece))

    def cancel(self) -> None:
        """Frees the places."""
        for answer in self.answers:
            answer.cancel()

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """(choice, piece) as they come; without a stream, only the last ones. Whoever stops listening frees the places.

        Raises: ApiError.
        """
        open_choices = len(self.answers)
        try:
            while open_choices:
                choice, piece = await self._pieces.get()
                if piece.finish is not None:
                    open_choices -= 1
                    _check(self.answers[choice])
                yield choice, piece
        finally:
            self.cancel()

    async def whole(self) -> dict:
        """The response's JSON."""
        async for _ in self.pieces():
            pass
        choices = []
        for index, answer in enumerate(self.answers):
            message = {"role": "assistant", "content": answer.text, "refusal": None}
            logprobs = self._logprobs(answer.tokens)
            choice = {"index": index, "message": message, "logprobs": logprobs, "finish_reason": _reason(answer.finish)}
            choices.append(choice | _why_empty(answer))
        return self._object("chat.completion") | {"choices": choices, "usage": self._usage()}

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events."""
        held: dict[int, tuple[list[str], list[Token]]] = {}
        try:
            for choice in range(len(self.answers)):
                yield self._chunk(choice, {"role": "assistant", "content": "", "refusal": None})
            async for choice, piece in self.pieces():
                texts, tokens = held.setdefault(choice, ([], []))
                texts.append(piece.text)
                tokens += [piece.token] if piece.token else []
                if piece.finish is None and not self._pieces.empty():
                    continue  # a client that is slower than the model gets several tokens at once
                for ready, (texts, tokens) in held.items():
                    if any(texts) or tokens and self._form.logprobs:
                        yield self._chunk(ready, {"content": "".join(texts)}, tokens)
                held.clear()
                if piece.finish is not None:
                    yield self._chunk(choice, {}, finish=_reason(piece.finish))
        except ApiError as error:
            yield _event(error.body())
            return
        if self._form.wants_usage:
            yield _event(self._object("chat.completion.chunk") | {"choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    def _object(self, kind: str) -> dict:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._form.model}

    def _chunk(self, choice: int, delta: dict, tokens: list[Token] | None = None, finish: str | None = None) -> str:
        logprobs = self._logprobs(tokens) if tokens else None
        chunk = self._object("chat.completion.chunk")
        told = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk["choices"] = [told | (_why_empty(self.answers[choice]) if finish else {})]
        return _event(chunk | ({"usage": None} if self._form.wants_usage else {}))

    def _usage(self) -> dict:
        prompt, new = len(self.answers[0].request.prompt), sum(len(answer.tokens) for answer in self.answers)
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}

    def _logprobs(self, tokens: list[Token]) -> dict | None:
        if not self._form.logprobs:
            return None
        content = []
        for token in tokens:
            likeliest = [self._token(*pair) for pair in token.likeliest]
            content.append(self._token(token.id, token.log_probability) | {"top_logprobs": likeliest})
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, log_probability: float) -> dict:
        content = self._tokenizer.token_bytes(token_id)
        return {
            "token": content.decode("utf-8", "replace"),
            "logprob": log_probability,
            "bytes": list(content),
        }


def _as_api_error(error: Exception, engine: Engine, measures: Measures) -> ApiError:
    if isinstance(error, EngineFull):
        return busy(engine, measures)
    if isinstance(error, EngineClosed):
        return ApiError(503, CLOSED, "shutting_down")
    return ApiError(400, str(error), "context_length_exceeded", "messages")


def busy(engine: Engine, measures: Measures) -> ApiError:
    """The queue is full: when it may be worth trying again."""
    seconds = max(1, round(engine.max_waiting / engine.max_rows * measures.mean_seconds))
    message = f"{engine.max_waiting} requests wait already; try again in {seconds} s"
    return ApiError(429, message, "queue_full", headers={"Retry-After": str(seconds)})


def _check(answer: Answer) -> None:
    if answer.finish == DEADLINE:
        raise ApiError(408, f"the answer was not done after {answer.request.deadline:g} s", "timeout")
    if answer.finish == ERROR:
        raise ApiError(500, str(answer.error) if isinstance(answer.error, ValueError) else "the model failed")


def _reason(finish: str) -> str:
    return "length" if finish == LENGTH else "stop"


def _why_empty(answer: Answer) -> dict:
    """Of ours: where there is nothing to read, the choice says why."""
    reason = answer.why_empty()
    return {"empty_reason": reason} if reason else {}


def _event(content: dict) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"

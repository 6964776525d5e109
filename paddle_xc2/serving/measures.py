"""What /metrics tells Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from paddle_xc2.generation.engine import Engine
from paddle_xc2.generation.request import Answer

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Measures:
    """Counts of one server, from its start."""

    def __init__(self, engine: Engine):
        self._registry = CollectorRegistry()

        def new(kind, name: str, told: str, **options):
            return kind(f"paddle_xc2_{name}", told, registry=self._registry, **options)

        self._responses = new(Counter, "responses", "Responses by HTTP status.", labelnames=("status",))
        self._answers = new(Counter, "answers", "Answers by model and why they ended.", labelnames=("model", "finish"))
        self._prompt_tokens = new(Counter, "prompt_tokens", "Tokens of the prompts that were answered.")
        self._new_tokens = new(Counter, "generation_tokens", "Tokens that were generated.")
        self._first = new(Histogram, "time_to_first_token_seconds", "From request to first token.", buckets=_SECONDS)
        self._whole = new(Histogram, "request_seconds", "From request to the end of an answer.", buckets=_SECONDS)
        new(Gauge, "running_requests", "Answers that are decoded.").set_function(lambda: engine.load.num_running)
        new(Gauge, "waiting_requests", "Requests in the queue.").set_function(lambda: engine.load.num_waiting)
        self._mean_seconds = 1.0

    @property
    def mean_seconds(self) -> float:
        """That answers took lately."""
        return self._mean_seconds

    def count_response(self, status: int) -> None:
        self._responses.labels(str(status)).inc()

    def count_answer(self, answer: Answer) -> None:
        """An answer that has ended."""
        seconds = time.monotonic() - answer.submitted
        self._answers.labels(answer.request.served.name, answer.finish).inc()
        self._prompt_tokens.inc(len(answer.request.prompt))
        self._new_tokens.inc(len(answer.tokens))
        self._whole.observe(seconds)
        if answer.first_token is not None:
            self._first.observe(answer.first_token - answer.submitted)
        self._mean_seconds += 0.1 * (seconds - self._mean_seconds)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)

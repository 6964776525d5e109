"""The page in the browser: its files, what it begins with, boxes in answers, and a training run to watch.

It asks the same endpoints as every other client. Nothing that it shows is taken as HTML, and nothing of it comes from
elsewhere, so that it works without a network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from paddle_xc2.checkpoint.companions import METRICS_FILE, PREDICTIONS, SAMPLE_ANSWERS_FILE
from paddle_xc2.generation.sampling import SamplingSettings
from paddle_xc2.generation.scores import named_boxes_in
from paddle_xc2.serving.limits import Limits

_FOLDER = Path(__file__).with_name("page")
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# The page runs its own scripts and asks its own server; nobody frames it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_MOST_POINTS = 2000  # of a curve
_MOST_PREDICTIONS = 50
_MOST_CHARACTERS = 200_000  # of an answer whose boxes are looked for


class WebExample(NamedTuple):
    """A question to begin with. images: data addresses."""

    text: str
    images: tuple[str, ...]


class Text(BaseModel):
    """Of an answer."""

    text: str = Field(max_length=_MOST_CHARACTERS)


class WebPage:
    """Args:
    defaults, limits: of the server, which the page shows.
    examples: questions to begin with.
    run: folder of a training run to watch, or None.
    Attributes:
        open_paths: that need no key, as they are the same for everybody.
    """

    def __init__(self, defaults: SamplingSettings, limits: Limits, examples: list[WebExample], run: Path | None):
        self._defaults, self._limits, self._examples, self._run = defaults, limits, examples, run
        self._files = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _KINDS}
        self.open_paths = ("/", *(f"/page/{name}" for name in self._files))

    def add_to(self, app: FastAPI) -> None:
        """Adds the page's paths."""
        app.add_api_route("/", self._file("index.html"))
        for name in self._files:
            app.add_api_route(f"/page/{name}", self._file(name))
        app.add_api_route("/page/setup", self.setup)
        app.add_api_route("/page/boxes", self.boxes, methods=["POST"])
        app.add_api_route("/page/run", self.run)

    async def setup(self) -> JSONResponse:
        """What the page begins with."""
        defaults = self._defaults
        settings = {
            "temperature": defaults.temperature if defaults.do_sample else 0,
            "top_p": defaults.top_p,
            "top_k": defaults.top_k,
            "repetition_penalty": defaults.repetition_penalty,
            "max_completion_tokens": self._limits.max_new_tokens,
        }
        examples = [example._asdict() for example in self._examples]
        content = {"settings": settings, "examples": examples, "max_images": self._limits.max_images}
        return JSONResponse(content | {"run": self._run is not None}, headers=_HEADERS)

    def boxes(self, answer: Text) -> JSONResponse:
        """The boxes in a text, as shares of the picture's sides."""
        return JSONResponse(boxes_to_draw(answer.text))

    def run(self) -> JSONResponse:
        """What the watched run has written so far."""
        if self._run is None:
            return JSONResponse({"name": None})
        return JSONResponse(run_so_far(self._run), headers=_HEADERS)

    def _file(self, name: str) -> Callable[[], Response]:
        content, kind = self._files[name].read_bytes(), _KINDS[self._files[name].suffix]

        async def file() -> Response:
            return Response(content, media_type=kind, headers=_HEADERS)

        return file


def boxes_to_draw(text: str) -> list[dict]:
    """{"name", "box": [left, top, right, bottom] from 0 to 1} of each box in a text that lies within a picture.

    Numbers up to 1 are shares, larger ones thousandths of the side, as Qwen-VL and XComposer write them.
    """
    drawn = []
    for name, box in named_boxes_in(text):
        shares = box if max(box) <= 1 else tuple(number / 1000 for number in box)
        if 0 <= min(shares) and max(shares) <= 1:
            drawn.append({"name": name, "box": list(shares)})
    return drawn


def run_so_far(folder: Path) -> dict:
    """Curves, sample answers and the last predictions of a run's folder. What is not there yet is empty."""
    metrics = _lines(folder / METRICS_FILE)
    every = max(1, -(-len(metrics) // _MOST_POINTS))
    kept = [line for index, line in enumerate(metrics) if "eval_loss" in line or index % every == 0]
    predictions = sorted(folder.glob(f"{PREDICTIONS}*.jsonl"), key=lambda path: path.stat().st_mtime)
    last = _lines(predictions[-1])[:_MOST_PREDICTIONS] if predictions else []
    name = folder.resolve().name
    return {"name": name, "metrics": kept, "answers": _lines(folder / SAMPLE_ANSWERS_FILE), "predictions": last}


def _lines(path: Path) -> list[dict]:
    """The whole lines of a file that may be growing."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    found = []
    for line in content.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # being written
            continue
    return found

"""The server: OpenAI's chat completions and models, /health and /metrics."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from paddle_xc2.generation.engine import Engine
from paddle_xc2.generation.sampling import SamplingSettings
from paddle_xc2.generation.served_model import ServedModel
from paddle_xc2.messages import shown
from paddle_xc2.serving.chat_forms import engine_requests, read_chat, read_form, sent_images
from paddle_xc2.serving.completions import CLOSED, Completion, busy
from paddle_xc2.serving.errors import ApiError
from paddle_xc2.serving.gate import Gate
from paddle_xc2.serving.limits import Limits
from paddle_xc2.serving.measures import Measures
from paddle_xc2.serving.web_page import WebPage

_DECODED_AT_ONCE = 2  # requests whose images are decoded: those of one may take gigabytes


def build_app(
    engine: Engine,
    models: list[ServedModel],
    defaults: SamplingSettings,
    limits: Limits,
    key: str | None = None,
    only_loopback: bool = True,
    fetch: bool = False,
    page: WebPage | None = None,
) -> FastAPI:
    """The ASGI application.

    Args:
        models, defaults, limits, fetch: as of Endpoints.
        key, only_loopback: as of Gate.
        page: for the browser, if there is one.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    endpoints = Endpoints(engine, models, defaults, limits, fetch)
    app.add_middleware(
        Gate,
        limits=limits,
        measures=endpoints.measures,
        key=key,
        open_paths=("/health", *(page.open_paths if page else ())),
        only_loopback=only_loopback,
    )
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(RequestValidationError, _told_by_fastapi)
    app.add_exception_handler(HTTPException, _told_by_starlette)
    app.add_api_route("/health", endpoints.health)
    app.add_api_route("/metrics", endpoints.metrics)
    app.add_api_route("/v1/models", endpoints.list_models)
    app.add_api_route("/v1/models/{name}", endpoints.one_model)
    app.add_api_route("/v1/chat/completions", endpoints.complete, methods=["POST"])
    if page:
        page.add_to(app)
    return app


class Endpoints:
    """What is behind each path.

    Args:
        models: that can be asked, by name.
        defaults: how tokens are chosen where a request doesn't say.
        fetch: whether images behind public addresses are fetched.
    """

    def __init__(
        self,
        engine: Engine,
        models: list[ServedModel],
        defaults: SamplingSettings,
        limits: Limits,
        fetch: bool,
    ):
        self.engine, self.defaults, self.limits, self.fetch = engine, defaults, limits, fetch
        self.models = {served.name: served for served in models}
        self._decoding = asyncio.Semaphore(_DECODED_AT_ONCE)
        self.measures, self.started = Measures(engine), int(time.time())

    async def health(self) -> dict:
        """Raises: ApiError: 503 once nothing is answered any more."""
        if not self.engine.is_alive:
            raise ApiError(503, CLOSED, "shutting_down")
        running, waiting = self.engine.load
        return {"status": "ok", "running": running, "waiting": waiting}

    async def metrics(self) -> Response:
        return Response(self.measures.text(), media_type="text/plain; version=0.0.4")

    async def list_models(self) -> dict:
        return {"object": "list", "data": [self._model_object(served) for served in self.models.values()]}

    async def one_model(self, name: str) -> dict:
        return self._model_object(self._found(name))

    async def complete(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "send the body as application/json")
        form = read_form(await request.body())
        served = self._found(form.model)
        if form.num_choices > self.limits.max_choices:
            raise ApiError(400, f"n is {form.n}; at most {self.limits.max_choices} is taken", "invalid_value", "n")
        if self.engine.load.num_waiting >= self.engine.max_waiting:  # before its images cost anything
            raise busy(self.engine, self.measures)

        def requests():
            chat = read_chat(form, files, self.limits)
            return engine_requests(form, chat, served, self.defaults, self.limits, self.engine.max_positions)

        files = await run_in_threadpool(sent_images, form, self.limits, self.fetch)
        async with self._decoding:
            prompts = await run_in_threadpool(requests)
        completion = Completion(self.engine, prompts, form, self.measures)
        if form.stream:
            return StreamingResponse(completion.stream(), media_type="text/event-stream")
        return await _unless_gone(request, completion)

    def _found(self, name: str) -> ServedModel:
        if name not in self.models:
            there = ", ".join(self.models)
            message = f'there is no model "{shown(name)}"; there are: {there}'
            raise ApiError(404, message, "model_not_found", "model")
        return self.models[name]

    def _model_object(self, served: ServedModel) -> dict:
        return {"id": served.name, "object": "model", "created": self.started, "owned_by": "paddle-xc2"}


async def _told(request: Request, error: ApiError) -> Response:
    return error.response()


async def _told_by_starlette(request: Request, error: HTTPException) -> Response:
    """Of paths and methods that are not there."""
    return ApiError(error.status_code, f"{request.method} {shown(request.url.path)}: {error.detail}").response()


async def _told_by_fastapi(request: Request, error: RequestValidationError) -> Response:
    """Of bodies of the page's paths; what was sent isn't sent back."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    return ApiError(400, f"{field}: {first['msg']}", "invalid_value", field).response()


async def _unless_gone(request: Request, completion: Completion) -> Response:
    """The whole answer; a client that leaves frees its place."""
    answering = asyncio.ensure_future(completion.whole())
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return Response(status_code=499)  # nobody reads it
        return JSONResponse(answering.result())
    finally:
        for task in (answering, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, ApiError):  # told above, or nobody is there to hear it
                await task


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

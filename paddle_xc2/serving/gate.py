"""What every request passes first: the host it names, its key, the size of its body and the time it takes to come."""

from __future__ import annotations

import asyncio
import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paddle_xc2.serving.errors import ApiError
from paddle_xc2.serving.limits import Limits
from paddle_xc2.serving.measures import Measures

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Gate:
    """ASGI middleware.

    Args:
        key: that clients must send, or None.
        open_paths: that need no key.
        only_loopback: whether requests must name this machine, so that no web page reaches it under another name.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        measures: Measures,
        key: str | None,
        open_paths: tuple[str, ...],
        only_loopback: bool,
    ):
        self._app, self._limits, self._measures = app, limits, measures
        self._key, self._open_paths, self._only_loopback = key, open_paths, only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._measures.count_response(message["status"])
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check(scope["path"], headers)
            await self._app(scope, _Body(receive, self._limits).receive, counted)
        except ApiError as error:
            if started:
                raise
            await error.response()(scope, receive, counted)

    def _check(self, path: str, headers: dict[str, str]) -> None:
        if self._only_loopback and _host(headers.get("host", "")) not in LOOPBACK:
            raise ApiError(403, "this server answers to localhost only", "wrong_host")
        if self._key is not None and path not in self._open_paths:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key.encode()):
                told = "send it as Authorization: Bearer KEY"
                raise ApiError(401, f"the API key is wrong or missing; {told}", "invalid_api_key")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limits.max_body_bytes:
            raise _too_large(self._limits)


class _Body:
    """The body of a request, as it comes in."""

    def __init__(self, receive: Receive, limits: Limits):
        self._receive, self._limits = receive, limits
        self._deadline = asyncio.get_running_loop().time() + limits.body_seconds
        self._num_bytes, self._is_whole = 0, False

    async def receive(self) -> Message:
        """Raises: ApiError if it is too large, or takes too long."""
        if self._is_whole:  # what comes now is that the client leaves
            return await self._receive()
        left = self._deadline - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except asyncio.TimeoutError:
            raise ApiError(408, f"the request was not there after {self._limits.body_seconds:g} s", "timeout") from None
        self._num_bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._num_bytes > self._limits.max_body_bytes:
            raise _too_large(self._limits)
        return message


def _too_large(limits: Limits) -> ApiError:
    message = f"the body has more than the {limits.max_body_bytes:,} bytes allowed; send fewer or smaller images"
    return ApiError(413, message, "request_too_large", headers={"Connection": "close"})


def _host(header: str) -> str:
    """The name without its port: "[::1]:8000" -> "::1"."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()

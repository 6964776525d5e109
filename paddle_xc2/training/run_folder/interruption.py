"""Ctrl-C and SIGTERM: asked once, a run ends where it can go on from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from paddle_xc2.files.durable import NoRoom
from paddle_xc2.messages import DISK_ERRORS

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(Exception):
    """Training has ended after a whole step because somebody asked for it; the checkpoint is written."""


class StopRequest:
    """Whether the run is asked to end.

    Attributes:
        by: "Ctrl-C" or "SIGTERM", or None while nobody has asked.
    """

    def __init__(self):
        self.by: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGINT and SIGTERM as requests while the block runs; a second SIGINT raises KeyboardInterrupt.

        Only the main thread can listen: elsewhere, as in a notebook's worker, signals do what they did before.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._receive) for number in _NAMES}
        try:
            yield
        finally:
            for number, handler in before.items():
                # None stands for a handler that Python did not install, which it can't put back.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame) -> None:
        if number == signal.SIGINT and self.by is not None:
            raise KeyboardInterrupt
        self.by = self.by or _NAMES[number]


def is_disk_error(error: Exception) -> bool:
    """Whether `error` says that something could not be written, through no fault of what was to be written."""
    return isinstance(error, NoRoom) or isinstance(error, OSError) and error.errno in DISK_ERRORS

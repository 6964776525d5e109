"""A reader of our output, or a terminal, that goes away does not end what is being done: the rest goes into nothing."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class LastingOutput:
    """A text stream that is written to until its reader is gone. Everything else is the stream's."""

    lasts = True

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._discard(error)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def _discard(self, error: OSError) -> None:
        """Raises: `error` if it says something else."""
        descriptor = self._stream.fileno()
        is_terminal = stat.S_ISCHR(os.fstat(descriptor).st_mode)
        if error.errno != errno.EPIPE and not (error.errno == errno.EIO and is_terminal):
            raise error
        # What is buffered goes there too: at exit, Python would try again, and complain.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)


def keep_output() -> None:
    """From here on, what is printed is lost if nobody is there to read it, and nothing else happens."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:  # it was closed before we began: the next file that is opened would get what is printed
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
                os.close(nothing)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not getattr(stream, "lasts", False):
            setattr(sys, name, LastingOutput(stream))


@contextmanager
def outliving_the_terminal() -> Iterator[None]:
    """A block that goes on when its terminal is closed, as under `nohup`. Only the main thread can see to that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL if before is None else before)

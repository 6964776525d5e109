"""Kills a process at a chosen file operation: before or after its Nth rename, removal or new file."""

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# What changes names in a folder. Opening counts where it may make a file.
_OPERATIONS = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "symlink", "link", "truncate")
STILL_RUNNING = 99  # exit status of a process that was to be killed at an operation which never came


class KillAt:
    """A context: counts file operations below `folder`, and kills this process around number `at`, counted from 0.

    Args:
        at: None only counts.
        after: when the operation is done, rather than before.
    """

    def __init__(self, folder: Path, at: int | None = None, after: bool = False):
        self.folder = os.path.realpath(folder)
        self.at = at
        self.after = after
        self.names: list[str] = []

    def __enter__(self) -> KillAt:
        self._before = {(os, name): getattr(os, name) for name in _OPERATIONS}
        self._before |= {(os, "open"): os.open, (builtins, "open"): builtins.open, (io, "open"): io.open}
        self._before |= {(shutil, "rmtree"): shutil.rmtree}
        for name in _OPERATIONS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        os.open = self._counted("open", os.open, lambda flags=0, *rest: bool(flags & os.O_CREAT))
        opened = self._counted("open", io.open, lambda mode="r", *rest: set(mode) & set("wxa+"))
        builtins.open = io.open = opened
        # The one for folders that are open already is C code on descriptors; this one goes by names, through os.
        shutil.rmtree = _rmtree
        return self

    def __exit__(self, *_) -> None:
        for (module, name), function in self._before.items():
            setattr(module, name, function)

    def _counted(self, name: str, function: Callable, counts: Callable = lambda *rest: True) -> Callable:
        def operation(path, *args, **values):
            how = [*args, *(values[key] for key in ("mode", "flags") if key in values)]
            if not self._is_below(path) or not counts(*how):
                return function(path, *args, **values)
            number = len(self.names)
            self.names.append(f"{name} {os.path.relpath(path, self.folder)}")
            if number == self.at and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return function(path, *args, **values)
            finally:
                if number == self.at:
                    os.kill(os.getpid(), signal.SIGKILL)

        return operation

    def _is_below(self, path) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.folder)


def _rmtree(path, ignore_errors: bool = False, **_) -> None:
    try:
        for entry in sorted(os.listdir(path)):
            inside = os.path.join(path, entry)
            if os.path.isdir(inside) and not os.path.islink(inside):
                _rmtree(inside)
            else:
                os.unlink(inside)
        os.rmdir(path)
    except OSError:
        if not ignore_errors:
            raise


def in_child(function: Callable[[], int | None]) -> int:
    """Calls `function` in a forked process. Returns: the exit status, which is what it returns; -9 if it was killed."""
    process = os.fork()
    if not process:
        status = 1
        try:
            status = function() or 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_everywhere(folder: Path, prepare: Callable[[], object], work: Callable[[], int | None]) -> Iterator[str]:
    """Kills `work` before and after each of its file operations below `folder`; yields the place after each kill.

    Args:
        prepare: makes `folder` anew, in this process.
        work: is called in a forked process.
    """
    for number, after, name in kill_points(folder, prepare, work):
        prepare()
        if in_child(partial(kill_at, folder, number, after, work)) == -signal.SIGKILL:
            yield f"{'after' if after else 'before'} {number}: {name}"


def kill_points(folder: Path, prepare: Callable[[], object], work: Callable[[], int | None]) -> list[tuple]:
    """[(number of the operation, whether after it, what it is)] of a run that is not killed."""
    prepare()
    reader, writer = os.pipe()

    def count() -> None:
        with KillAt(folder) as counted:
            work()
        with os.fdopen(writer, "w") as file:
            file.write("\n".join(counted.names))

    process = os.fork()
    if not process:
        status = 1
        try:
            count()
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        names = file.read().splitlines()
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("the run that was to be counted failed")
    return [(number, after, name) for number, name in enumerate(names) for after in (False, True)]


def kill_at(folder: Path, number: int, after: bool, work: Callable[[], int | None]) -> int:
    with KillAt(folder, number, after):
        work()
    return STILL_RUNNING

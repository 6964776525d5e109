"""One writer at a time: who writes a folder, or a file, holds a lock on it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paddle_xc2.files.durable import SCRATCH, scratch

# Paths that this process has locked -> (descriptor of the lock, thread that may lock them once more, or None).
_held: dict[Path, tuple[int, int | None]] = {}


@contextmanager
def locked(path: str | Path, whole_run: bool = False) -> Iterator[None]:
    """Keeps other writers out of `path`, a folder or a file, which need not exist, while the block runs.

    The system forgets the lock when the process ends, however it ends. What lies within a folder that this process has
    locked is locked with it.

    Args:
        whole_run: further blocks for the same path may stand in this one, and lock nothing.
    Raises: ValueError naming the process that writes it.
    """
    path = Path(path).resolve()
    thread = threading.get_ident()
    if any(parent in _held for parent in path.parents) or path in _held and _held[path][1] == thread:
        yield
        return
    file = _lock_file(path)
    made = [folder for folder in file.parents if not folder.exists()]
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _acquire(file, path)
        except OSError:  # where no lock can be made, nothing can be written: who tries to will say so
            yield
            return
        _held[path] = descriptor, thread if whole_run else None
        try:
            yield
        finally:
            del _held[path]
            with suppress(OSError):
                file.unlink()
            os.close(descriptor)
    finally:
        with suppress(OSError):  # another process's by now, or not empty
            for folder in made:
                folder.rmdir()


def _lock_file(path: Path) -> Path:
    """Beside `path`; within a folder that is a disk of its own, or whose own folder can't be written to."""
    if path.is_dir() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK)):
        return path / f"{SCRATCH}lock"
    return scratch(path, "lock")


def _acquire(file: Path, path: Path) -> int:
    """Returns: the descriptor that holds the lock."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(_being_written(path, _owner(descriptor))) from None
            except OSError:  # a network file system without locks: what the file says has to do
                if _may_be_alive(_owner(descriptor)):
                    raise ValueError(
                        f"{_being_written(path, _owner(descriptor))}; if it has ended, delete {file}"
                    ) from None
            if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
                owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(owner).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner has ended and removed it meanwhile


def _owner(descriptor: int) -> dict:
    """Who wrote a lock's file; {} while nobody has yet."""
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        return {"pid": int(owner["pid"]), "host": str(owner["host"]), "since": str(owner["since"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _may_be_alive(owner: dict) -> bool:
    if not owner or owner["host"] != socket.gethostname():
        return bool(owner)
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _being_written(path: Path, owner: dict) -> str:
    who = " (process {pid} on {host}, since {since})".format(**owner) if owner else ""
    return f"{path}: another process is writing it{who}; wait for its end, or give another name"


def _forget() -> None:
    """In a forked child: a lock is its parent's alone, and ends with it."""
    for descriptor, _ in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)

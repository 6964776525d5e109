"""Editing of the line that is typed, those typed before, and completion: by readline, where Python has it."""

from __future__ import annotations

import atexit
import contextlib
import glob
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_NUM_LINES = 1000  # that are kept from one conversation to the next


def prepare(commands: Iterable[str], takes_path: str, history_file: Path) -> None:
    """Has `input` edit lines, if a person types there.

    Args:
        commands: words that a line may begin with: "/help".
        takes_path: the one that a path follows.
        history_file: where lines are kept. That it can't be read or written changes nothing else.
    """
    if not sys.stdin.isatty():
        return
    try:
        import readline
    except ImportError:  # Windows
        return
    words = sorted(commands)
    readline.set_completer_delims("\n")  # the completer sees the whole line
    readline.set_completer(lambda text, state: dict(enumerate(completions(text, words, takes_path))).get(state))
    by_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if by_libedit else "tab: complete")
    readline.set_history_length(_NUM_LINES)
    with contextlib.suppress(OSError):
        readline.read_history_file(history_file)
    atexit.register(_keep, readline, history_file)


def completions(line: str, commands: list[str], takes_path: str) -> list[str]:
    """What a line may go on as: a command, or after `takes_path` a file or folder."""
    head = f"{takes_path} "
    if not line.startswith(head):
        found = [word for word in commands if line and word.startswith(line)]
        return [head if word == takes_path else word for word in found]
    begun = line[len(head) :]
    found = sorted(glob.glob(glob.escape(os.path.expanduser(begun)) + "*"))
    return [head + name + ("/" if os.path.isdir(name) else "") for name in found]


def _keep(readline, history_file: Path) -> None:
    with contextlib.suppress(OSError):
        history_file.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(history_file)

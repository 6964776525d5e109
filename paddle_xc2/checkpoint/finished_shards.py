"""Which shards of a checkpoint are written, so that a conversion that was interrupted goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from paddle_xc2.files.durable import INTERRUPTIONS, replace_file, sha256
from paddle_xc2.files.json_file import read_json
from paddle_xc2.messages import counted, sized

FINISHED_FILE = "finished_shards.json"


class FinishedShards:
    """The whole shards in an unfinished directory. A context: after an error, nothing else is left there.

    Args:
        directory: where the checkpoint is written.
        attempt: identifies what is written, and from what; shards of another attempt are deleted.
        say: gets a line on what was found, and one on what is left behind.
    """

    def __init__(self, directory: Path, attempt: str, say: Callable[[str], object]):
        self.directory = directory
        self.attempt = attempt
        self.say = say
        self._shards: dict[str, dict] = {}

    def __enter__(self) -> FinishedShards:
        if any(self.directory.iterdir()):
            self._shards = self._read()
            self._delete_others()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is None:
            return
        self._delete_others()
        if self._shards and isinstance(error, INTERRUPTIONS):
            self.say(
                f"finished and kept: {_described(self._shards)} in {self.directory}; the same command goes on after "
                "that, or delete the directory"
            )

    @property
    def num_bytes(self) -> int:
        return sum(shard["bytes"] for shard in self._shards.values())

    def sha256_of(self, path: Path) -> str | None:
        """SHA-256 of a finished shard in hexadecimal; None for one that is still to be written."""
        shard = self._shards.get(self._name(path))
        return None if shard is None else shard["sha256"]

    def add(self, path: Path, digest: str) -> None:
        """Remembers a shard that is whole and on the disk."""
        self._shards[self._name(path)] = {"bytes": path.stat().st_size, "sha256": digest}
        state = {"attempt": self.attempt, "shards": self._shards}
        replace_file(self.directory / FINISHED_FILE, json.dumps(state, indent=2).encode())

    def complete(self) -> None:
        """Every shard is there: from here on the directory holds nothing but the checkpoint."""
        self._shards = {}
        (self.directory / FINISHED_FILE).unlink(missing_ok=True)

    def _read(self) -> dict[str, dict]:
        try:
            state = read_json(self.directory / FINISHED_FILE)
            recorded = dict(state["shards"]) if state["attempt"] == self.attempt else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            recorded = {}  # killed before the first shard was finished
        if recorded is None:
            self.say(
                f"starting anew: what an interrupted start left in {self.directory} is of another source or of other "
                "arguments, and is deleted"
            )
            return {}
        whole = {}
        for name, shard in recorded.items():
            path = self.directory / name
            if path.is_file() and path.stat().st_size == shard["bytes"] and sha256(path) == shard["sha256"]:
                whole[name] = shard
        if whole:
            self.say(f"going on after {_described(whole)} that an earlier start finished")
        return whole

    def _delete_others(self) -> None:
        kept = {*self._shards, FINISHED_FILE} if self._shards else set()
        for path in sorted(self.directory.rglob("*"), reverse=True):  # what is in a folder before the folder
            if not path.is_dir():
                if self._name(path) not in kept:
                    path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.directory).as_posix()


def _described(shards: dict[str, dict]) -> str:
    num_bytes = sum(shard["bytes"] for shard in shards.values())
    return f"{counted(len(shards), 'shard')} ({sized(num_bytes)})"

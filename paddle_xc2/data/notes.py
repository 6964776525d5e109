"""What was read in spite of an oddity: counted by kind, shown in one place, never printed record by record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """One kind of oddity.

    Attributes:
        kind: what it is and what was made of it: "messages before the first question, left out".
        count: how often.
        example: the first place: "train.json[17]".
    """

    kind: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count:,} x {self.kind} (first: {self.example})"


MANY_KINDS = "oddity of a kind that is not listed: there are too many"

_NUM_KINDS = 100


class Notes:
    """A small collection: one entry per kind, in the order of first appearance, however many records there are."""

    def __init__(self):
        self._notes: dict[str, Note] = {}

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Counts an oddity. `example` is kept if it is the first of its kind."""
        if kind not in self._notes and len(self._notes) >= _NUM_KINDS:
            kind = MANY_KINDS
        known = self._notes.get(kind)
        self._notes[kind] = Note(kind, count + (known.count if known else 0), known.example if known else example)

    def update(self, others) -> None:
        """Adds those of another collection."""
        for note in others:
            self.add(note.kind, note.example, note.count)

    def __iter__(self):
        return iter(self._notes.values())

    def __len__(self) -> int:
        return len(self._notes)

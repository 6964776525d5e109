"""What all kinds of data files have in common: records by their number, and what is odd about the file."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

from paddle_xc2.data.notes import Notes
from paddle_xc2.files.local_path import local_path

MAX_RECORD_BYTES = 64 * 1024 * 1024  # of one record; an image inside a record has a limit of its own


class DataFile(Sequence):
    """The records of a data file, whatever its kind: what is one has `read(index, notes)` and a length.

    Attributes:
        path: of the file.
        notes: what is odd about the file as a whole.

    Raises: FileNotFoundError if there is no such file.
    """

    def __init__(self, path):
        self.path = local_path(path)
        self.notes = Notes()
        if not self.path.is_file():
            what = "this is a folder, not a data file" if self.path.is_dir() else "there is no such data file"
            raise FileNotFoundError(f"{self.path}: {what}; correct the path")

    def __getitem__(self, index):
        """Record `index`, or a list of them for a slice. Raises: IndexError; DataError if it can't be read."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self.read(range(len(self))[operator.index(index)])

    def __iter__(self) -> Iterator:
        return (self.read(index) for index in range(len(self)))

    def source(self, index: int) -> str:
        """The name of a record, for messages: "train.json[17]"."""
        return f"{self.path}[{index}]"

"""Records that are to be answered: in any dialect, their last answer left open or given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from paddle_xc2.data.chat_request import ChatRequest
from paddle_xc2.data.conversation import Conversation, DataError
from paddle_xc2.data.images.downloads import ImageCache
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.conversations import find_image, image_folders, sizes_in
from paddle_xc2.data.records.dialects import read_record
from paddle_xc2.data.records.tables import open_records


class Question(NamedTuple):
    """Attributes:
    request: what is asked: the turns before the last answer.
    given: that answer, or None where it is left open.
    id: what the record calls itself, or None.
    """

    request: ChatRequest
    given: str | None
    id: object


class QuestionFile(Sequence):
    """The records of a data file as questions, each read when it is asked for.

    Args:
        path: of a JSON, JSONL, CSV or TSV file.
        image_folder: where relative image paths start; None is the file's own folder, then the working directory.
        columns: as of `open_records`.
    Raises: FileNotFoundError; DataError if the file is damaged. `[index]` raises DataError for a record that can't be
        used.
    """

    def __init__(self, path, image_folder=None, columns=None):
        self._records = open_records(path, columns)
        self._folders = image_folders(image_folder, self._records.path.parent)
        self._cache = ImageCache()

    @property
    def path(self):
        return self._records.path

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Question:
        source = self._records.source(index)
        record = self._records.read(index, Notes())
        sizes = sizes_in(self._folders, source, self._cache)
        messages, references = read_record(record, source, Notes(), sizes)
        given = None
        if messages and messages[-1].role == "assistant":
            given, messages = messages[-1].text, messages[:-1]
        if not messages or messages[-1].role != "user":
            raise DataError(f"{source}: there is no question; write one as the user's last turn", "roles")
        images = tuple(find_image(reference, source, self._folders, self._cache) for reference in references)
        Conversation(messages, images, source, is_prompt=True)  # checks them
        system, turns = (messages[0].text, messages[1:]) if messages[0].role == "system" else (None, messages)
        said = [message.text for message in turns]
        pairs = tuple(zip(said[:-1:2], said[1::2], strict=True))
        name = record.get("id") if isinstance(record, dict) else None
        return Question(ChatRequest(system, pairs, said[-1], images), given or None, name)

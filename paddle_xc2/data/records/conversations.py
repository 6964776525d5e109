"""Files of training data, in any dialect -> Conversations. Nothing after this file knows that dialects exist."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from paddle_xc2.data.conversation import Conversation, DataError, check_trainable
from paddle_xc2.data.images.downloads import ImageCache, is_data_url, is_url
from paddle_xc2.data.images.pictures import ImageMissing, image_size_of
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.dialects import read_record
from paddle_xc2.data.records.record_files import RecordFile
from paddle_xc2.data.records.tables import TableFile, open_records
from paddle_xc2.files.local_path import find_path, local_path, spellings
from paddle_xc2.messages import NUM_LINES, listed_lines, shown


class ConversationFile(Sequence):
    """The records of a data file as training samples, each read when it is asked for. Made by `open_conversations`.

    May be pickled, or used after a fork. `[index]` raises DataError for a record that can't be used.

    Attributes:
        records: of the file, as they stand there.
        image_folder: where relative image paths start; None is the file's folder, then the working directory.
        cache: where images named by an address are fetched to.
        notes: oddities that were read in spite of: of the file, and of the records that `check` went through.
    """

    def __init__(self, records: RecordFile | TableFile, image_folder, cache: ImageCache):
        self.records, self.image_folder, self.cache = records, image_folder, cache
        self.notes = Notes()
        self.notes.update(records.notes)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self.read(range(len(self))[operator.index(index)])

    def __iter__(self):
        return (self.read(index) for index in range(len(self)))

    @property
    def path(self) -> Path:
        """Of the data file."""
        return self.records.path

    @property
    def folders(self) -> list[Path]:
        """Where relative image paths start."""
        return image_folders(self.image_folder, self.path.parent)

    def name(self, index: int) -> str:
        """What messages call a record: "train.json[17]"."""
        return self.records.source(index)

    def conversation(self, index: int, notes: Notes | None = None) -> Conversation:
        """Record `index`, whether there is an answer to learn or not. Images are looked for, not opened.

        Args:
            notes: where its oddities are counted.
        Raises: DataError.
        """
        record = self.records.read(index, notes)
        return to_conversation(record, self.name(index), self.image_folder, self.path.parent, self.cache, notes)

    def read(self, index: int, notes: Notes | None = None) -> Conversation:
        """Record `index` as a training sample; arguments and errors as of `conversation`."""
        conversation = self.conversation(index, notes)
        check_trainable(conversation)
        return conversation

    def check(self) -> None:
        """Reads every record once. Raises: DataError that lists those that can't be used, the first 20 in full."""
        errors, num_errors = [], 0
        for index in range(len(self)):
            try:
                self.read(index, self.notes)
            except DataError as error:
                num_errors += 1
                if num_errors <= NUM_LINES:
                    errors.append(str(error))
        if num_errors:
            title = f"{self.path}: {num_errors} of {len(self)} records can't be used:"
            raise DataError(listed_lines(title, errors, total=num_errors))


def open_conversations(
    path, image_folder=None, cache: ImageCache | None = None, columns: Mapping[str, str] | None = None
) -> ConversationFile:
    """The records of a JSON, JSONL, CSV or TSV file as training samples, none of them read yet.

    Args:
        image_folder: where relative image paths start; None is the file's own folder, then the working directory.
        cache: where images named by an address are fetched to; None is the user's cache folder.
        columns: as of `open_records`.
    Raises: FileNotFoundError; DataError if the file is damaged (of JSON lines: if all of it is).
    """
    return ConversationFile(open_records(path, columns), image_folder, cache or ImageCache())


def load_conversations(path, image_folder=None, cache: ImageCache | None = None) -> ConversationFile:
    """`open_conversations`, and every record checked.

    Raises: FileNotFoundError; DataError that lists the records that can't be used, the first 20 of them in full.
    """
    conversations = open_conversations(path, image_folder, cache)
    conversations.check()
    return conversations


def to_conversation(
    record,
    source: str,
    image_folder=None,
    base_folder=None,
    cache: ImageCache | None = None,
    notes: Notes | None = None,
) -> Conversation:
    """One record of any dialect -> Conversation.

    Args:
        source: the record's name, for messages.
        image_folder: where relative image paths start. None: they are looked for in `base_folder` if that is given (the
            folder of the JSON file), then in the working directory.
        cache: where images named by an address are fetched to; None is the user's cache folder.
        notes: where oddities that are no error are counted.
    Raises: DataError.
    """
    folders = image_folders(image_folder, base_folder)
    messages, references = read_record(record, source, notes, sizes_in(folders, source, cache))
    images = tuple(find_image(reference, source, folders, cache) for reference in references)
    return Conversation(messages, images, source)


def image_folders(image_folder=None, base_folder=None) -> list[Path]:
    """Where relative paths of images are looked for, in this order."""
    return [local_path(image_folder)] if image_folder else [Path(base_folder or "."), Path(".")]


def sizes_in(folders: list[Path], source: str, cache: ImageCache | None = None) -> Callable[[str], tuple[int, int]]:
    """What gives (width, height) in pixels of the image that a record names."""
    return lambda reference: image_size_of(find_image(reference, source, folders, cache), source)


def find_image(reference: str, source: str, folders: list[Path], cache: ImageCache | None = None) -> Path:
    """The file of an image. One named by an address, or written into the record, is put into the cache.

    Raises: ImageMissing, DownloadError, DataError.
    """
    if is_url(reference):
        return (cache or ImageCache()).fetch(reference, source)
    if is_data_url(reference):
        return (cache or ImageCache()).unpack(reference, source)
    if not reference:
        raise DataError(f"{source}: the path of an image is empty; write it, or remove the image")
    if path := find_path(reference, folders):
        return path
    name = shown(reference, 200)
    if Path(spellings(reference)[0]).is_absolute():
        raise ImageMissing(
            f'{source}: there is no image "{name}"; correct the path or add the file', (reference, folders[0])
        )
    places = " or ".join(dict.fromkeys(str(folder.absolute()) for folder in folders))
    raise ImageMissing(
        f'{source}: there is no image "{name}" in {places}; correct the path, or set image_folder',
        (reference, folders[0]),
    )

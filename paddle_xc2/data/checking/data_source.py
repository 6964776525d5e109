"""The files of a data set as check-data takes them: records, and where their images start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from paddle_xc2.data.conversation import Conversation, DataError, check_trainable
from paddle_xc2.data.encode import TooLong
from paddle_xc2.data.findings import Finding, add_finding
from paddle_xc2.data.images.downloads import ImageCache
from paddle_xc2.data.images.picture_reading import AS_UPSTREAM
from paddle_xc2.data.images.pictures import look_at
from paddle_xc2.data.images.video import frame_sheet, is_video
from paddle_xc2.data.records.conversations import find_image, image_folders, to_conversation
from paddle_xc2.data.records.record_files import RecordFile
from paddle_xc2.data.records.tables import TableFile, open_records


@dataclass(frozen=True)
class DataSource:
    """One file of records.

    Attributes:
        records: of the file.
        image_folder: where relative image paths start; None is the file's folder, then the working directory.
    """

    records: RecordFile | TableFile
    image_folder: Path | None = None

    @property
    def path(self) -> Path:
        return self.records.path

    def name(self, index: int) -> str:
        """What messages call a record: "train.json[17]"."""
        return self.records.source(index)

    @property
    def image_folders(self) -> list[Path]:
        """Where relative image paths start."""
        return image_folders(self.image_folder, self.path.parent)

    def find_image(self, reference: str, index: int, cache: ImageCache | None = None) -> Path:
        """The file of an image that record `index` names. Raises: DataError."""
        return find_image(reference, self.name(index), self.image_folders, cache)

    def conversation(self, index: int) -> Conversation:
        """A record as training takes it. Raises: DataError."""
        return to_conversation(self.records.read(index), self.name(index), self.image_folder, self.path.parent)


def open_sources(
    files: Iterable[tuple],
) -> tuple[list[DataSource], dict[str, Finding]]:
    """Files of records.

    Args:
        files: (path, image folder or None), and the columns of a table, if they are known.
    Returns: those that can be read, and what is wrong with the others.
    Raises: FileNotFoundError.
    """
    sources, findings = [], {}
    for path, image_folder, *columns in files:
        try:
            sources.append(DataSource(open_records(path, *columns), image_folder))
        except DataError as error:
            add_finding(findings, "unreadable file", True, -1, str(error))
    return sources, findings


def why_unusable(record, source: DataSource, index: int, processor=None, leave_out: bool = False) -> str | None:
    """Why training would not take a record in the place of record `index`; None if it does. Images are read whole.

    Args:
        processor, leave_out: as of `check_data`.
    """
    reading = AS_UPSTREAM if processor is None else processor.reading
    try:
        conversation = to_conversation(record, source.name(index), source.image_folder, source.path.parent)
        if processor is None:
            check_trainable(conversation)
        else:
            conversation, _ = processor.lay_out(conversation)
        for image in dict.fromkeys(conversation.images):
            if is_video(image):
                frame_sheet(image, conversation.source)
            else:
                look_at(image, conversation.source, reading=reading)
    except TooLong as error:
        return None if leave_out else str(error)
    except DataError as error:
        return str(error)
    return None

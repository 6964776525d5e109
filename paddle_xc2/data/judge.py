"""The judge of records: whether one can be trained on, and if not, every reason. Training and check-data both ask it.

check-data adds what is remarkable but trains (`checking/check.py`); training adds what identifies a run's data
(`samples.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from paddle_xc2.data.conversation import Conversation, DataError, Message, broken_rules, check_trainable
from paddle_xc2.data.encode import Example, TooLong
from paddle_xc2.data.images.picture_reading import AS_UPSTREAM
from paddle_xc2.data.images.pictures import ImageMissing, Looked, look_at
from paddle_xc2.data.images.video import frame_sheet, is_video
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.conversations import ConversationFile, find_image, sizes_in
from paddle_xc2.data.records.dialects import read_record

_VIDEO = Looked((0, 0), {})


@dataclass
class Verdict:
    """What is found out about one record.

    Attributes:
        name: "train.json[17]".
        errors: (rule, message) of every rule that it breaks, each once.
        too_long: why it does not fit max_length; None if it does, or if it can't be said.
        missing: images that are not there, as of `where_they_lie`.
        record: as it stands in the file; None if it can't be read, or was a conversation to begin with.
        messages, references: what `read_record` makes of it; nothing if it can't be read.
        conversation: None if it breaks a rule that keeps it from being one, or an image is missing.
        fitting, example: what `XComposer2Processor.lay_out` makes of it: as much as fits max_length. None without a
            processor, or if nothing fits.
        images: each picture or video that could be looked at -> what it is; (0, 0) is the size of a video.
    """

    name: str
    errors: list[tuple[str, str]] = field(default_factory=list)
    too_long: TooLong | None = None
    missing: list[tuple[str, Path]] = field(default_factory=list)
    record: object = None
    messages: tuple[Message, ...] = ()
    references: list[str] = field(default_factory=list)
    conversation: Conversation | None = None
    fitting: Conversation | None = None
    example: Example | None = None
    images: dict[Path, Looked] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        return not self.errors and self.too_long is None

    def refuse(self, rule: str, message: str) -> None:
        if (rule, message) not in self.errors:
            self.errors.append((rule, message))


class Judge:
    """Judges records one by one. Each image that many of them show is looked at once.

    Args:
        processor: of the model that is to be trained; None judges by what holds for every model.
        decode: read images whole; else only their headers.
        leave_out: whether training goes on without samples that are too long: their images are not looked at.
    """

    def __init__(self, processor=None, decode: bool = True, leave_out: bool = False):
        self.processor = processor
        self.decode = decode
        self.leave_out = leave_out
        self.reading = AS_UPSTREAM if processor is None else processor.reading
        self._looked: dict[Path, Looked | tuple[str, str]] = {}  # or (rule, message) of what is wrong with it

    def of_file(self, file: ConversationFile, index: int, notes: Notes) -> Verdict:
        """Of record `index` of a data file.

        Args:
            notes: where its oddities are counted.
        """
        try:
            record = file.records.read(index, notes)
        except DataError as error:
            return Verdict(file.name(index), [(error.rule, str(error))])
        return self.of_record(record, file, index, notes)

    def of_record(self, record, file: ConversationFile, index: int, notes: Notes) -> Verdict:
        """Of `record` in the place of record `index` of a data file."""
        verdict = Verdict(file.name(index), record=record)
        try:
            sizes = sizes_in(file.folders, verdict.name, file.cache)
            verdict.messages, verdict.references = read_record(record, verdict.name, notes, sizes)
        except DataError as error:
            verdict.refuse(error.rule, str(error))
            return verdict
        for error in broken_rules(verdict.messages, len(verdict.references), verdict.name):
            verdict.refuse(error.rule, str(error))
        images = self._found(file, verdict)
        if verdict.errors:
            self._look_at(images, verdict)
        else:
            self._judge(Conversation(verdict.messages, tuple(images), verdict.name), verdict)
        return verdict

    def of_conversation(self, conversation: Conversation) -> Verdict:
        """Of what is a conversation already."""
        verdict = Verdict(conversation.source, messages=conversation.messages)
        self._judge(conversation, verdict)
        return verdict

    def reasons(self, verdict: Verdict) -> list[tuple[str, str]]:
        """(rule, message) of everything for which training stops at a record."""
        if verdict.too_long is None or self.leave_out:
            return verdict.errors
        return [(verdict.too_long.rule, str(verdict.too_long)), *verdict.errors]

    def _found(self, file: ConversationFile, verdict: Verdict) -> list[Path]:
        images = []
        for reference in verdict.references:
            try:
                images.append(find_image(reference, verdict.name, file.folders, file.cache))
            except DataError as error:
                verdict.refuse(error.rule, str(error))
                if isinstance(error, ImageMissing) and error.looked_for:
                    verdict.missing.append(error.looked_for)
        return images

    def _judge(self, conversation: Conversation, verdict: Verdict) -> None:
        verdict.conversation, images = conversation, conversation.images
        try:
            if self.processor is None:
                check_trainable(conversation)
            else:
                verdict.fitting, verdict.example = self.processor.lay_out(conversation)
                images = verdict.fitting.images  # an image of a turn that is dropped is never read
        except TooLong as error:
            verdict.too_long = error
            images = () if self.leave_out else images
        except DataError as error:
            verdict.refuse(error.rule, str(error))
        self._look_at(images, verdict)

    def _look_at(self, images: Iterable[Path], verdict: Verdict) -> None:
        for image in dict.fromkeys(images):
            if image not in self._looked:
                self._looked[image] = self._what_is(image)
            looked = self._looked[image]
            if isinstance(looked, Looked):
                verdict.images[image] = looked
            else:
                verdict.refuse(looked[0], f"{verdict.name}: {looked[1]}")

    def _what_is(self, image: Path) -> Looked | tuple[str, str]:
        try:
            if not is_video(image):
                return look_at(image, decode=self.decode, reading=self.reading)
            if self.decode:
                frame_sheet(image)
        except DataError as error:
            return error.rule, str(error)
        return _VIDEO

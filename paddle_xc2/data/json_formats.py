"""Every JSON dialect -> Conversation. Nothing after this file knows that dialects exist.

A dialect is one function, record -> (messages with `<ImageHere>`, references to images). Which one reads a record is
seen from the record itself, so that one file may hold several.
"""

from __future__ import annotations

import difflib
import operator
import os
import re
from collections.abc import Sequence
from pathlib import Path

from paddle_xc2.data.conversation import Conversation, DataError, Message, check_trainable
from paddle_xc2.data.downloads import ImageCache, is_url
from paddle_xc2.data.image_transform import ImageMissing
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.record_files import RecordFile
from paddle_xc2.special_tokens import IMAGE_PLACEHOLDER, LLAVA_IMAGE

# Who speaks, as records name them, in lower case.
SPEAKERS = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "bot": "assistant",
    "gpt": "assistant",
}

_NUM_ERRORS_SHOWN = 20
_IMAGE_TAG = re.compile(r"<img>(.*?)</img>")


class ConversationFile(Sequence):
    """The records of a data file as training samples, each read when it is asked for. Made by `open_conversations`.

    May be pickled, or used after a fork. `[index]` raises DataError for a record that can't be used.

    Attributes:
        notes: oddities that were read in spite of: of the file, and of the records that `check` went through.
    """

    def __init__(self, records: RecordFile, image_folder, cache: ImageCache):
        self.notes = Notes()
        self.notes.update(records.notes)
        self._records, self._image_folder, self._cache = records, image_folder, cache

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self.read(range(len(self))[operator.index(index)])

    def __iter__(self):
        return (self.read(index) for index in range(len(self)))

    @property
    def path(self) -> Path:
        """Of the data file."""
        return self._records.path

    def read(self, index: int, notes: Notes | None = None) -> Conversation:
        """Record `index` as a training sample. Images are looked for, not opened.

        Args:
            notes: where its oddities are counted.
        Raises: DataError.
        """
        record = self._records.read(index, notes)
        conversation = to_conversation(
            record, self._records.source(index), self._image_folder, self.path.parent, self._cache
        )
        check_trainable(conversation)
        return conversation

    def check(self) -> None:
        """Reads every record once. Raises: DataError that lists those that can't be used, the first 20 in full."""
        shown, num_errors = [], 0
        for index in range(len(self)):
            try:
                self.read(index, self.notes)
            except DataError as error:
                num_errors += 1
                if num_errors <= _NUM_ERRORS_SHOWN:
                    shown.append(str(error))
        if num_errors:
            more = num_errors - len(shown)
            shown += [f"and {more} more"] if more else []
            raise DataError("\n  ".join([f"{self.path}: {num_errors} of {len(self)} records can't be used:", *shown]))


def open_conversations(path, image_folder=None, cache: ImageCache | None = None) -> ConversationFile:
    """The records of a JSON or JSONL file as training samples, none of them read yet.

    Args:
        image_folder: where relative image paths start; None is the file's own folder, then the working directory.
        cache: where images named by an address are fetched to; None is the user's cache folder.
    Raises: FileNotFoundError; DataError if the file is damaged (of JSON lines: if all of it is).
    """
    return ConversationFile(RecordFile(path), image_folder, cache or ImageCache())


def load_conversations(path, image_folder=None, cache: ImageCache | None = None) -> ConversationFile:
    """`open_conversations`, and every record checked.

    Raises: FileNotFoundError; DataError that lists the records that can't be used, the first 20 of them in full.
    """
    conversations = open_conversations(path, image_folder, cache)
    conversations.check()
    return conversations


def to_conversation(
    record, source: str, image_folder=None, base_folder=None, cache: ImageCache | None = None
) -> Conversation:
    """One record of any dialect -> Conversation.

    Args:
        source: the record's name, for messages.
        image_folder: where relative image paths start. None: they are looked for in `base_folder` if that is given (the
            folder of the JSON file), then in the working directory.
        cache: where images named by an address are fetched to; None is the user's cache folder.
    Raises: DataError.
    """
    read = _dialect_of(record, source)
    messages, references = read(record, source)
    folders = [Path(image_folder)] if image_folder else [Path(base_folder or "."), Path(".")]
    images = tuple(_find_image(reference, source, folders, cache) for reference in references)
    return Conversation(messages, images, source)


def read_xcomposer2(record: dict, source: str) -> tuple[tuple[Message, ...], list[str]]:
    """XComposer2's and XComposer-2.5's own: {"image": [path, ...] or path, "conversations": [{"from", "value"}, ...]}.

    `value` holds `<ImageHere>` where an image belongs. Texts are taken as they are.
    """
    messages, references = [], _listed_images(record, source)
    for index, turn in enumerate(record["conversations"]):
        for key in ("from", "value"):
            if key not in turn:
                raise DataError(f'{source}: message {index} has no "{key}"; write {{"from": ..., "value": ...}}')
        speaker = str(turn["from"]).lower()
        if speaker not in SPEAKERS:
            raise DataError(f'{source}: message {index} is from "{turn["from"]}"; use one of {", ".join(SPEAKERS)}')
        text = _checked_text(turn["value"], f"message {index}", source)
        if _IMAGE_TAG.search(text):
            raise DataError(
                f"{source}: message {index} marks an image by <img>; write {IMAGE_PLACEHOLDER} there, "
                'and the path into "image"'
            )
        messages.append(Message(SPEAKERS[speaker], text))
    return tuple(messages), references


def read_llava(record: dict, source: str) -> tuple[tuple[Message, ...], list[str]]:
    """LLaVA's and XTuner's: as XComposer2's, but `<image>` stands for an image.

    A message's only image goes to its front, with a line break, as XTuner's `llava_map_fn` does; several stay in place.
    """
    messages, references = read_xcomposer2(record, source)
    return tuple(Message(message.role, _llava_text(message.text)) for message in messages), references


def _llava_text(text: str) -> str:
    if text.count(LLAVA_IMAGE) == 1:
        return f"{IMAGE_PLACEHOLDER}\n{text.replace(LLAVA_IMAGE, '').strip()}"
    return text.replace(LLAVA_IMAGE, IMAGE_PLACEHOLDER)


def read_chatml(record: dict, source: str) -> tuple[tuple[Message, ...], list[str]]:
    """PaddleMIX's chatml: {"conversations": [[question, answer], ...]}, images inline as `<img>path or address</img>`.

    The tag alone becomes `<ImageHere>`: the line break that PaddleMIX's documents write after it stays in the text, as
    it does in what PaddleMIX feeds its model. Unlike there, every turn counts and one line may hold several tags.
    """
    messages, references = [], []
    for index, pair in enumerate(record["conversations"]):
        if len(pair) != 2:
            raise DataError(
                f"{source}: conversations[{index}] is a list of {len(pair)}; write [question, answer] for each turn"
            )
        for role, value in zip(("user", "assistant"), pair, strict=True):
            text = _checked_text(value, f"the {role}'s text in conversations[{index}]", source)
            references += [reference.strip() for reference in _IMAGE_TAG.findall(text)]
            text = _IMAGE_TAG.sub(IMAGE_PLACEHOLDER, text)
            if "<img>" in text or "</img>" in text:
                raise DataError(
                    f"{source}: the {role}'s text in conversations[{index}] has an <img> without its </img> on the "
                    "same line, or the other way round; write <img>path</img>"
                )
            messages.append(Message(role, text))
    listed = _listed_images(record, source)
    if references and listed and listed != references:
        raise DataError(f'{source}: "image" names {listed} but the <img> tags name {references}; keep one of the two')
    return tuple(messages), references or listed


def _dialect_of(record, source: str):
    """The function that reads this record."""
    if not isinstance(record, dict):
        raise DataError(f'{source}: the record is {_kind(record)}; it must be an object with "conversations"')
    if "conversations" not in record:
        nearest = difflib.get_close_matches("conversations", map(str, record), n=1)
        there = (
            f'did you mean "{nearest[0]}"?' if nearest else f"the record has {', '.join(map(str, record)) or 'no keys'}"
        )
        raise DataError(f'{source}: there is no "conversations"; {there}')
    turns = record["conversations"]
    if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        # Without an image, "<image>" may be what a text is about.
        has_tag = any(LLAVA_IMAGE in str(turn.get("value")) for turn in turns)
        return read_llava if has_tag and _listed_images(record, source) else read_xcomposer2
    if isinstance(turns, list) and all(isinstance(turn, list) for turn in turns):
        return read_chatml
    found = f"a list of {' and '.join(dict.fromkeys(map(_kind, turns)))}" if isinstance(turns, list) else _kind(turns)
    raise DataError(
        f'{source}: "conversations" is {found}; write a list of {{"from": ..., "value": ...}}, or of [question, answer]'
    )


def _listed_images(record: dict, source: str) -> list[str]:
    """What the record's "image" (or "images") names: a path or a list of them, none if it is missing or null."""
    if record.get("image") and record.get("images"):
        raise DataError(f'{source}: there are both "image" and "images"; keep one')
    listed = record.get("image") or record.get("images") or []
    listed = [listed] if isinstance(listed, str) else listed
    if not isinstance(listed, list) or not all(isinstance(reference, str) for reference in listed):
        raise DataError(f'{source}: "image" is neither a path nor a list of paths')
    return listed


def _find_image(reference: str, source: str, folders: list[Path], cache: ImageCache | None) -> Path:
    if is_url(reference):
        return (cache or ImageCache()).fetch(reference, source)
    if not reference:
        raise DataError(f"{source}: the path of an image is empty; write it, or remove the image")
    for folder in folders:
        path = folder / reference  # an absolute path stays what it is
        if os.path.isfile(path):  # unlike Path's own, no error for what can't be a path
            return path
    shown = reference if len(reference) <= 200 else reference[:200] + "..."
    if Path(reference).is_absolute():
        raise ImageMissing(f'{source}: there is no image "{shown}"; correct the path or add the file')
    places = " or ".join(dict.fromkeys(str(folder.absolute()) for folder in folders))
    raise ImageMissing(f'{source}: there is no image "{shown}" in {places}; correct the path, or set image_folder')


def _checked_text(value, where: str, source: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{source}: {where} is {_kind(value)}; write it as a text in quotes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{source}: {where} holds {value[error.start]!r}, half of a surrogate pair, at character {error.start}; "
            "remove it, or write the whole character"
        ) from error
    return value


def _kind(value) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    kinds = {bool: "a yes or no", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")

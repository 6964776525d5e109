"""Messages and references to images -> a record of each dialect: the way back from `dialects.py`.

Every record is read again by the reader of its dialect before it is handed out, so that none is written which would be
read differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from paddle_xc2.data.conversation import DataError, Message, place_leading_image
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.picture_marks import without_marks
from paddle_xc2.data.records.dialects import read_chatml, read_messages, read_qwen_vl, read_record
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER, LLAVA_IMAGE
from paddle_xc2.messages import shown

PLACED = "image without a place, put before the first question"
SPACE = "image with a label or white space beside it, which the format writes and reads in its own way"
UNLABELLED = "record of several images without the labels that its format's documents write before them"

_LABELS = {"xcomposer2d5": "Image1", "qwen-vl": "Picture 1"}


def write_record(
    messages: tuple[Message, ...],
    references: list[str],
    dialect: str,
    record_id: str,
    source: str,
    notes: Notes,
    as_written: tuple[tuple[Message, ...], Callable] | None = None,
) -> dict:
    """A record of a dialect.

    Args:
        messages: those of a Conversation with so many images, which has checked that they fit together.
        references: the images as the record will name them, in reading order.
        dialect: one of DIALECTS.
        source: the name of the record that it is made from, for messages.
        notes: where it is counted what the record says in another way.
        as_written: the messages with what belongs to the marks of their images, and the function that read them, as of
            `read_as_written`: where that is the dialect's own, the marks stay as they are.
    Raises: DataError if the dialect can't say it.
    """
    leads = len(references) == 1 and not any(message.num_images for message in messages)
    placed = place_leading_image(messages, _LEADING[dialect]) if leads and dialect in _LEADING else messages
    if as_written is not None and as_written[1] is _KEEPING_MARKS.get(dialect):
        placed = as_written[0]
    if messages[0].role == "system" and dialect in _WITHOUT_SYSTEM:
        raise DataError(f"{source}: {dialect} has no system turn; remove it, or choose another format", "roles")
    record = {"id": record_id} | DIALECTS[dialect](placed, references)
    _check_reads_the_same(record, messages, references, dialect, source, notes)
    if len(references) > 1 and not any(_LABELS.get(dialect, "") in message.text for message in messages):
        notes.add(UNLABELLED, source)
    return record


def _write_xcomposer2(messages: tuple[Message, ...], references: list[str]) -> dict:
    turns = [{"from": message.role, "value": message.text} for message in messages]
    return ({"image": references} if references else {}) | {"conversations": turns}


def _write_xcomposer2d5(messages: tuple[Message, ...], references: list[str]) -> dict:
    names = {"system": "system", "user": "human", "assistant": "bot"}
    return {"conversations": [{"from": names[message.role], "value": message.text} for message in messages]} | (
        {"image": _one_or_all(references)} if references else {}
    )


def _write_chatml(messages: tuple[Message, ...], references: list[str]) -> dict:
    texts, used = _tagged(messages, references)
    record = {"conversations": [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]}
    return record if used else record | ({"image": _one_or_all(references)} if references else {})


def _write_llava(messages: tuple[Message, ...], references: list[str]) -> dict:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": names[message.role], "value": _with_mark(message, lambda: LLAVA_IMAGE)} for message in messages]
    return ({"image": _one_or_all(references)} if references else {}) | {"conversations": turns}


def _write_qwen_vl(messages: tuple[Message, ...], references: list[str]) -> dict:
    texts, _ = _tagged(messages, references)
    return {
        "conversations": [{"from": message.role, "value": text} for message, text in zip(messages, texts, strict=True)]
    }


def _write_messages(messages: tuple[Message, ...], references: list[str]) -> dict:
    turns = [{"role": message.role, "content": _with_mark(message, lambda: LLAVA_IMAGE)} for message in messages]
    return {"messages": turns} | ({"images": references} if references else {})


def _one_or_all(references: list[str]) -> str | list[str]:
    return references[0] if len(references) == 1 else references


def _tagged(messages: tuple[Message, ...], references: list[str]) -> tuple[list[str], bool]:
    """The texts with `<img>path</img>` for each `<ImageHere>`, and whether there was any."""
    rest = iter(references)
    texts = [_with_mark(message, lambda: f"<img>{next(rest)}</img>") for message in messages]
    return texts, any(message.num_images for message in messages)


def _with_mark(message: Message, mark: Callable[[], str]) -> str:
    """The text with what `mark` gives for each of its images."""
    return re.sub(IMAGE_PLACEHOLDER, lambda _: mark(), message.text) if message.num_images else message.text


def _check_reads_the_same(
    record: dict, messages: tuple[Message, ...], references: list[str], dialect: str, source: str, notes: Notes
) -> None:
    try:
        read, images = read_record(record, source)
    except DataError as error:
        raise DataError(f"{source}: {dialect} can't say this: {str(error).removeprefix(f'{source}: ')}") from error
    if (read, images) == (messages, references):
        return
    if images == references and as_all_formats_say_it(read) == as_all_formats_say_it(messages):
        leads = len(images) == 1 and not any(message.num_images for message in messages)
        notes.add(PLACED if leads else SPACE, source)
        return
    pairs = zip(as_all_formats_say_it(messages), as_all_formats_say_it(read), strict=False)
    different = next((index for index, (was, now) in enumerate(pairs) if was != now), len(read))
    found = f'"{shown(read[different].text)}"' if different < len(read) else "nothing"
    raise DataError(
        f"{source}: {dialect} can't say this: message {different}, or its images, would be read differently ({found}); "
        "reword it, or choose another format"
    )


def as_all_formats_say_it(messages: tuple[Message, ...]) -> list[Message]:
    """Messages without what formats write differently: marks of an image that opens a question, white space beside
    images.
    """
    num_images = sum(message.num_images for message in messages)
    return [
        replace(message, text=IMAGE_PLACEHOLDER.join(map(str.strip, message.text.split(IMAGE_PLACEHOLDER))))
        for message in without_marks(messages, num_images)
    ]


DIALECTS = {
    "xcomposer2": _write_xcomposer2,
    "xcomposer2d5": _write_xcomposer2d5,
    "chatml": _write_chatml,
    "llava": _write_llava,
    "qwen-vl": _write_qwen_vl,
    "messages": _write_messages,
}
# What stands for a single image without a place, where the format's own programs would not see it otherwise.
# XComposer-2.5's and PaddleMIX's take it first.
_LEADING = {
    "xcomposer2": IMAGE_PLACEHOLDER,
    "llava": IMAGE_PLACEHOLDER + "\n",
    "qwen-vl": f"Picture 1: {IMAGE_PLACEHOLDER}\n",
    "messages": IMAGE_PLACEHOLDER,
}
# Readers that leave the marks of images where they stand; LLaVA's moves one to the front.
_KEEPING_MARKS = {"chatml": read_chatml, "qwen-vl": read_qwen_vl, "messages": read_messages}
_WITHOUT_SYSTEM = ("chatml", "qwen-vl")

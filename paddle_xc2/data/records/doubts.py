"""Texts that look as if something else were meant. They are taken as they are, and counted."""

from __future__ import annotations

import re

from paddle_xc2.data.conversation import Message
from paddle_xc2.data.notes import Notes
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER, LLAVA_IMAGE, LLAVA_VIDEO

COLON_LABEL = 'label "Image1: <ImageHere>", which XComposer-2.5\'s documents write without a colon'
OTHER_NUMBER = 'label such as "Image 5 <ImageHere>" that does not count the images from 1 on, taken as text'
OTHER_BOX = (
    "box that is not <box>(x1,y1),(x2,y2)</box> in whole numbers below 1000 with x1 <= x2 and y1 <= y2, taken as text"
)
MARK_IN_ANSWER = "mark of an image in an answer, which shows none, taken as text"

_BOX_SIDE = 1000  # Qwen-VL's coordinates are thousandths of the image's sides
_LABEL = re.compile(r"\b(Image|Picture)[ ]?([0-9]{1,6})[ ]?([:：]?)[ ]?$")  # of the image that follows
_LABEL_LENGTH = 20  # characters of the longest, and one before it
_BOX = re.compile(r"<box>" + r"\s*,\s*".join([r"\s*\(\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*\)"] * 2) + r"\s*</box>")
_MARK = re.compile(rf"{IMAGE_PLACEHOLDER}|{LLAVA_IMAGE}|{LLAVA_VIDEO}|<img>[^<\n]*</img>")


def note_doubts(messages: tuple[Message, ...], has_images: bool, source: str, notes: Notes) -> None:
    """Counts what may be a slip in the texts of a record: labels of images, boxes, marks of images in answers."""
    _note_labels(messages, source, notes)
    for message in messages:
        if "box>" in message.text and _is_odd_box(message.text, has_images):
            notes.add(OTHER_BOX, source)
        if has_images and message.role == "assistant" and _MARK.search(message.text):
            notes.add(MARK_IN_ANSWER, source)


def _note_labels(messages: tuple[Message, ...], source: str, notes: Notes) -> None:
    """`Image1 <ImageHere>; Image2 <ImageHere>` and `Picture 1: ` count images from 1, over all messages."""
    number = 0
    for message in messages:
        for text in message.text.split(IMAGE_PLACEHOLDER)[:-1] if message.num_images else ():
            number += 1
            match = _LABEL.search(text[-_LABEL_LENGTH:])
            if match and int(match.group(2)) != number:
                notes.add(OTHER_NUMBER, source)
            if match and match.group(1) == "Image" and match.group(3):
                notes.add(COLON_LABEL, source)


def _is_odd_box(text: str, has_images: bool) -> bool:
    """Whether it holds a box otherwise than Qwen-VL writes it; without an image, what can't be anything else."""
    for match in _BOX.finditer(text):
        left, top, right, bottom = map(int, match.groups())
        if not (left <= right < _BOX_SIDE and top <= bottom < _BOX_SIDE):
            return True
    return re.search(r"</?box>" if has_images else r"<box>\s*\(", _BOX.sub("", text)) is not None

"""Where a picture stands in a text: the marks that data formats write, and what a family puts between it and the text.

`<image>\\nWhat is it?` is LLaVA's way to say "a picture, and a question". The readers of such formats take mark and
line break away together; a family then shows the picture as it is used to, the same in training, evaluation and chat.
Texts that hold `<ImageHere>`, XComposer's own mark, stay as they are written.
"""

from __future__ import annotations

import re

from paddle_xc2.data.conversation import Conversation, Message
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER
from paddle_xc2.families.table import Family

_OPENING_WITH_BREAKS = re.compile(rf"\s*(?:{IMAGE_PLACEHOLDER}(?:\r?\n)?)+")  # pictures that open a message
_OPENING = re.compile(rf"\s*(?:{IMAGE_PLACEHOLDER}\s*)+")
# The only picture of a record, before its first question; Qwen-VL numbers it too.
_ONLY = re.compile(rf"\s*(?:Picture ?1: ?)?{IMAGE_PLACEHOLDER}(?:\r?\n)?")


def without_marks(messages: tuple[Message, ...], num_images: int) -> tuple[Message, ...]:
    """Messages of another format, without the line breaks that belong to its marks.

    A record's only picture, if it opens the first question, loses its mark altogether: where it stands is then the
    family's to say.
    """
    first = _first_question(messages)
    one = num_images == 1 == sum(message.num_images for message in messages)
    freed = []
    for index, message in enumerate(messages):
        text = message.text
        if message.role == "user":
            if one and index == first and (found := _ONLY.match(text)):
                text = text[found.end() :]
            elif found := _OPENING_WITH_BREAKS.match(text):
                text = IMAGE_PLACEHOLDER * found.group().count(IMAGE_PLACEHOLDER) + text[found.end() :]
        freed.append(Message(message.role, text))
    return tuple(freed)


def set_apart(text: str, between: str) -> str:
    """A question in which each picture that opens it is followed by `between`, and by no other white space.

    Args:
        between: `Family.after_image`; "" leaves the text as it is.
    """
    found = _OPENING.match(text) if between else None
    if not found:
        return text
    return (IMAGE_PLACEHOLDER + between) * found.group().count(IMAGE_PLACEHOLDER) + text[found.end() :]


def unlike_chat(conversation: Conversation, family: Family) -> str | None:
    """How a sample's picture stands otherwise than chat puts one that is given without a mark, and what to do.

    Returns: a sentence; None if it stands there, or if there are several pictures, which need marks in chat too.
    """
    if len(conversation.images) != 1 or conversation.image_leads:
        return None
    ask = f'ask with {IMAGE_PLACEHOLDER} as it stands here ("chat --show_prompt" shows the prompt)'
    text = conversation.messages[_first_question(conversation.messages)].text.strip()
    if family.numbers_images:
        leading = family.leading_image.format(1)
        return (
            None if text.startswith(leading) else f"chat writes {leading!r} before the question; write it so, or {ask}"
        )
    if not text.startswith(IMAGE_PLACEHOLDER):
        return f"the picture stands behind other text, where chat puts it before the question; {ask}"
    if family.image_leads_prompt:
        return f"the picture stands in the question, where {family.name}'s chat puts it before the whole prompt; {ask}"
    rest = text.removeprefix(IMAGE_PLACEHOLDER)
    space = rest[: len(rest) - len(rest.lstrip())]
    if space and not family.after_image:
        return f"{space!r} stands between picture and question, where chat puts nothing; remove it, or {ask}"
    return None


def _first_question(messages: tuple[Message, ...]) -> int:
    return next((index for index, message in enumerate(messages) if message.role == "user"), 0)

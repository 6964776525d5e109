"""Conversation -> text, each part marked trained or not. Training and chat write their text here and nowhere else."""

from __future__ import annotations

from typing import Literal, NamedTuple

from paddle_xc2.data.conversation import Message
from paddle_xc2.families.table import Template


class Span(NamedTuple):
    """A piece of the rendered text.

    Attributes:
        trained: whether its tokens are learned.
        speaker: whose message it is, whole; "" is the template. What a message holds of <s> and </s> is text, and so is
            an <ImageHere> in an answer.
    """

    text: str
    trained: bool
    speaker: Literal["", "system", "user", "assistant"] = ""


def render_training(messages: tuple[Message, ...], template: Template) -> list[Span]:
    """The text of a training sample, as upstream's `conv2text` writes it.

    Trained are the answers with their closing token, and what closes the whole sample: exactly what upstream's
    `mask_human_targets` leaves on well-formed data. There the mask follows the parity of closing tokens, so that a
    system turn inverts it; here it follows the roles.
    """
    spans = []
    for index, message in enumerate(messages):
        text, last = message.text.strip(), index == len(messages) - 1
        answers = message.role == "assistant"
        spans.append(Span(f"{template.turn_start}{message.role}\n", False))
        spans.append(Span(text, answers, message.role))
        spans.append(Span(template.turn_end, answers))
        end = template.document_end if answers and last else ""
        spans.append(Span("\n" + end, bool(end)))
    return spans


def render_prompt(messages: tuple[Message, ...], template: Template, strip: bool) -> list[Span]:
    """The text of a chat up to where the answer begins, as upstream's `build_inputs` writes it.

    Args:
        strip: take white space off both ends of every message, as training does; upstream's chat doesn't.
    """
    spans = []
    for message in messages:
        spans.append(Span(f"{template.turn_start}{message.role}\n", False))
        spans.append(Span(message.text.strip() if strip else message.text, False, message.role))
        spans.append(Span(f"{template.turn_end}\n", False))
    return [*spans, Span(f"{template.turn_start}assistant\n", False)]

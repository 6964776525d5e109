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
    system turn inverts it; here it follows the roles. With `trains_marks` the marks around every other turn are trained
    too, its role and text are not: that is what Qwen-VL's `preprocess` leaves.
    """
    spans = []
    for index, message in enumerate(messages):
        text, last = message.text.strip() if template.trains_stripped else message.text, index == len(messages) - 1
        answers = message.role == "assistant"
        spans.append(Span(template.turn_start, template.trains_marks))
        spans.append(Span(f"{message.role}\n", False))
        spans.append(Span(text, answers, message.role))
        spans.append(Span(template.turn_end, answers or template.trains_marks))
        end = template.document_end if answers and last else ""
        spans.append(Span("\n" + end, bool(end) or template.trains_marks))
    return spans


def render_prompt(messages: tuple[Message, ...], template: Template, as_trained: bool) -> list[Span]:
    """The text of a chat up to where the answer begins, as upstream's `build_inputs` writes it.

    Args:
        as_trained: take white space off both ends of every message, where training does; upstream's chat doesn't.
    """
    return [*render_messages(messages, template, as_trained), *_turn_start("assistant", template)]


def render_messages(messages: tuple[Message, ...], template: Template, as_trained: bool) -> list[Span]:
    """The same without what begins the answer."""
    spans = []
    for message in messages:
        if not message.is_given:
            spans.append(Span("\n", False))
            continue
        text = message.text.strip() if as_trained and template.trains_stripped else message.text
        spans += _turn_start(message.role, template)
        spans.append(Span(text, False, message.role))
        spans += [Span(template.turn_end, False), Span("\n", False)]
    return spans


def _turn_start(role: str, template: Template) -> list[Span]:
    return [Span(template.turn_start, False), Span(f"{role}\n", False)]

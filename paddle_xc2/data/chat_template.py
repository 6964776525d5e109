"""Conversation -> text, each part marked trained or not. Training and chat write their text here and nowhere else."""

from __future__ import annotations

from typing import NamedTuple

from paddle_xc2.data.conversation import Message
from paddle_xc2.families import Template


class Span(NamedTuple):
    """A piece of the rendered text. `trained`: whether its tokens are learned."""

    text: str
    trained: bool


def render_training(messages: tuple[Message, ...], template: Template) -> list[Span]:
    """The text of a training sample, as upstream's `conv2text` writes it.

    Trained are the answers with their closing token, and what closes the whole sample: exactly what upstream's
    `mask_human_targets` leaves on well-formed data. There the mask follows the parity of closing tokens, so that a
    system turn inverts it; here it follows the roles.
    """
    spans = []
    for index, message in enumerate(messages):
        text, last = message.text.strip(), index == len(messages) - 1
        if message.role == "assistant":
            spans.append(Span(f"{template.turn_start}assistant\n", False))
            spans.append(Span(text + template.turn_end, True))
            spans.append(Span("\n" + template.document_end if last else "\n", last and bool(template.document_end)))
        else:
            spans.append(Span(f"{template.turn_start}{message.role}\n{text}{template.turn_end}\n", False))
    return spans


def render_prompt(messages: tuple[Message, ...], template: Template, strip: bool) -> list[Span]:
    """The text of a chat up to where the answer begins, as upstream's `build_inputs` writes it.

    Args:
        strip: take white space off both ends of every message, as training does; upstream's chat doesn't.
    """
    turns = [
        f"{template.turn_start}{message.role}\n{message.text.strip() if strip else message.text}{template.turn_end}\n"
        for message in messages
    ]
    return [Span("".join(turns) + f"{template.turn_start}assistant\n", False)]

"""Conversation -> Example: text becomes ids, every image becomes its slots."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from paddle_xc2.data.chat_template import Span, render_messages, render_prompt, render_training
from paddle_xc2.data.conversation import Conversation, DataError, Message, place_leading_image, reserved_message
from paddle_xc2.data.picture_marks import set_apart
from paddle_xc2.families.special_tokens import BOS, IGNORE_INDEX, IMAGE_PLACEHOLDER, IMAGE_SLOT_ID
from paddle_xc2.families.table import Family, Template

# An image, what a format's documents write before it, and what divides it from the text.
_IMAGE_WITH_LABEL = re.compile(rf"(?:\b(?:Image|Picture) ?[0-9]{{1,6}} ?[:：]? ?)?{IMAGE_PLACEHOLDER}(?:; ?|[ \n])?")


class TooLong(DataError):
    """A sample longer than max_length. `num_tokens`: its length, image slots included."""

    rule = "too long"

    def __init__(self, message: str, num_tokens: int):
        super().__init__(message)
        self.num_tokens = num_tokens


@dataclass
class Example:
    """One encoded sample.

    Attributes:
        input_ids: int64 [seq], IMAGE_SLOT_ID at image slots.
        labels: int64 [seq], IGNORE_INDEX where nothing is trained.
        image_mask: bool [seq], true at image slots.
        pixel_values: one float32 [3, height, width] per image, in reading order.
        source: where it came from, for messages.
        num_dropped_turns: question-answer pairs left out to fit max_length; their images stay.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    image_mask: np.ndarray
    pixel_values: list[np.ndarray] = field(default_factory=list)
    source: str = "example"
    num_dropped_turns: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_trained_tokens(self) -> int:
        """Tokens that the loss is over; the first can't be predicted from anything."""
        return int((self.labels[1:] != IGNORE_INDEX).sum())


def encode_training(conversation: Conversation, tokenizer, family: Family, image_tokens: list[int]) -> Example:
    """Ids, labels and slots of a training sample. BOS stands once, before the first text (upstream's training layout).

    Args:
        image_tokens: number of slots of each image, in reading order.
    """
    messages, leading = _placed(conversation, family)
    texts = split_at_images(leading + render_training(messages, family.template))
    return _join(texts, tokenizer, image_tokens, conversation.source, family.template, in_training=True)


def encode_prompt(
    conversation: Conversation, tokenizer, family: Family, image_tokens: list[int], as_trained: bool
) -> Example:
    """Ids and slots of a chat prompt.

    Args:
        as_trained: the layout of training samples. Else upstream's chat layout, which puts BOS elsewhere
            (goldens/NOTES.md, quirks 1 to 3) and leaves white space around messages.
    """
    messages, leading = _placed(conversation, family)
    spans = leading + render_prompt(messages, family.template, as_trained)
    if as_trained or not family.template.has_bos:
        return _join(split_at_images(spans), tokenizer, image_tokens, conversation.source, family.template)
    if not family.chat_bos_at_every_text or not image_tokens:
        # One at the start; the older families add a second to a prompt without images.
        spans = [Span(BOS, False), *spans]
    bos = "every text" if family.chat_bos_at_every_text else "none"
    return _join(split_at_images(spans), tokenizer, image_tokens, conversation.source, family.template, bos)


def num_history_tokens(conversation: Conversation, tokenizer, family: Family, image_tokens: list[int]) -> int:
    """Length of a chat up to the end of its last turn, without the line break behind that.

    Arguments as of `encode_prompt`.
    """
    messages, leading = _placed(conversation, family)
    *spans, _ = leading + render_messages(messages, family.template, as_trained=False)
    return len(_join(split_at_images(spans), tokenizer, image_tokens, conversation.source, family.template))


def _placed(conversation: Conversation, family: Family) -> tuple[tuple[Message, ...], list[Span]]:
    """Messages, and what goes before them: a single image without a placeholder gets its place, every image that opens
    a question what the family puts between them, and a conversation without a system turn the one that it always has.

    Raises: DataError if a message could forge a turn of the family's template.
    """
    template = family.template
    reserved_marks = () if template.marks_are_text else (template.turn_start, template.turn_end)
    for index, message in enumerate(conversation.messages):
        for reserved in reserved_marks:
            if reserved in message.text:
                raise DataError(reserved_message(conversation.source, index, reserved), "reserved text")
    messages, leading = conversation.messages, []
    if template.always_system and messages[0].role != "system":
        messages = (Message("system", family.meta_instruction), *messages)
    if conversation.image_leads and family.image_leads_prompt:
        leading = [Span(IMAGE_PLACEHOLDER, False)]
    elif conversation.image_leads:
        messages = place_leading_image(messages, leading_images(family, 1))
    return tuple(
        replace(message, text=set_apart(message.text, family.after_image)) if message.role == "user" else message
        for message in messages
    ), leading


def leading_images(family: Family, number: int) -> str:
    """What stands before a question for so many images that are given without a place."""
    return "".join(family.leading_image.format(index) for index in range(1, number + 1))


def split_at_images(spans: list[Span]) -> list[list[Span]]:
    """Groups spans into the texts before, between and after the images: one more text than images."""
    texts: list[list[Span]] = [[]]
    for span in spans:
        parts = [span.text] if span.speaker == "assistant" else span.text.split(IMAGE_PLACEHOLDER)
        first, *others = (span._replace(text=part) for part in parts)
        texts[-1].append(first)
        texts.extend([other] for other in others)
    return texts


def _join(
    texts: list[list[Span]],
    tokenizer,
    image_tokens: list[int],
    source: str,
    template: Template,
    bos: str = "first text",
    in_training: bool = False,
) -> Example:
    """Args:
    bos: where the tokenizer's BOS is added, if the template has one: "first text" that is not empty, "every text",
        "none".
    in_training: tokenizes what is trained and what is not apart, where the template wants it, else every text whole.
    """
    ids, trained, slots = [], [], []

    def put(new_ids, new_trained, is_slot: bool) -> None:
        ids.append(new_ids)
        trained.append(new_trained)
        slots.append(np.full(len(new_ids), is_slot))

    need_bos = template.has_bos and bos != "none"
    marks = [[tokenizer.convert_tokens_to_ids(mark)] for mark in template.image_marks]
    for index, spans in enumerate(texts):
        text_ids, text_trained = _encode_text(spans, tokenizer, template, in_training)
        if len(text_ids):
            if need_bos:
                put([tokenizer.bos_token_id], [False], False)
            need_bos = need_bos and bos == "every text"
            put(text_ids, text_trained, False)
        if index < len(image_tokens):
            before, after = marks or ([], [])
            put(before, [False] * len(before), False)
            put([IMAGE_SLOT_ID] * image_tokens[index], [False] * image_tokens[index], True)
            put(after, [False] * len(after), False)
    ids = np.concatenate(ids).astype(np.int64)
    labels = np.where(np.concatenate(trained).astype(bool), ids, IGNORE_INDEX)
    return Example(ids, labels, np.concatenate(slots).astype(bool), source=source)


def _encode_text(spans: list[Span], tokenizer, template: Template, in_training: bool) -> tuple[np.ndarray, np.ndarray]:
    """(ids int64, trained bool) of a text between two images."""
    if template.pieces_alone:
        pieces = [_encode_alone(span, tokenizer) for span in spans]
    else:
        apart = in_training and template.answers_alone
        groups = [list(group) for _, group in groupby(spans, lambda span: apart and span.trained)]
        pieces = [_encode_spans(group, tokenizer) for group in groups]
    return np.concatenate([piece[0] for piece in pieces]), np.concatenate([piece[1] for piece in pieces])


def _encode_alone(span: Span, tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """(ids int64, trained bool) of a span that is tokenized by itself."""
    ids = tokenizer.encode_said(span.text) if span.speaker else tokenizer.encode(span.text)
    return np.asarray(ids, np.int64), np.full(len(ids), span.trained)


def _encode_spans(spans: list[Span], tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """(ids int64, trained bool) of spans tokenized together, then told apart by character offsets."""
    text = "".join(span.text for span in spans)
    if not text:
        return np.empty(0, np.int64), np.empty(0, bool)
    borders = np.cumsum([0] + [len(span.text) for span in spans]).tolist()
    said = [range(*borders[index : index + 2]) for index, span in enumerate(spans) if span.speaker]
    ids, ends = tokenizer.encode_with_offsets(text, said)
    ends = np.asarray(ends)
    starts = np.concatenate([[0], ends[:-1]])
    # A token belongs to the last character it completes. Bytes of a character that is not complete yet belong to it.
    characters = np.minimum(np.maximum(ends - 1, starts), len(text) - 1)
    trained = np.repeat([span.trained for span in spans], [len(span.text) for span in spans])
    return np.asarray(ids, np.int64), trained[characters]


def drop_oldest_turn(conversation: Conversation) -> Conversation | None:
    """Without its oldest question and answer; None if only one pair is left. A system turn stays.

    So do the images of the question, since the answers that are left may be about them: they go before the next one.
    """
    messages = conversation.messages
    head = 1 if messages[0].role == "system" else 0
    if len(messages) - head <= 2:
        return None
    gone, _, question, *others = messages[head:]
    if gone.num_images:
        question = Message("user", "".join(_IMAGE_WITH_LABEL.findall(gone.text)) + question.text)
    return Conversation((*messages[:head], question, *others), conversation.images, conversation.source)

"""What a program asks of chat, in any of the usual forms -> one form: a system turn, turns, a question, pictures."""

from __future__ import annotations

from typing import NamedTuple

from paddle_xc2.data.conversation import DataError, Message
from paddle_xc2.data.images.given_images import given_images
from paddle_xc2.data.records.dialects import read_parts
from paddle_xc2.data.records.turns import SPEAKERS
from paddle_xc2.families.special_tokens import IM_END, IM_START, IMAGE_PLACEHOLDER, TURN_TOKENS
from paddle_xc2.families.table import XCOMPOSER2_TEMPLATE, Template
from paddle_xc2.messages import shown

EXPECTED = 'history is a list of (question, answer), or of {"role": "user" or "assistant", "content": ...} in turn'


class ChatRequest(NamedTuple):
    """Attributes:
    system: system turn; None is the checkpoint's default, "" is none.
    turns: (question, answer) of each earlier turn; None is an answer that was left out.
    query: the question.
    images: one for each `<ImageHere>`, in reading order over turns and query, as `given_image` makes them. A single
        image needs no `<ImageHere>`.
    """

    system: str | None
    turns: tuple[tuple[str, str | None], ...]
    query: str
    images: tuple

    def messages(self, default_system: str, always_system: bool = False) -> tuple[Message, ...]:
        """The conversation up to the answer that is asked for.

        Args:
            always_system: whether a system turn of "" is one too.
        """
        system = default_system if self.system is None else self.system
        messages = [Message("system", system)] if system or always_system else []
        for question, answer in self.turns:
            messages += [Message("user", question), Message("assistant", answer or "", answer is not None)]
        return (*messages, Message("user", self.query))

    @property
    def num_characters(self) -> int:
        """Of all its texts, without the places of images."""
        texts = [self.system, self.query, *(text for turn in self.turns for text in turn)]
        return sum(len(text.replace(IMAGE_PLACEHOLDER, "")) for text in texts if text is not None)

    def without_oldest_turn(self) -> ChatRequest:
        """Without its first turn, and the images that have their place in it."""
        (question, _), *turns = self.turns
        return self._replace(turns=tuple(turns), images=self.images[question.count(IMAGE_PLACEHOLDER) :])


def read_request(
    query, images=None, history=(), meta_instruction: str | None = None, template: Template = XCOMPOSER2_TEMPLATE
) -> ChatRequest:
    """The arguments of `chat` -> ChatRequest.

    Args:
        query: the question, a text.
        images: a picture or a list of them, in any form that `given_image` knows: those of history and query, in
            reading order, but for those that the parts of a message hold already.
        history: what `chat` returned; (question, answer) pairs; OpenAI's messages, whose content is a text or a list of
            parts {"type": "text" or "image_url" ...}, a system turn first if need be; or None.
        meta_instruction: system turn; None is that of the history, or the default, "" is none.
        template: that of the family. Where marks of turns are text to it, answers keep them, and may be None.
    Raises: DataError saying what is expected.
    """
    query = _text(query, "the question")
    turns = () if history is None else history
    if not isinstance(turns, (list, tuple)):
        raise DataError(f"history is {_described(turns)}; {EXPECTED}")
    named: list = []
    if turns and isinstance(turns[0], dict):
        system, pairs = _read_messages(turns, named)
        if system is not None and meta_instruction is not None:
            raise DataError("history begins with a system turn and there is a meta_instruction; keep one of them")
    else:
        system, pairs = None, [_read_pair(turn, index, template.marks_are_text) for index, turn in enumerate(turns)]
    given = _in_order(named, given_images(images))
    if not template.marks_are_text:
        # What the model itself wrote always goes back in, also what would begin or end a turn.
        pairs = [(question, _without(answer, (*TURN_TOKENS, IM_START, IM_END))) for question, answer in pairs]
    return ChatRequest(system if meta_instruction is None else meta_instruction, tuple(pairs), query, tuple(given))


def grown_history(history, query: str, answer: str) -> list:
    """The history with one turn more, in the form that it has."""
    turns = list(history or ())
    if turns and isinstance(turns[0], dict):
        return [*turns, {"role": "user", "content": query}, {"role": "assistant", "content": answer}]
    return [*turns, (query, answer)]


def _read_pair(turn, index: int, may_lack_answer: bool) -> tuple[str, str | None]:
    if not isinstance(turn, (list, tuple)) or len(turn) != 2:
        raise DataError(f"history[{index}] is {_described(turn)}; {EXPECTED}")
    question, answer = turn
    question = _text(question, f"the question of history[{index}]")
    if answer is None and may_lack_answer:
        return question, None
    return question, _text(answer, f"the answer of history[{index}]")


def _read_messages(turns: list, named: list) -> tuple[str | None, list[tuple[str, str]]]:
    """(system turn or None, pairs). Puts into `named` what stands for each picture: itself, or None for the next."""
    texts: list[tuple[str, str]] = []
    for index, turn in enumerate(turns):
        place = f"history[{index}]"
        role = turn.get("role") if isinstance(turn, dict) else None
        role = SPEAKERS.get(role.lower()) if isinstance(role, str) else None
        if role is None or "content" not in turn:
            raise DataError(f"{place} is {_described(turn)}; {EXPECTED}")
        content = turn["content"]
        if isinstance(content, (list, tuple)):
            text, images = read_parts(list(content), place, "history", image_types=object)
            if images and role != "user":
                raise DataError(f"{place} is from the {role} and shows an image; images belong into questions")
            named += images
        else:
            text = _text(content, f'"content" of {place}')
            named += [None] * (text.count(IMAGE_PLACEHOLDER) if role == "user" else 0)
        texts.append((role, text))
    system = texts.pop(0)[1] if texts[0][0] == "system" else None
    wanted = ["user", "assistant"] * (len(texts) // 2 + 1)
    for index, ((role, _), want) in enumerate(zip(texts, wanted, strict=False), start=system is not None):
        if role != want:
            raise DataError(f"history[{index}] is from the {role}, where the {want} should speak; {EXPECTED}")
    if len(texts) % 2:
        raise DataError("history ends with a question; give that as the question itself, or its answer after it")
    return system, [(question, answer) for (_, question), (_, answer) in zip(texts[::2], texts[1::2], strict=True)]


def _in_order(named: list, images: list) -> list:
    """Pictures in reading order: those named in parts at their places, the others where a mark stands for one."""
    if all(one is None for one in named):
        return images
    rest = iter(images)
    ordered = [next(rest, None) if one is None else given_images([one])[0] for one in named]
    if any(one is None for one in ordered):
        raise DataError(f"history has places for {len(named)} images, of which not all are named or given as image")
    return [*ordered, *rest]


def _without(text: str, marks: tuple[str, ...]) -> str:
    for mark in marks:
        text = text.replace(mark, "")
    return text


def _text(value, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} is {_described(value)}; expected a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} holds half of a surrogate pair at character {error.start}; remove it") from None
    return value


def _described(value) -> str:
    return f"{shown(repr(value))} ({type(value).__name__})"

"""Message and Conversation: the one sample type that every JSON dialect becomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER, TURN_TOKENS

ROLES = ("system", "user", "assistant")
EMPTY_ANSWER = "empty answer"  # a rule


class DataError(ValueError):
    """A record that can't be used. The message says what is wrong, where, and what to do.

    Attributes:
        rule: what the record breaks, in a word or two: check-data counts by it.
    """

    rule = "schema"

    def __init__(self, message: str, rule: str | None = None):
        super().__init__(message)
        if rule is not None:
            self.rule = rule


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: who speaks.
        text: what is said, with one `<ImageHere>` where each image belongs. In an answer, which shows none, it is text.
        is_given: False for an answer that a chat's history leaves out.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    is_given: bool = True

    @property
    def num_images(self) -> int:
        """Images that have their place here."""
        return 0 if self.role == "assistant" else self.text.count(IMAGE_PLACEHOLDER)


@dataclass(frozen=True)
class Conversation:
    """A sample, or the prompt of a chat.

    Attributes:
        messages: the turns in order.
        images: one path (or PIL image, in chat) per `<ImageHere>` outside the answers, in reading order. A single image
            needs no `<ImageHere>`.
        source: where it came from, for messages to the user: "train.json[17]".
        is_prompt: whether it is a chat, where an earlier answer may be empty: a model may have said nothing.
    """

    messages: tuple[Message, ...]
    images: tuple[Path | object, ...] = ()
    source: str = "conversation"
    is_prompt: bool = False

    def __post_init__(self):
        check(self)

    @property
    def image_leads(self) -> bool:
        """Whether there is one image and no `<ImageHere>`: it goes first, where exactly is the family's matter."""
        return len(self.images) == 1 and not any(message.num_images for message in self.messages)


def check(conversation: Conversation) -> None:
    """Raises: DataError if the conversation breaks a rule that training and chat both need."""
    for error in broken_rules(conversation.messages, len(conversation.images), conversation.source):
        if not (conversation.is_prompt and error.rule == EMPTY_ANSWER):
            raise error


def broken_rules(messages: tuple[Message, ...], num_images: int, source: str) -> Iterator[DataError]:
    """Yields every rule of training and chat that messages with so many images break; `check` raises the first."""
    if not messages:
        yield DataError(f"{source}: there is no message; a conversation needs at least one question")
        return
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            yield DataError(
                f'{source}: message {index} has role "{message.role}"; use one of {", ".join(ROLES)}', "roles"
            )
        if message.role == "system" and index > 0:
            yield DataError(f"{source}: message {index} is a system turn; only the first message can be one", "roles")
        if index > 0 and message.role == messages[index - 1].role:
            yield DataError(
                f"{source}: messages {index - 1} and {index} are both from the {message.role}; "
                "question and answer must alternate",
                "roles",
            )
        for reserved in TURN_TOKENS:
            if reserved in message.text:
                yield DataError(reserved_message(source, index, reserved), "reserved text")
    first = messages[1] if messages[0].role == "system" and len(messages) > 1 else messages[0]
    if first.role != "user":
        yield DataError(
            f"{source}: the conversation starts with the {first.role}; the first turn must be the user's", "roles"
        )
    num_placeholders = sum(message.num_images for message in messages)
    in_answers = sum(message.text.count(IMAGE_PLACEHOLDER) for message in messages) - num_placeholders
    if num_placeholders != num_images and not (num_images == 1 and num_placeholders == 0):
        yield DataError(
            f"{source}: the messages hold {num_placeholders} {IMAGE_PLACEHOLDER} but {num_images} "
            f"image{'s are' if num_images != 1 else ' is'} given; write one {IMAGE_PLACEHOLDER} per image"
            + (f"; the {in_answers} in answers are text: images belong into questions" if in_answers else ""),
            "placeholders",
        )
    for index, message in enumerate(messages):
        if message.role == "assistant" and not message.text.strip():
            yield DataError(
                f"{source}: message {index} (assistant) is empty; write the answer or remove the turn", EMPTY_ANSWER
            )


def reserved_message(source: str, index: int, reserved: str) -> str:
    return (
        f"{source}: message {index} holds {reserved}, which the prompt template uses itself; "
        "remove it or write it differently"
    )


def check_trainable(conversation: Conversation) -> None:
    """Raises: DataError if there is no answer to learn, or the last turn is a question nobody answers."""
    if conversation.messages[-1].role != "assistant":
        raise DataError(
            f"{conversation.source}: the last message is from the {conversation.messages[-1].role}; "
            "a training sample must end with the assistant's answer",
            "roles",
        )


def place_leading_image(messages: tuple[Message, ...], leading: str) -> tuple[Message, ...]:
    """Puts `leading`, which holds an `<ImageHere>`, before the first question."""
    first_user = next(index for index, message in enumerate(messages) if message.role == "user")
    placed = Message("user", leading + messages[first_user].text)
    return messages[:first_user] + (placed,) + messages[first_user + 1 :]

"""Turns of a record: who says what, in which order."""

from __future__ import annotations

from paddle_xc2.data.conversation import DataError, Message
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.record_keys import UNREAD_KEY, check_turn_keys
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER, LLAVA_IMAGE, LLAVA_VIDEO
from paddle_xc2.messages import shown

# Who speaks, as records name them, in lower case.
SPEAKERS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "bot": "assistant",
    "gpt": "assistant",
}

HISTORY = 'record with earlier turns in its "history", put before the others'
LEADING_ANSWER = "message of the assistant before the first question, left out"

# Where a record keeps what is said; one of these.
TURN_KEYS = ("conversations", "conversation", "messages")


def turns_of(record: dict) -> list:
    return next(record[key] for key in TURN_KEYS if key in record)


def with_history(record, source: str, notes: Notes):
    """A record whose "history", earlier turns as [question, answer], stands before its own ones (ms-swift)."""
    history = record.get("history") if isinstance(record, dict) else None
    key = next((key for key in TURN_KEYS if history and isinstance(record.get(key), list)), None)
    if key is None:
        return record
    turns = record[key]
    pairs = isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)
    if not pairs and not (isinstance(history, list) and all(isinstance(turn, dict) for turn in history)):
        notes.add(UNREAD_KEY.format("history"), source)
        return record
    notes.add(HISTORY, source)
    if pairs and all(isinstance(turn, dict) for turn in turns):
        who, what = ("role", "content") if turns and "role" in turns[0] else ("from", "value")
        history = [
            {who: role, what: text} for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    head = 1 if turns and isinstance(turns[0], dict) and _is_system(turns[0]) else 0
    return record | {key: [*turns[:head], *history, *turns[head:]]}


def _is_system(turn: dict) -> bool:
    speaker = turn.get("from", turn.get("role"))
    return isinstance(speaker, str) and SPEAKERS.get(speaker.lower()) == "system"


def answers(turn: dict) -> bool:
    return isinstance(turn.get("from"), str) and SPEAKERS.get(turn["from"].lower()) == "assistant"


def spoken_turns(turns: list[dict], source: str, who: str, what: str, notes: Notes) -> list[tuple[str, object]]:
    """(role, what is said) of turns that name their speaker under the key `who`."""
    spoken = []
    for index, turn in enumerate(turns):
        for key in (who, what):
            if key not in turn:
                raise DataError(f'{source}: message {index} has no "{key}"; write {{"{who}": ..., "{what}": ...}}')
        role = SPEAKERS.get(turn[who].lower()) if isinstance(turn[who], str) else None
        if role is None:
            raise DataError(
                f"{source}: message {index} is from {shown_value(turn[who])}; use one of {', '.join(SPEAKERS)}", "roles"
            )
        check_turn_keys(turn, index, role == "assistant", source, notes)
        spoken.append((role, turn[what]))
    return spoken


def messages_of(turns: list[dict], source: str, notes: Notes) -> list[Message]:
    return [
        Message(role, checked_text(text, f"message {index}", source))
        for index, (role, text) in enumerate(spoken_turns(turns, source, "from", "value", notes))
    ]


def without_leading_answers(messages: list[Message], source: str, notes: Notes) -> tuple[Message, ...]:
    """Answers to nothing, as XTuner and Qwen-VL drop them."""
    head = 1 if messages and messages[0].role == "system" else 0
    first = next((index for index in range(head, len(messages)) if messages[index].role != "assistant"), len(messages))
    for index in range(head, first):
        if any(mark in messages[index].text for mark in (IMAGE_PLACEHOLDER, LLAVA_IMAGE, LLAVA_VIDEO)):
            raise DataError(
                f"{source}: message {index} is an answer before the first question, and holds an image; begin with the "
                "question",
                "roles",
            )
    if first > head:
        notes.add(LEADING_ANSWER, source, first - head)
    return (*messages[:head], *messages[first:])


def checked_text(value, where: str, source: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{source}: {where} is {kind_of(value)}; write it as a text in quotes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{source}: {where} holds {value[error.start]!r}, half of a surrogate pair, at character {error.start}; "
            "remove it, or write the whole character"
        ) from error
    return value


def shown_value(value) -> str:
    """A value in a message to the user."""
    if isinstance(value, str):
        return f'"{shown(value)}"'
    is_texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return shown(str(value)) if is_texts else kind_of(value)


def kind_of(value) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    kinds = {bool: "a yes or no", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")

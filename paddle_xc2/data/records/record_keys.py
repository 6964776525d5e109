"""The keys of records: what is read, what changes a record's meaning and can't be carried out, what is misspelt."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from paddle_xc2 import messages
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.notes import Notes
from paddle_xc2.messages import in_json, shown

# Keys that say the same: where one of a group is there, a similar one beside it is something else.
RECORD_KEYS = (("conversations", "conversation", "messages"), ("image", "images", "video", "videos"))
TURN_KEYS = (("from", "role"), ("value", "content"))

UNREAD_KEY = 'key "{}" of records, which is not read'
UNREAD_TURN_KEY = 'key "{}" of turns, which is not read'

NEUTRAL_KEYS = {"name", "height", "width", "source"}  # what they say bears on nothing
_OTHER_KEYS = {"id", "system", *NEUTRAL_KEYS}
READ_KEYS = {*_OTHER_KEYS, *(key for group in RECORD_KEYS for key in group), "history", "objects"}
_READ_TURN_KEYS = {*(key for group in TURN_KEYS for key in group), "id"}
_NUM_NAMED = 20  # keys of one record

_SIMILARITY = 0.8
_LENGTHS_APART = 1  # imageId is not a slip for image
_IMAGE_NAME = re.compile(r"(?i)^(?:https?:|file:|data:image)|\.(?:jpe?g|png|webp|bmp|gif|tiff?|avif|heic|mp4)$")


class Meaning(NamedTuple):
    """What a key asks for that is not carried out.

    Attributes:
        asked_by: whether a value asks for it; with another value the key is something else, which nothing reads.
        what: what it would be, and what to do instead.
    """

    asked_by: Callable[[object], bool]
    what: str


def _lists_functions(value) -> bool:
    if isinstance(value, str):
        return '"name"' in value
    return isinstance(value, list) and value != [] and all(isinstance(one, dict) for one in value)


def _is_false(value) -> bool:
    return value is False


def _is_zero(value) -> bool:
    return value == 0  # false, too


def _is_other_share(value) -> bool:
    return isinstance(value, int | float) and value != 1


_NOT_LEARNED = "which marks it as one not to learn from; remove the record, or the key if it is to be learned"
_SHARE = "but all answers count alike; remove the key, or set it to 1"
_TOOLS = "tools for the model to call, which are not supported; remove the key, or write them into the texts"
_SOUND = "sound, which these models don't hear; remove the record, or the key"
MEANINGS = {
    "tools": Meaning(_lists_functions, _TOOLS),
    "functions": Meaning(_lists_functions, _TOOLS),
    "audio": Meaning(bool, _SOUND),
    "audios": Meaning(bool, _SOUND),
    "label": Meaning(_is_false, _NOT_LEARNED),
    "kto_tag": Meaning(_is_false, _NOT_LEARNED),
    "loss": Meaning(_is_zero, _NOT_LEARNED),
    "weight": Meaning(_is_zero, _NOT_LEARNED),
    "loss_scale": Meaning(_is_other_share, _SHARE),
}
TURN_MEANINGS = {
    "tool_calls": Meaning(bool, _TOOLS),
    "function_call": Meaning(bool, _TOOLS),
    "loss": Meaning(_is_other_share, _SHARE),
    "weight": Meaning(_is_other_share, _SHARE),
    "loss_scale": Meaning(_is_other_share, _SHARE),
}
_SHARES = ("loss", "weight", "loss_scale")  # of questions, or 1: nothing is asked for
# What a run of preference learning would not learn, or learn otherwise. What is chosen is learned here.
_REJECTED = ("rejected_response", "rejected", "rejected_messages", "rejected_images", "chosen", "margin")
REJECTED_KEY = 'key "{}" of preference data, left out: the answers in the turns are learned'


def check_keys(record: dict, source: str, notes: Notes) -> None:
    """Counts the keys of a record that nothing reads.

    Raises: DataError for one that asks for what can't be done.
    """
    _check(record, MEANINGS, READ_KEYS, UNREAD_KEY, f"{source}: the record", source, notes)


def check_turn_keys(turn: dict, index: int, answers: bool, source: str, notes: Notes) -> None:
    """The same for turn `index`. answers: whether it is an answer, which alone is learned."""
    where = f"{source}: message {index}"
    for key in ("weight", "loss") if answers else ():
        if turn.get(key) == 0:
            raise DataError(
                f'{where} is marked "{key}": {turn[key]}, not to be trained; that is not supported: remove the mark, '
                "or the answers up to this one"
            )
    meanings = TURN_MEANINGS if answers else {}
    _check(turn, meanings, _READ_TURN_KEYS, UNREAD_TURN_KEY, where, source, notes)


def _check(values: dict, meanings: dict, read: set, unread: str, where: str, source: str, notes: Notes) -> None:
    for key, meaning in meanings.items():
        if key in values and meaning.asked_by(values[key]):
            raise DataError(f'{where} has "{key}": {in_json(values[key], 60)}, {meaning.what}', "key not supported")
    others = [key for key in values if key not in read and not _asks_for_nothing(key, values[key])]
    for key in others[:_NUM_NAMED]:
        notes.add((REJECTED_KEY if key in _REJECTED else unread).format(shown(key, 40)), source)


def _asks_for_nothing(key: str, value) -> bool:
    return value in (None, "", [], {}) or (key in _SHARES and value in (0, 1))


def misspelt_keys(record: dict, groups: tuple[tuple[str, ...], ...] = RECORD_KEYS) -> dict[str, str]:
    """Keys with something in them that can only be meant for another one, which is missing -> that one."""
    meant: dict[str, str] = {}
    for group in groups:
        if not any(record.get(key) for key in group):
            unknown = [key for key in record if record[key] and key not in _OTHER_KEYS and key not in group]
            meant |= {key: near for key in unknown if (near := nearest(key, group))}
    return meant


def names_image(value) -> bool:
    """Whether a value looks like the name of an image or video, or a list of them."""
    value = value[0] if isinstance(value, list) and value else value
    return isinstance(value, str) and len(value) < 4096 and _IMAGE_NAME.search(value.strip()) is not None


def nearest(key: str, names: tuple[str, ...]) -> str | None:
    """The one of `names` that `key` is but for a slip: of case, of white space, of a letter or two."""
    plain = key.strip().lower()
    for name in names:
        if sorted(plain) == sorted(name):  # the same letters: form for from
            return name
    near = messages.nearest(plain, names, _SIMILARITY)
    return near if near and abs(len(near) - len(plain)) <= _LENGTHS_APART else None

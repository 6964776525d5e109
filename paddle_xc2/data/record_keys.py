"""Keys of records that are misspelt: what nearly is one of ours, where that is missing."""

from __future__ import annotations

import difflib

# Keys that say the same: where one of a group is there, a similar one beside it is something else.
RECORD_KEYS = (("conversations", "conversation", "messages"), ("image", "images", "video", "videos"))
TURN_KEYS = (("from", "role"), ("value", "content"))
_OTHER_KEYS = {"id", "name", "system", "height", "width", "source"}

_SIMILARITY = 0.8
_LENGTHS_APART = 1  # imageId is not a slip for image


def misspelt_keys(record: dict, groups: tuple[tuple[str, ...], ...] = RECORD_KEYS) -> dict[str, str]:
    """Keys with something in them that can only be meant for another one, which is missing -> that one."""
    meant: dict[str, str] = {}
    for group in groups:
        if not any(record.get(key) for key in group):
            unknown = [key for key in record if record[key] and key not in _OTHER_KEYS and key not in group]
            meant |= {key: near for key in unknown if (near := nearest(key, group))}
    return meant


def nearest(key: str, names: tuple[str, ...]) -> str | None:
    """The one of `names` that `key` is but for a slip: of case, of white space, of a letter or two."""
    plain = key.strip().lower()
    for name in names:
        if sorted(plain) == sorted(name):  # the same letters: form for from
            return name
    near = difflib.get_close_matches(plain, names, n=1, cutoff=_SIMILARITY)
    return near[0] if near and abs(len(near[0]) - len(plain)) <= _LENGTHS_APART else None

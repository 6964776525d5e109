"""Records of every dialect, damaged at random: each is either understood in full or refused by name."""

import copy
import json
import random
import re
from pathlib import Path

import pytest
from PIL import Image

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images.downloads import ImageCache
from paddle_xc2.data.records.conversations import load_conversations
from paddle_xc2.data.records.record_files import RecordFile

FORMATS = sorted((Path(__file__).parent / "formats").glob("*.json*"))
NUM_MUTANTS = 80  # of each of the eight files

_DEEP = [[[]]]
for _ in range(300):
    _DEEP = [_DEEP]

VALUES = [
    None, True, 0, -1.5, 10**30, "", " ", "x", "\ud800", "\x00", "x" * 200_000, "images/red.png", "<image>",
    "<ImageHere>",
    "<img>images/blue.png</img>", "<img>", "</s>", "[UNUSED_TOKEN_145]", "<box>(1,2)</box>", "Image7 <ImageHere>",
    [], {}, [[]], [{}], {"from": "user"}, {"role": "user", "content": "x"}, ["Q", "A"], ["x"] * 10_000, _DEEP,
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mutants")
    (path / "images").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (2, 2), colour).save(path / "images" / f"{colour}.png")
    return path


def places(value, path=()):
    """Every place in a record, as the keys that lead there."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def mutated(record, chance):
    """The record with one thing changed."""
    record = copy.deepcopy(record)
    path = chance.choice([path for path in places(record) if path])
    parent = record
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    change = chance.choice(("delete", "replace", "replace", "replace", "add", "text", "text", "key", "swap"))
    if change == "delete":
        del parent[key]
    elif change == "replace":
        parent[key] = chance.choice(VALUES)
    elif change == "add":
        if isinstance(parent, list):
            parent.insert(key, chance.choice([parent[key], chance.choice(VALUES)]))
        else:
            parent[chance.choice(("image", "images", "system", "messages", "conversation"))] = chance.choice(VALUES)
    elif change == "text" and isinstance(parent[key], str):
        at, more = (
            chance.randrange(len(parent[key]) + 1),
            chance.choice([value for value in VALUES if type(value) is str]),
        )
        parent[key] = parent[key][:at] + more + parent[key][at:]
    elif change == "key" and isinstance(parent, dict):
        parent[chance.choice((key[:-1], key.upper(), "from", "value", "content"))] = parent.pop(key)
    elif isinstance(parent, list):
        other = chance.randrange(len(parent))
        parent[key], parent[other] = parent[other], parent[key]
    return record


def broken(content, chance):
    """The bytes of a file with one thing changed."""
    at = chance.randrange(len(content))
    return chance.choice(
        (
            content[:at],
            content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
            content[:at] + content[at + 1 :],
            content[:at]
            + chance.choice((b"\xff", b"\0", b"\xed\xa0\x80", b"'", b'"', b"\n", b"[" * 5000))
            + content[at:],
            content.decode().encode("utf-16"),
        )
    )


def strings_of(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in ("value", "content", "text"):
                yield from strings_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)


def letters(texts):
    """What is said, without marks of images, the label of a first one, and white space."""
    said = re.sub(r"<ImageHere>|<image>|<video>|<img>.*?</img>|\s", "", "".join(texts))
    return said.replace("Picture1:", "")


def check_understood(record, conversation, num_left_out):
    """Nothing that the record says is lost or changed, and every image has its place."""
    turns = next(record[key] for key in ("conversations", "conversation", "messages") if key in record)
    if num_left_out:
        head = int(str(turns[0].get("from", turns[0].get("role"))).lower() in ("system", "developer"))
        turns = turns[:head] + turns[head + num_left_out :]
    said = [*([record["system"]] if record.get("system") else []), *strings_of(turns)]
    assert letters(said) == letters(message.text for message in conversation.messages)
    marks = sum(message.num_images for message in conversation.messages)
    assert marks == len(conversation.images) or (marks, len(conversation.images)) == (0, 1)
    named = len(set(re.findall(r"images/(?:red|blue)\.png", json.dumps(record))))
    assert (len(conversation.images) > 0) <= (named > 0)


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.name)
def test_mutated_records(path, folder):
    originals, chance = list(RecordFile(path)), random.Random(path.name)
    data, cache = folder / f"mutant_{path.name}", ImageCache(folder / "cache")
    num_understood = 0
    for _ in range(NUM_MUTANTS):
        index = chance.randrange(len(originals))
        record = mutated(originals[index], chance)
        data.write_text("\n".join(json.dumps(one) for one in (*originals[:index], record)), encoding="utf-8")
        try:
            conversations = load_conversations(data, cache=cache)
        except DataError as error:
            lines = str(error).split("\n  ")
            assert lines[0] == f"{data}: 1 of {index + 1} records can't be used:"
            assert lines[1].startswith(f"{data}[{index}]: ") and len(lines) == 2 and len(lines[1]) < 1500
        else:
            num_left_out = sum(note.count for note in conversations.notes if note.kind.startswith("message of the"))
            before = sum(note.count for note in notes_of(originals[:index], data, cache))
            record = json.loads(json.dumps(record))
            check_understood(record, conversations[index], num_left_out - before)
            num_understood += 1
    assert 0 < num_understood < NUM_MUTANTS  # the changes are neither all harmless nor all fatal


def notes_of(records, data, cache):
    if not records:
        return []
    other = data.with_name(f"before_{data.name}")
    other.write_text("\n".join(map(json.dumps, records)))
    return [note for note in load_conversations(other, cache=cache).notes if note.kind.startswith("message of the")]


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.name)
def test_broken_files(path, folder):
    chance = random.Random(path.name)
    data, cache = folder / f"broken_{path.name}", ImageCache(folder / "cache")
    num_records = len(RecordFile(path))
    for _ in range(NUM_MUTANTS // 2):
        data.write_bytes(broken(path.read_bytes(), chance))
        try:
            conversations = load_conversations(data, cache=cache)
        except DataError as error:
            # The file or its record is named, the whole stays readable.
            assert str(error).startswith(str(data)) and len(str(error)) < 5000
        else:
            assert len(conversations) <= num_records


def test_there_are_enough():
    assert NUM_MUTANTS * len(FORMATS) >= 300

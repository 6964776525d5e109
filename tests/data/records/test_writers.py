import pytest

from paddle_xc2.data.conversation import DataError, Message
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.dialects import read_record
from paddle_xc2.data.records.writers import DIALECTS, PLACED, SPACE, UNLABELLED, as_all_formats_say_it, write_record


def talk(*texts, system=None):
    head = () if system is None else (Message("system", system),)
    return head + tuple(Message(("user", "assistant")[index % 2], text) for index, text in enumerate(texts))


def alike(sample):
    return as_all_formats_say_it(sample[0]), sample[1]


def written(messages, references, dialect):
    """The record, and the kinds of its notes."""
    notes = Notes()
    record = write_record(messages, references, dialect, "7", "train.json[17]", notes)
    return record, [note.kind for note in notes]


CONVERSATIONS = {
    "text": (talk("Q\n", " A"), []),
    "turns": (talk("你好", "你好！", "Q", "A"), []),
    "image": (talk("<ImageHere>\nQ", "A", "Q", "A"), ["a.png"]),
    "picture": (talk("Picture 1: <ImageHere>\nQ", "<ref>it</ref><box>(1,2),(3,4)</box>"), ["https://x.org/a.png"]),
    "inside": (talk("What is <ImageHere>?", "A"), ["a.png"]),
    "several": (talk("Image1 <ImageHere>; Image2 <ImageHere>; Q", "A", "Image3 <ImageHere>; Q", "A"), ["a", "b", "a"]),
    "answer": (talk("<ImageHere>\nQ", "<svg><image></svg> <video> <ImageHere>\n<img>a</img>"), ["a"]),
    "system": (talk("Q", "A", system="S"), []),
    "leads": (talk("Q", "A"), ["a b.png"]),
}
# What a dialect says in another way, or not at all.
OWN = ("xcomposer2", "xcomposer2d5")
OTHERWISE = {(name, dialect) for name in ("image", "picture", "answer") for dialect in DIALECTS if dialect not in OWN}
REFUSED = {
    *[(dialect, "system") for dialect in ("chatml", "qwen-vl")],
    *[("llava", name) for name in ("inside", "picture", "several")],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("first", DIALECTS)
def test_there_and_back(first, name):
    """From each dialect to each other and back, nothing changes but marks of an image that opens the question."""
    messages, references = CONVERSATIONS[name]
    if (first, name) in REFUSED:
        with pytest.raises(DataError, match=r"^train.json\[17\]: " + first):
            written(messages, references, first)
        return
    record, notes = written(messages, references, first)
    start = read_record(record, "s")
    assert (start == (messages, references)) is (PLACED not in notes and SPACE not in notes)
    assert (PLACED in notes) is (name == "leads" and first == "xcomposer2")
    assert (SPACE in notes) is ((name, first) in OTHERWISE)
    for second in DIALECTS:
        if (second, name) in REFUSED:
            continue
        there = read_record(written(*start, second)[0], "s")
        back = read_record(written(*there, first)[0], "s")
        assert alike(back) == alike(start) == alike(there)
        assert first in OWN or name == "answer" or back == start


def test_records_as_the_formats_documents_write_them():
    messages, references = talk("Image1 <ImageHere>; Image2 <ImageHere>; Q", "A"), ["a", "b"]
    values = {dialect: written(messages, references, dialect)[0] for dialect in DIALECTS if dialect != "llava"}
    question = "Image1 <ImageHere>; Image2 <ImageHere>; Q"
    tagged = "Image1 <img>a</img>; Image2 <img>b</img>; Q"
    assert values == {
        "xcomposer2": {
            "id": "7",
            "image": ["a", "b"],
            "conversations": [{"from": "user", "value": question}, {"from": "assistant", "value": "A"}],
        },
        "xcomposer2d5": {
            "id": "7",
            "conversations": [{"from": "human", "value": question}, {"from": "bot", "value": "A"}],
            "image": ["a", "b"],
        },
        "chatml": {"id": "7", "conversations": [[tagged, "A"]]},
        "qwen-vl": {
            "id": "7",
            "conversations": [{"from": "user", "value": tagged}, {"from": "assistant", "value": "A"}],
        },
        "messages": {
            "id": "7",
            "messages": [
                {"role": "user", "content": "Image1 <image>; Image2 <image>; Q"},
                {"role": "assistant", "content": "A"},
            ],
            "images": ["a", "b"],
        },
    }
    assert written(talk("<ImageHere>\nQ", "A"), ["a"], "llava")[0] == {
        "id": "7",
        "image": "a",
        "conversations": [{"from": "human", "value": "<image>\nQ"}, {"from": "gpt", "value": "A"}],
    }
    assert written(talk("Q", "A"), ["a"], "xcomposer2d5")[0]["image"] == "a"
    assert written(talk("Q", "A"), ["a"], "chatml")[0] == {"id": "7", "conversations": [["Q", "A"]], "image": "a"}


@pytest.mark.parametrize(
    ("dialect", "question"),
    [
        ("xcomposer2", {"from": "user", "value": "<ImageHere>Q"}),
        ("llava", {"from": "human", "value": "<image>\nQ"}),
        ("qwen-vl", {"from": "user", "value": "Picture 1: <img>a</img>\nQ"}),
        ("messages", {"role": "user", "content": "<image>Q"}),
    ],
)
def test_image_without_a_place(dialect, question):
    record, notes = written(talk("Q", "A"), ["a"], dialect)
    assert (record.get("conversations") or record["messages"])[0] == question
    assert notes == [PLACED] * (dialect == "xcomposer2")


def test_notes():
    assert written(talk("<ImageHere> Q", "A"), ["a"], "llava")[1] == [SPACE]
    several = talk("<ImageHere><ImageHere>Q", "A"), ["a", "b"]
    noted = {dialect for dialect in DIALECTS if UNLABELLED in written(*several, dialect)[1]}
    assert noted == {"xcomposer2d5", "qwen-vl"}


@pytest.mark.parametrize(
    ("messages", "references", "dialect", "message"),
    [
        (talk("Q", "A", system="S"), [], "chatml", "chatml has no system turn; remove it, or choose another format"),
        (talk("Q", "A", system="S"), [], "qwen-vl", "qwen-vl has no system turn"),
        (
            talk("<ImageHere>\n<image>", "A"),
            ["a"],
            "llava",
            "llava can't say this: message 0, or its images, would be read differently",
        ),
        (
            talk("Use <img>b</img>", "A"),
            [],
            "chatml",
            r"chatml can't say this: message 0, or its images, would be read d",
        ),
        (talk("Use <img>a.png", "A"), [], "chatml", "chatml can't say this: message 0 has an <img> without its </img>"),
        (
            talk("<ImageHere>Q", "A"),
            ["a</img>b"],
            "qwen-vl",
            "qwen-vl can't say this: message 0, or its images, would be read d",
        ),
        (
            talk("<ImageHere>Q", "A"),
            [" a"],
            "chatml",
            "chatml can't say this: message 2, or its images, would be read d",
        ),
        (talk("Q <ImageHere>", "A"), ["a"], "llava", r'would be read differently \("Q"\); reword it, or'),
    ],
)
def test_what_a_dialect_can_not_say(messages, references, dialect, message):
    with pytest.raises(DataError, match=message) as caught:
        written(messages, references, dialect)
    assert str(caught.value).startswith("train.json[17]: ")

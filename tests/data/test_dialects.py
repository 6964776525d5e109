"""Each dialect with the edge cases that bite in other programs."""

import contextlib
import shutil
from pathlib import Path

import pytest

from paddle_xc2.data.conversation import Conversation, DataError, Message
from paddle_xc2.data.dialects import COLON_LABEL, LEADING_ANSWER, read_record
from paddle_xc2.data.format_writers import DIALECTS, write_record
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.record_files import PYTHON_LIKE, RecordFile

FORMATS = Path(__file__).parent / "formats"


def said(*texts, names=("user", "assistant")):
    return [{"from": names[index % 2], "value": text} for index, text in enumerate(texts)]


def texts_of(record, notes=None):
    """The texts of a record without a system turn, and its images."""
    messages, references = read_record(record, "train.json[17]", notes)
    assert [message.role for message in messages] == ["user", "assistant"] * (len(messages) // 2)
    return [message.text for message in messages], references


def notes_of(record):
    notes = Notes()
    read_record(record, "train.json[17]", notes)
    return {note.kind: note.count for note in notes}


def refused(record, match):
    with pytest.raises(DataError, match=match) as caught:
        read_record(record, "train.json[17]")
    assert str(caught.value).startswith("train.json[17]: ") and len(str(caught.value)) < 600
    return caught.value


def read_file(name):
    records, notes = RecordFile(FORMATS / name), Notes()
    read = [
        read_record(records.read(index, notes), records.source(index).rsplit("/")[-1], notes)
        for index in range(len(records))
    ]
    return read, {note.kind: (note.count, note.example.rsplit("/")[-1]) for note in notes}


def conversation(*texts, system=None):
    head = () if system is None else (Message("system", system),)
    return head + tuple(Message(("user", "assistant")[index % 2], text) for index, text in enumerate(texts))


RED, BLUE = "images/red.png", "images/blue.png"


# XComposer2


def test_the_sample_of_xcomposer2s_readme_which_is_not_json():
    read, notes = read_file("xcomposer2_readme.json")
    assert read == [
        (
            conversation("<ImageHere> <ImageHere>Which colours are these?", "The first is red......"),
            [RED, BLUE],
        ),
        (conversation("<ImageHere> what is the color", "it is ...."), [BLUE]),
    ]
    assert notes == {PYTHON_LIKE: (2, "xcomposer2_readme.json[0]")}


@pytest.mark.parametrize("image", ["p.png", ["p.png"]])
def test_an_image_may_be_a_path_or_a_list(image):
    assert texts_of({"image": image, "conversations": said("<ImageHere>Q", "A")}) == (["<ImageHere>Q", "A"], ["p.png"])


def test_system_is_no_answer():
    messages, _ = read_record({"conversations": [{"from": "System", "value": "S"}, *said("Q", "A")]}, "s")
    assert messages == conversation("Q", "A", system="S")


# XComposer-2.5


def test_xcomposer2d5():
    read, notes = read_file("xcomposer2d5.json")
    assert read == [
        (
            conversation(
                "Image1 <ImageHere>; Image2 <ImageHere>; Which is red?",
                "Image1.",
                "And here? Image3 <ImageHere>; Image4 <ImageHere>; ",
                "Image4.",
            ),
            [RED, BLUE, BLUE, RED],
        ),
        (conversation("What colour is it?", "Red.", "你确定吗？", "是的。"), [RED]),
        (conversation("你好", "你好！"), []),
    ]
    assert notes == {}


def test_key_conversation():
    assert texts_of({"conversation": said("Q", "A", names=("human", "bot"))}) == (["Q", "A"], [])


@pytest.mark.parametrize("colon", [":", "：", " :"])
def test_colon_behind_the_label_is_counted_and_kept(colon):
    text = f"Image1{colon} <ImageHere>; Image2{colon} <ImageHere>. Q"
    record = {"image": ["a", "b"], "conversations": said(text, "A")}
    assert texts_of(record)[0][0] == text
    assert notes_of(record) == {COLON_LABEL: 2}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["Image1 <ImageHere>; Image3 <ImageHere>; Q", "A"],
            'message 0 calls image 2 "Image 3"; number the images from',
        ),
        (["Image1 <ImageHere>; Q", "A", "Image1 <ImageHere>; Q", "A"], 'message 2 calls image 2 "Image 1"'),
        (["Image0 <ImageHere>; Image1 <ImageHere>; Q", "A"], 'message 0 calls image 1 "Image 0"'),
        (["Picture 2: <ImageHere>\nPicture 1: <ImageHere>\nQ", "A"], 'message 0 calls image 1 "Picture 2"'),
    ],
)
def test_wrong_numbers(texts, message):
    assert refused({"image": ["a", "b"], "conversations": said(*texts)}, message).rule == "placeholders"


def test_what_only_looks_like_a_label():
    text = "See Image2, MyImage7 <ImageHere> and Image 99999999 <ImageHere>"
    assert notes_of({"image": ["a", "b"], "conversations": said(text, "A")}) == {}


@pytest.mark.parametrize("key", ["image", "video", "videos"])
def test_video(key):
    assert texts_of({key: ["v.mp4"], "conversations": said("<video>\nQ", "A")}) == (["Q", "A"], ["v.mp4"])


# PaddleMIX


def test_pairs_with_several_turns_and_tags():
    pairs = [["<img>a b.png</img><img> https://x.org/b </img>\nQ", "A"], ["Q<img>c</img>", "B"]]
    want = ["<ImageHere><ImageHere>Q", "A", "Q<ImageHere>", "B"]
    assert texts_of({"conversations": pairs}) == (want, ["a b.png", "https://x.org/b", "c"])


def test_pairs_and_an_image_beside_them():
    assert texts_of({"image": "a", "conversations": [["Q", "A"]]}) == (["Q", "A"], ["a"])
    assert texts_of({"image": "a", "conversations": [["<ImageHere>Q", "A"]]}) == (["Q", "A"], ["a"])


# LLaVA, XTuner


def test_llava():
    read, notes = read_file("llava.jsonl")
    assert read == [
        (conversation("What colour is it?", "Red.", "Sure?", "Yes."), [RED]),
        (conversation("Hello", "Hi"), []),
        (conversation("First <ImageHere>, then <ImageHere>.", "Red, blue.", system="Be brief."), [RED, BLUE]),
        (conversation("What colour is it?", "Blue."), [BLUE]),
    ]
    assert notes == {LEADING_ANSWER: (2, "llava.jsonl[3]")}


def test_the_schema_of_xtuners_tutorial_with_comments_and_spare_commas():
    read, notes = read_file("xtuner_schema.json")
    assert read == [
        (conversation("What colour is it?", "Red.", "Sure?", "# Yes"), [RED]),
        (conversation("And this one?", "Blue."), [BLUE]),
    ]
    assert notes == {PYTHON_LIKE: (2, "xtuner_schema.json[0]")}


def test_leading_answer_with_an_image():
    record = {"image": "a", "conversations": said("<image>Look", "Q", "A", names=("gpt", "human"))}
    assert refused(record, "message 0 is an answer before the first question, and holds an image").rule == "roles"


def test_nothing_but_answers():
    assert read_record({"conversations": said("A", "B", names=("gpt", "gpt"))}, "s") == ((), [])


@pytest.mark.parametrize("text", ["<image>\nQ", "Q\n<image>", "<image>"])
def test_mark_without_an_image(text):
    error = refused({"conversations": said(text, "A")}, "message 0 holds <image>, but the record names no image; write")
    assert error.rule == "placeholders"


@pytest.mark.parametrize("text", ["What does <image> mean in HTML?", "a <image>", "<image> Q"])
def test_text_about_the_mark(text):
    assert texts_of({"conversations": said(text, "<image>")}) == ([text, "<image>"], [])


# Qwen-VL


def test_qwen_vl():
    read, notes = read_file("qwen_vl.json")
    assert read == [
        (conversation("你好", "我是一个支持视觉输入的大模型。"), []),
        (
            conversation(
                "图中是什么？",
                "红色。",
                "框出红色",
                "<ref>红色</ref><box>(588,499),(725,789)</box>",
            ),
            [RED],
        ),
        (conversation("Picture 1: <ImageHere>\nPicture 2: <ImageHere>\nWhich?", "Both."), [RED, BLUE]),
    ]
    assert notes == {LEADING_ANSWER: (1, "qwen_vl.json[2]")}


@pytest.mark.parametrize("box", ["(0,0),(999,999)", "(5,5),(5,5)", " ( 1 , 2 ) , ( 3 , 4 ) "])
def test_good_box(box):
    assert texts_of({"image": "a", "conversations": said("Q", f"<box>{box}</box>")})[0][1] == f"<box>{box}</box>"


@pytest.mark.parametrize(
    "box",
    [
        "<box>(0,0),(1000,10)</box>",
        "<box>(0,0),(10,1000)</box>",
        "<box>(11,0),(10,10)</box>",
        "<box>(0,11),(10,10)</box>",
        "<box>(0,0)</box>",
        "<box>(-1,0),(10,10)</box>",
        "<box>(0.5,0),(10,10)</box>",
        "<box>(0,0),(10,10)",
        "(0,0),(10,10)</box>",
        "<box></box>",
        "<box>(0,0),(" + "9" * 5000 + ",10)</box>",
    ],
)
def test_bad_box(box):
    error = refused({"image": "a", "conversations": said("Q", f"so: {box}")}, "message 1 has the box .*; write <box>")
    assert error.rule == "boxes"
    if box.startswith("<box>("):
        refused({"conversations": said("Q", f"so: {box}")}, "message 1 has the box")


def test_text_about_boxes():
    assert texts_of({"conversations": said("Q", "Write <box> or </box>.")})[0][1] == "Write <box> or </box>."


# Messages


def test_messages():
    read, notes = read_file("messages.jsonl")
    assert read == [
        (conversation("What colour is it?", "Red.", system="Be brief."), [RED]),
        (conversation("Which is red?<ImageHere><ImageHere>", "The first."), [RED, BLUE]),
        (conversation("What\ncolour?", "Blue."), [BLUE]),
        (conversation("Hello", "Hi"), []),
    ]
    assert notes == {}


def talk(*contents, **more):
    return {
        "messages": [
            {"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(contents)
        ]
    } | more


@pytest.mark.parametrize(
    ("record", "texts", "images"),
    [
        (talk("<image>Q<image>", "A", images=["a", "b"]), ["<ImageHere>Q<ImageHere>", "A"], ["a", "b"]),
        (talk("<img>a</img>Q", "A"), ["Q", "A"], ["a"]),
        (talk("Q", "A", image="a"), ["Q", "A"], ["a"]),
        (talk("<image>", "A", image="a"), ["", "A"], ["a"]),
        (talk([{"type": "text", "text": "<image>Q"}], "A", images=["a"]), ["Q", "A"], ["a"]),
        (talk([{"type": "image_url", "image_url": "a"}], "A"), ["", "A"], ["a"]),
        (talk([{"type": "image", "url": "a"}], "A"), ["", "A"], ["a"]),
        (talk([{"type": "image", "path": "a"}], "A", images=["a"]), ["", "A"], ["a"]),
        (talk([{"type": "video_url", "video_url": {"url": "a"}}], "A"), ["", "A"], ["a"]),
        (
            talk([{"type": "input_text", "text": "Q"}, {"type": "input_image", "image_url": "a"}], "A"),
            ["Q<ImageHere>", "A"],
            ["a"],
        ),
        ({"conversations": talk("Q", "A")["messages"]}, ["Q", "A"], []),
    ],
)
def test_content_of_messages(record, texts, images):
    assert texts_of(record) == (texts, images)


def test_developer_and_system():
    messages, _ = read_record({"messages": [{"role": "developer", "content": "S"}, *talk("Q", "A")["messages"]]}, "s")
    assert messages == conversation("Q", "A", system="S")
    messages, _ = read_record(talk("Q", "A", system="S"), "s")
    assert messages == conversation("Q", "A", system="S")
    assert read_record(talk("Q", "A", system=""), "s")[0] == conversation("Q", "A")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (talk("Q", None), "message 1 is null; write it as a text in quotes"),
        (
            {"messages": [{"role": "tool", "content": "Q"}]},
            'message 0 is from "tool"; use one of system, developer, user',
        ),
        ({"messages": [{"role": ["user"], "content": "Q"}]}, r"message 0 is from \['user'\]; use one of"),
        ({"messages": [{"role": "user"}]}, 'message 0 has no "content"; write {"role": ..., "content": ...}'),
        ({"messages": [{"content": "Q"}]}, 'message 0 has no "role"'),
        ({"messages": "Q"}, '"messages" is a text; write a list'),
        (talk("Q", "A", system=["S"]), '"system" is a list; write it as a text in quotes'),
        (
            talk("Q", "A", system="S") | {"messages": [{"role": "system", "content": "T"}]},
            'both "system" and a system turn',
        ),
        (talk([7], "A"), 'part 0 of message 0 is a number; write {"type": "text"'),
        (talk([{"text": "Q"}], "A"), 'part 0 of message 0 is an object; write {"type": "text"'),
        (talk([{"type": "audio"}], "A"), 'part 0 of message 0 is of type "audio"; write {"type": "text"'),
        (talk([{"type": "text"}], "A"), '"text" in part 0 of message 0 is null; write it as a text'),
        (
            talk([{"type": "image_url", "image_url": {"url": 7}}], "A"),
            '"image_url" in part 0 of message 0 is neither a',
        ),
        (
            talk([{"type": "image"}], "A"),
            'hold 1 image without a name and 0 with one, and "images" names 0; name each',
        ),
        (
            talk([{"type": "image", "image": "a"}], "A", images=["b"]),
            '0 images without a name and 1 with one, and "images" n',
        ),
        (
            talk([{"type": "image"}, {"type": "image", "image": "a"}], "A", images=["b"]),
            "1 image without a name and 1 with",
        ),
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weight": 0}]},
            'message 1 is marked "weight": 0, not to be trained; that is not supported',
        ),
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "loss": False}]},
            'message 1 is marked "loss": False, not to be trained',
        ),
    ],
)
def test_bad_messages(record, message):
    refused(record, message)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "piece",
    ["<img>", "</img>", "<box>(", "<box>(1,2)", "Image1 ", " ", "<image>", "Picture 1: <img>a", "\n", "<ImageHere>"],
)
def test_absurdly_long_texts_take_no_time(piece):
    text = piece * (300_000 // len(piece))
    for image in ({}, {"image": "a.png"}):
        for record in ({"conversations": said(text, "A")}, {"conversations": [[text, "A"]]}, talk(text, "A")):
            try:
                messages, references = read_record(record | image, "s")
                Conversation(messages, tuple(references), "s")
                notes = Notes()
                for dialect in DIALECTS:
                    with contextlib.suppress(DataError):
                        write_record(messages, references, dialect, "0", "s", notes)
            except DataError as error:
                assert len(str(error)) < 1000


def test_messages_quote_halves_of_characters_readably():
    error = refused({"messages": [{"role": "\ud800" * 50, "content": "Q"}]}, "message 0 is from")
    assert str(error).encode() and "\\ud800" in str(error)


def test_every_sample_file_is_read(tmp_path):
    from PIL import Image

    from paddle_xc2.data.json_formats import load_conversations

    shutil.copytree(FORMATS, tmp_path / "formats")
    (tmp_path / "formats" / "images").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (2, 2), colour).save(tmp_path / "formats" / "images" / f"{colour}.png")
    counts = {path.name: len(load_conversations(path)) for path in sorted((tmp_path / "formats").glob("*.json*"))}
    assert counts == {
        "llava.jsonl": 4,
        "messages.jsonl": 4,
        "paddlemix_chatml.jsonl": 4,
        "qwen_vl.json": 3,
        "xcomposer2.json": 3,
        "xcomposer2_readme.json": 2,
        "xcomposer2d5.json": 3,
        "xtuner_schema.json": 2,
    }

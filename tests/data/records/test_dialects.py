"""Each dialect with the edge cases that bite in other programs."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from paddle_xc2.data.conversation import Conversation, DataError, Message
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.dialects import FILLED, LONE_TAG, UNFILLED, read_record
from paddle_xc2.data.records.doubts import COLON_LABEL, MARK_IN_ANSWER, OTHER_BOX, OTHER_NUMBER
from paddle_xc2.data.records.record_files import PYTHON_LIKE, RecordFile
from paddle_xc2.data.records.record_keys import REJECTED_KEY, UNREAD_KEY, UNREAD_TURN_KEY
from paddle_xc2.data.records.turns import HISTORY, LEADING_ANSWER
from paddle_xc2.data.records.writers import DIALECTS, write_record

FORMATS = Path(__file__).parent.parent / "formats"


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
    "texts",
    [
        ["Image1 <ImageHere>; Image3 <ImageHere>; Q", "A"],
        ["Image1 <ImageHere>; Q", "A", "Image1 <ImageHere>; Q", "A"],
        ["The manual shows, as Image 5 <ImageHere>, a pump, and <ImageHere>", "A"],
        ["Picture 1: <ImageHere>\nPicture 1: <ImageHere>\nQ", "A"],
    ],
)
def test_other_numbers_are_counted_and_kept(texts):
    record = {"image": ["a", "b"], "conversations": said(*texts)}
    assert texts_of(record)[0] == texts
    assert notes_of(record) == {OTHER_NUMBER: 1}


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


@pytest.mark.parametrize("mark", ["<image>", "<video>", "<ImageHere>", "<img>a.png</img>"])
def test_a_mark_in_an_answer_is_text(mark):
    answer = f"<svg>{mark}</svg>"
    for record in (
        {"image": "a", "conversations": said("<image>\nQ", answer)},
        {"conversations": [["<img>a</img>\nQ", answer]]},
        {"conversations": said("<img>a</img>\nQ", answer)},
        talk("<image>\nQ", answer, images=["a"]),
        talk("<img>a</img>\nQ", answer),
    ):
        assert texts_of(record) == (["Q", answer], ["a"])
        assert notes_of(record) == {MARK_IN_ANSWER: 1}
    for question in ("Q", "<ImageHere>Q"):
        assert texts_of({"image": "a", "conversations": said(question, answer)}) == ([question, answer], ["a"])
    assert notes_of({"conversations": said("Q", answer)}) == {}


def test_an_image_shown_in_an_answer():
    record = talk("Q", [{"type": "image", "image": "a"}])
    assert refused(record, "message 1 is an answer and shows an image; images belong into q").rule == "placeholders"


def test_text_about_the_tag():
    for pairs in ([["What does <img> do in HTML?", "A"]], [["<img>a</img>\nWhat does </img> do?", "<img>"]]):
        assert texts_of({"conversations": pairs})[0][1] == pairs[0][1]
        assert notes_of({"conversations": pairs}) == {LONE_TAG: 1}
    for text in ("<img>a.png\nQ", "<img>https://x.org/a"):
        refused({"conversations": [[text, "A"]]}, "message 0 has an <img> without its </img> on the same line, or the")


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
        "<box>(11,0),(10,10)</box>",
        "<box>(0,11),(10,10)</box>",
        "<box>(0,0)</box>",
        "<box>(0.5,0),(10,10)</box>",
        "<box>[[10, 20, 300, 400]]</box>",
        "<box>(0,0),(10,10)",
        "(0,0),(10,10)</box>",
        "<box></box>",
        "<box>(0,0),(" + "9" * 5000 + ",10)</box>",
    ],
)
def test_other_boxes_are_counted_and_kept(box):
    record = {"image": "a", "conversations": said("Q", f"so: {box}")}
    assert texts_of(record)[0] == ["Q", f"so: {box}"]
    assert notes_of(record) == {OTHER_BOX: 1}
    assert notes_of({"conversations": said("Q", f"so: {box}")}) == ({OTHER_BOX: 1} if box.startswith("<box>(") else {})


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

    from paddle_xc2.data.records.conversations import load_conversations

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


# Keys


def test_history():
    pairs, turns = [["Q", "A"], ["R", "B"]], talk("Q", "A", "R", "B")["messages"]
    for record in (
        talk("S", "C", history=pairs),
        talk("S", "C", history=turns),
        {"conversations": said("S", "C"), "history": pairs},
        {"conversations": [["S", "C"]], "history": pairs},
    ):
        assert texts_of(record) == (["Q", "A", "R", "B", "S", "C"], [])
        assert notes_of(record) == {HISTORY: 1}
    system = {"messages": [{"role": "system", "content": "X"}, *talk("S", "C")["messages"]], "history": pairs}
    assert read_record(system, "s")[0] == conversation("Q", "A", "R", "B", "S", "C", system="X")
    assert texts_of(talk("S", "C", history=[["<image>Q", "A"]], images=["a"])) == (
        ["Q", "A", "S", "C"],
        ["a"],
    )
    assert notes_of(talk("S", "C", history=[])) == {}
    assert notes_of(talk("S", "C", history="Diabetes since 1998")) == {UNREAD_KEY.format("history"): 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            talk("Q", "A", tools='[{"name": "get_weather"}]'),
            r'the record has "tools": "\[{.*", tools for the model to ca',
        ),
        (
            talk("Q", "A", functions=[{"name": "f"}]),
            'the record has "functions": .*, tools for the model to call, which',
        ),
        (
            talk("Q", "A", audios=["a.wav"]),
            r'the record has "audios": \["a.wav"\], sound, which these models don\'t hear',
        ),
        (talk("Q", "A", label=False), 'the record has "label": false, which marks it as one not to learn from; remove'),
        (talk("Q", "A", kto_tag=False), 'the record has "kto_tag": false, which marks it as one not to learn from'),
        (talk("Q", "A", weight=0), 'the record has "weight": 0, which marks it as one not to learn from'),
        (talk("Q", "A", loss=False), 'the record has "loss": false, which marks it as one not to learn from'),
        (talk("Q", "A", loss_scale=0.5), 'the record has "loss_scale": 0.5, but all answers count alike; remove the'),
    ],
)
def test_keys_that_ask_for_what_cant_be_done(record, message):
    assert refused(record, message).rule == "key not supported"


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({"weight": 0.5}, 'message 1 has "weight": 0.5, but all answers count alike; remove the key, or set it to 1'),
        ({"loss_scale": 2}, 'message 1 has "loss_scale": 2, but all answers count alike'),
        ({"tool_calls": [{"id": "0"}]}, r'message 1 has "tool_calls": \[{"id": "0"}\], tools for the model to call'),
    ],
)
def test_keys_of_turns_that_ask_for_what_cant_be_done(marks, message):
    question, answer = talk("Q", "A")["messages"]
    refused({"messages": [question, answer | marks]}, message)


def test_other_keys_are_counted():
    record = talk(
        "Q", "A", id=1, height=2, tools=["hammer"], label="cat", weight=70, rejected_response="B", kto_tag=True
    )
    assert texts_of(record) == (["Q", "A"], [])
    assert notes_of(record) == {
        **{UNREAD_KEY.format(key): 1 for key in ("tools", "label", "weight", "kto_tag")},
        REJECTED_KEY.format("rejected_response"): 1,
    }
    question, answer = talk("Q", "A")["messages"]
    turns = [question | {"loss": 0, "weight": None}, answer | {"loss": True, "weight": 1, "reasoning_content": "Hm"}]
    assert notes_of({"messages": turns, "audio": None, "tools": []}) == {UNREAD_TURN_KEY.format("reasoning_content"): 1}
    assert len(notes_of(talk("Q", "A", **{f"key{index}": 1 for index in range(1000)}))) == 20
    assert notes_of(talk("Q", "A", mage="Gandalf")) == {UNREAD_KEY.format("mage"): 1}
    refused(talk("Q", "A", imgae="a.png"), 'there is a key "imgae" but no "image"; correct it, or call it otherwise')


def objects(texts=("<image>Find <ref-object>", "<bbox>"), **changes):
    values = {"ref": ["the dog"], "bbox": [[10, 20, 30, 40]]} | changes
    return talk(*texts, images=["a"], objects={key: value for key, value in values.items() if value is not None})


def filled(record):
    return [message.text for message in read_record(record, "train.json[17]", None, lambda name: (40, 80))[0]]


def test_objects():
    assert filled(objects()) == ["Find the dog", "[(250,250),(750,500)]"]
    assert notes_of(objects(bbox_type="norm1", bbox=[[0, 1, 0.25, 0.5]])) == {FILLED: 1}
    assert filled(objects(bbox_type="norm1", bbox=[[0, 1, 0.25, 0.5]]))[1] == "[(0,1000),(250,500)]"
    assert filled(objects(bbox=[[10, 20]], ref=None, label=["it"])) == ["Find it", "[(250,250)]"]
    several = objects(("<image>Where? <bbox>", "<ref-object><bbox>"), bbox=[[0, 0, 40, 80], [1, 2, 3, 4]], image_id=[0])
    assert filled(several) == ["Where? [(0,0),(1000,1000)]", "the dog[(25,25),(75,50)]"]
    assert notes_of(objects(("<image>Find it", "Here."))) == {UNREAD_KEY.format("objects"): 1}
    assert notes_of(talk("What is <bbox>?", "A")) == {UNFILLED: 1}


def older_objects(*boxes, texts=("<image>Find <ref-object>", "<bbox>"), written=list, **others):
    """As ms-swift had them before its version 3."""
    values = [{"caption": "the dog", "bbox": box, "bbox_type": "real", "image": 0} | others for box in boxes]
    return talk(*texts, images=["a"], objects=written(values))


@pytest.mark.parametrize("written", [list, json.dumps])
def test_objects_of_before_version_3(written):
    assert filled(older_objects([10, 20, 30, 40], written=written)) == ["Find the dog", "[(250,250),(750,500)]"]
    thousandths = older_objects([1, 2, 999, 4], bbox_type="norm_1000", written=written)
    assert filled(thousandths)[1] == "[(1,2),(999,4)]"
    assert filled(older_objects([0, 1, 0.25, 0.5], bbox_type="norm_1", written=written))[1] == "[(0,1000),(250,500)]"
    boxes = older_objects([0, 0, 40, 80], [10, 20], texts=("<image>Where?", "<bbox> and <bbox>"), written=written)
    assert filled(boxes)[1] == "[(0,0),(1000,1000)] and [(250,250)]"
    names = older_objects([0, 0, 40, 80], texts=("<image>What?", "<ref-object>"), written=written)
    assert filled(names)[1] == "the dog"


def test_objects_of_before_version_3_that_cant_be_filled_in():
    with pytest.raises(DataError, match=r"goes beyond an image of side 1000; correct it"):
        filled(older_objects([0, 0, 40, 1001], bbox_type="norm_1000"))
    mixed = older_objects([1, 2], [3, 4], texts=("<image>Q", "<bbox><bbox>"))
    mixed["objects"][0]["bbox_type"] = "norm_1"
    with pytest.raises(DataError, match=r'the boxes of "objects" are in several units \(norm_1, real\); use one'):
        filled(mixed)
    with pytest.raises(DataError, match='"objects" is no object; write'):
        filled(older_objects([1, 2], written=lambda _: "[1, "))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": []}, '"objects" has 0 in "bbox" for 1 <bbox> in the messages; write one <bbox> for each'),
        ({"ref": ["a", "b"]}, '"objects" has 2 in "ref" for 1 <ref-object> in the messages'),
        ({"ref": [7]}, '"ref" of "objects" must be a list of texts'),
        ({"bbox": 7}, '"bbox" of "objects" must be a list'),
        ({"bbox": [[1, 2, 3]]}, r'"bbox" 0 of "objects" is no \[x1, y1, x2, y2\] or \[x, y\] of numbers; correct it'),
        ({"bbox": [[1, float("nan")]]}, '"bbox" 0 of "objects" is no '),
        ({"bbox": [[1, 2, 3, 81]]}, r'"bbox" 0 of "objects", \[1, 2, 3, 81\], goes beyond 40 x 80 pixels; correct it'),
        ({"bbox": [[1, 2]], "bbox_type": "norm1"}, "goes beyond an image of side 1; correct it, or"),
        ({"bbox_type": "norm1000"}, '"bbox_type" of "objects" is not one of real, norm1'),
        ({"image_id": [1]}, '"bbox" 0 of "objects" is of image 1, and there are 1; correct "image_id"'),
        ({"category": [1]}, "\"objects\" has a key 'category'; write"),
    ],
)
def test_objects_that_cant_be_filled_in(changes, message):
    with pytest.raises(DataError, match=message):
        filled(objects(**changes))

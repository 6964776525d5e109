import base64
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.data.conversation import DataError, Message
from paddle_xc2.data.images.pictures import ImageMissing
from paddle_xc2.data.records.conversations import load_conversations, open_conversations, to_conversation
from paddle_xc2.data.records.doubts import COLON_LABEL

FORMATS = Path(__file__).parent.parent / "formats"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the sample files and their images; the working directory is another one."""
    for file in FORMATS.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "images").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (2, 2), colour).save(tmp_path / "images" / f"{colour}.png")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def turns(*texts, names=("user", "assistant")):
    return [{"from": names[index % 2], "value": text} for index, text in enumerate(texts)]


def refused(record, match, **options):
    with pytest.raises(DataError, match=match) as caught:
        to_conversation(record, "train.json[17]", **options)
    assert str(caught.value).startswith("train.json[17]: ")
    assert "\n" not in str(caught.value)
    return caught.value


def written(tmp_path, content):
    path = tmp_path / "train.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Sample files


def test_xcomposer2(folder):
    two_images, one_image, text = load_conversations(folder / "xcomposer2.json")
    red, blue = folder / "images" / "red.png", folder / "images" / "blue.png"
    assert two_images.messages == (
        Message("user", "<ImageHere> <ImageHere>Please describe these two images in detail."),
        Message("assistant", "The first is red, the second blue."),
    )
    assert two_images.images == (red, blue)
    assert two_images.source == f"{folder / 'xcomposer2.json'}[0]"
    assert one_image.messages == (
        Message("user", "What colour is it?"),
        Message("assistant", "Red.\n"),
        Message("user", "你确定吗？"),
        Message("assistant", "是的。"),
    )
    assert one_image.images == (red,) and one_image.image_leads
    assert [message.role for message in text.messages] == ["system", "user", "assistant"]
    assert text.images == ()


@pytest.mark.parametrize(
    ("text", "num_images", "want"),
    [
        ("<image>\nWhat?", 1, "What?"),
        ("What is this?<image>", 1, "What is this?"),  # to the front, as XTuner's llava_map_fn
        ("<image>", 1, ""),
        ("<image>\n<image>\nWhich?", 2, "<ImageHere><ImageHere>Which?"),
        ("First <image>, then <image>.", 2, "First <ImageHere>, then <ImageHere>."),
        ("How do I write <image> in HTML?", 0, "How do I write <image> in HTML?"),
    ],
)
def test_llava(folder, text, num_images, want):
    record = {"image": ["images/red.png"] * num_images, "conversations": turns(text, "A")}
    conversation = to_conversation(record, "r", base_folder=folder)
    assert conversation.messages == (Message("user", want), Message("assistant", "A"))
    assert len(conversation.images) == num_images


def test_paddlemix_chatml(folder):
    one, several, text, listed = load_conversations(folder / "paddlemix_chatml.jsonl")
    red, blue = folder / "images" / "red.png", folder / "images" / "blue.png"
    assert one.messages[0].text == "What colour is it?\nred\nblue\n"
    assert one.images == (red,)
    assert several.messages == (
        Message("user", "<ImageHere><ImageHere>Which is red?"),
        Message("assistant", "The first."),
        Message("user", "And <ImageHere>?"),
        Message("assistant", "Blue."),
    )
    assert several.images == (red, blue, blue)
    assert text.messages == (Message("user", "你好"), Message("assistant", "你好！"))
    assert (listed.messages[0].text, listed.images) == ("What colour is it?", (blue,)) and listed.image_leads
    assert listed.source == f"{folder / 'paddlemix_chatml.jsonl'}[3]"


def test_upstreams_sample_files(shared, monkeypatch):
    monkeypatch.chdir(shared / "samples" / "xcomposer_finetune")  # their image paths start here
    found = {path.name: load_conversations(path) for path in sorted(Path("data").glob("*.json"))}
    images = [len(conversation.images) for conversations in found.values() for conversation in conversations]
    notes = [(note.kind, note.count) for conversations in found.values() for note in conversations.notes]
    assert notes == [(COLON_LABEL, 4)]
    assert len(found) == 3
    assert (min(images), max(images) >= 2) == (0, True)


# Dialects


@pytest.mark.parametrize(
    "names", [("user", "assistant"), ("human", "gpt"), ("Human", "Bot"), ("USER", "ASSISTANT"), ("human", "assistant")]
)
def test_speakers_in_any_case(names):
    conversation = to_conversation({"conversations": turns("Q", "A", names=names)}, "train.json[17]")
    assert conversation.messages == (Message("user", "Q"), Message("assistant", "A"))


@pytest.mark.parametrize("image", [None, "", []])
def test_no_image(image):
    assert to_conversation({"image": image, "conversations": turns("Q", "A")}, "train.json[17]").images == ()


def test_the_key_may_be_images(folder):
    record = {"images": ["images/red.png"], "conversations": turns("Q", "A")}
    assert to_conversation(record, "train.json[17]", base_folder=folder).images == (folder / "images" / "red.png",)


def test_one_placeholder_in_a_later_turn_stays_there(folder):
    record = {"image": "images/red.png", "conversations": turns("Q", "A", "And <ImageHere>?", "B")}
    conversation = to_conversation(record, "train.json[17]", base_folder=folder)
    assert [message.text for message in conversation.messages] == ["Q", "A", "And <ImageHere>?", "B"]


def test_html_in_a_text_is_text():
    record = {"conversations": turns('<img src="a.png"> and <image>', "A")}
    assert to_conversation(record, "train.json[17]").messages[0].text == '<img src="a.png"> and <image>'


def test_equal_image_list_beside_the_tags_is_no_second_image(folder):
    record = {"image": "images/red.png", "conversations": [["<img> images/red.png </img>\nQ", "A"]]}
    assert len(to_conversation(record, "train.json[17]", base_folder=folder).images) == 1


def test_one_file_may_hold_several_dialects(folder):
    records = [{"conversations": [["Q", "A"]]}, {"conversations": turns("Q", "A")}]
    first, second = load_conversations(written(folder, json.dumps(records)))
    assert first.messages == second.messages


# Where images are looked for


def test_places_of_relative_paths(folder):
    record = {"image": "red.png", "conversations": turns("Q", "A")}
    here = folder / "elsewhere"
    Image.new("RGB", (2, 2)).save(here / "red.png")

    def found(**options):
        return to_conversation(record, "train.json[17]", **options).images[0].resolve()

    assert found() == here / "red.png"
    assert found(base_folder=folder) == here / "red.png"  # not beside the file, so from the working directory
    assert found(base_folder=folder / "images") == folder / "images" / "red.png"
    assert found(image_folder=folder / "images") == folder / "images" / "red.png"
    message = str(refused(record, "there is no image", image_folder=folder))  # and then nowhere else
    assert message.endswith(f'there is no image "red.png" in {folder}; correct the path, or set image_folder')


def test_absolute_path(folder):
    path = folder / "images" / "red.png"
    record = {"image": str(path), "conversations": turns("Q", "A")}
    assert to_conversation(record, "train.json[17]", image_folder="/nowhere").images == (path,)


def test_missing_image_says_where_it_was_looked_for(folder):
    record = {"image": "gone.png", "conversations": turns("Q", "A")}
    error = refused(record, f'there is no image "gone.png" in {folder} or {folder}/elsewhere;', base_folder=folder)
    assert isinstance(error, ImageMissing)
    refused(record | {"image": "/gone.png"}, 'there is no image "/gone.png"; correct the path or add the file')


def test_what_can_be_no_path():
    error = refused({"image": "A" * 9000, "conversations": turns("Q", "A")}, "there is no image")
    assert len(str(error)) < 600
    refused({"image": ["\0"], "conversations": turns("<ImageHere>Q", "A")}, "there is no image")
    refused(
        {"image": ["", "a"], "conversations": turns("Q", "A")}, "the path of an image is empty; write it, or remove"
    )


def test_address_is_fetched_through_the_cache(tmp_path):
    class Cache:
        def fetch(self, url, source):
            return tmp_path / f"{source} {url[-5:]}"

    record = {"conversations": [["<img>https://example.org/a.png</img>\nQ", "A"]]}
    assert to_conversation(record, "s", cache=Cache()).images == (tmp_path / "s a.png",)


def test_image_features_of_hugging_face(folder, monkeypatch):
    monkeypatch.setenv("PADDLE_XC2_CACHE", str(folder / "cache"))
    content = (folder / "images" / "red.png").read_bytes()
    inside = base64.b64encode(content).decode()
    for feature in (
        {"bytes": inside, "path": "gone.png"},
        {"bytes": inside},
        {"bytes": f"data:image/png;base64,{inside}"},
    ):
        (image,) = to_conversation({"images": [feature], "conversations": turns("Q", "A")}, "r").images
        assert image.read_bytes() == content
    beside = {"path": "red.png", "bytes": None}
    parts = [{"type": "image", "image": beside}, {"type": "text", "text": "Q"}]
    for record in (
        {"image": beside, "conversations": turns("Q", "A")},
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A"}]},
    ):
        conversation = to_conversation(record, "r", image_folder=folder / "images")
        assert conversation.images == (folder / "images" / "red.png",)


# Bad records


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], 'the record is a list; it must be an object with "conversations"'),
        (None, 'the record is null; it must be an object with "conversations"'),
        (
            {"id": 3, "conversatons": []},
            'there is no "conversations" and no "messages"; did you mean "conversatons"?',
        ),
        ({"query": "Q", "images": []}, 'there is no "conversations" and no "messages"; the record has query, images$'),
        (
            {"image": "a.png", "question": "Q", "answer": "A"},
            r'the record has image, question, answer; write {"messages": .*, or save such records as a table \(CSV\)$',
        ),
        ({"id": 3, "text": ""}, 'there is no "conversations" and no "messages"; the record has id, text$'),
        ({}, 'there is no "conversations" and no "messages"; the record has no keys$'),
        ({str(index): 1 for index in range(11)}, "the record has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1 more$"),
        ({"messages": [], "conversations": []}, 'there are both "conversations" and "messages"; keep one'),
        (
            {"conversations": "Q"},
            r'"conversations" is a text; write a list of {"from": ..., "value": ...}, or of \[quest',
        ),
        ({"conversations": ["Q", 1]}, '"conversations" is a list of a text and a number; write'),
        ({"conversations": [["Q", "A"], {"from": "user"}]}, '"conversations" is a list of a list and an object; write'),
        ({"conversations": []}, "there is no message"),
        ({"conversations": [{"value": "Q"}]}, 'message 0 has no "from"; write {"from": ..., "value": ...}'),
        ({"conversations": [{"from": "user"}]}, 'message 0 has no "value"'),
        (
            {"conversations": turns("Q", "A", names=("user", "tool"))},
            'message 1 is from "tool"; use one of system, developer, user, human, assistant, bot, gpt',
        ),
        ({"conversations": turns("Q", 7)}, "message 1 is a number; write it as a text in quotes"),
        ({"conversations": turns("Q", None)}, "message 1 is null; write it as a text in quotes"),
        (
            {"conversations": turns("Q", "a\ud800")},
            r"message 1 holds '\\ud800', half of a surrogate pair, at character 1",
        ),
        ({"conversations": turns("Q", " ")}, r"message 1 \(assistant\) is empty"),
        (
            {"image": {"name": "a"}, "conversations": turns("Q", "A")},
            '"image" is neither a path nor a list of paths; write these, or {"path": ...}, or {"bytes": the file in',
        ),
        ({"image": {"bytes": [137, 80]}, "conversations": turns("Q", "A")}, '"image" is neither a path nor a list of'),
        ({"image": {"bytes": "?"}, "conversations": turns("Q", "A")}, "this is not valid base64"),
        (
            {"images": ["a"], "videos": ["b.mp4"], "messages": []},
            'there are both "images" and "videos"; name all of them in "images", in the order in which they are shown',
        ),
        ({"image": ["a", 1], "conversations": turns("Q", "A")}, '"image" is neither a path nor a list of paths'),
        (
            {"image": "a", "images": ["b"], "conversations": turns("Q", "A")},
            'there are both "image" and "images"; keep one',
        ),
        (
            {"image": "b.png", "conversations": turns("Picture 1: <img>a.png</img>\nQ", "A")},
            r"\"image\" names \['b.png'\] but the <img> tags name \['a.png'\]; keep one of the two",
        ),
        ({"conversations": turns("<ImageHere>Q", "A")}, "the messages hold 1 <ImageHere> but 0 images are given"),
        ({"conversations": [["Q"]]}, r"conversations\[0\] is a list of 1; write \[question, answer\] for each turn"),
        (
            {"conversations": [["Q", "A"], ["Q", 1]]},
            r"the assistant's text in conversations\[1\] is a number; write it as",
        ),
        (
            {"conversations": [["<img>a.png\nQ</img>", "A"]]},
            "message 0 has an <img> without its </img> on the same line, or the other way",
        ),
        (
            {"image": "b.png", "conversations": [["<img>a.png</img>Q", "A"]]},
            r"\"image\" names \['b.png'\] but the <img> tags name \['a.png'\]; keep one of the two",
        ),
        ({"conversations": [["<img></img>Q", "A"]]}, "the path of an image is empty"),
    ],
)
def test_bad_record(record, message):
    refused(record, message)


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_images_that_do_not_match_the_placeholders(folder, num_images):
    record = {"image": ["images/red.png"] * num_images, "conversations": turns("<ImageHere><ImageHere>Q", "A")}
    refused(record, f"the messages hold 2 <ImageHere> but {num_images} images? (is|are) given", base_folder=folder)


def test_bad_records_are_reported_together(tmp_path):
    good, bad, open_ended = (
        {"conversations": [["Q", "A"]]},
        {"conversations": [["Q", ""]]},
        {"conversations": turns("Q")},
    )
    path = written(tmp_path, json.dumps([good, bad, open_ended, good] + [bad] * 30))
    with pytest.raises(DataError) as caught:
        load_conversations(path)
    lines = str(caught.value).split("\n  ")
    assert lines[0] == f"{path}: 32 of 34 records can't be used:"
    assert lines[1].startswith(f"{path}[1]: message 1 (assistant) is empty")
    assert lines[2].startswith(f"{path}[2]: the last message is from the user")
    assert lines[3].startswith(f"{path}[4]: ")
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "and 12 more"


# Lazy


def test_records_are_read_when_they_are_asked_for(folder):
    conversations = open_conversations(folder / "xcomposer2.json")
    assert len(conversations) == 3
    assert list(conversations) == [conversations[0], *conversations[1:]]
    assert conversations[-1].source == f"{folder / 'xcomposer2.json'}[2]"
    assert pickle.loads(pickle.dumps(conversations))[1] == conversations[np.int64(1)]
    (folder / "images" / "red.png").unlink()
    with pytest.raises(ImageMissing, match=r"xcomposer2.json\[0\]: there is no image"):
        conversations[0]
    with pytest.raises(IndexError):
        conversations[3]


def test_damaged_line_is_one_bad_record(tmp_path):
    path = written(tmp_path, '{"conversations": [["Q", "A"]]}\n{"conversations": }\n{"conversations": [["Q", "B"]]}')
    conversations = open_conversations(path)
    assert conversations[2].messages[1].text == "B"
    with pytest.raises(DataError, match=r"train.json: 1 of 3 records .*\n  .*not valid JSON at line 2, column 19"):
        load_conversations(path)


def test_oddities_are_counted_once(tmp_path):
    path = written(tmp_path, "{'conversations': [['Q', 'A']]}\n" * 3)
    conversations = load_conversations(path)
    assert len(list(conversations)) == 3
    (note,) = conversations.notes
    assert (note.count, note.example) == (3, f"{path}[0]")
    assert not open_conversations(path).notes


def test_a_misspelt_key_is_no_text_sample():
    refused(
        {"conversations": turns("Q", "A"), "Image": "a.png"}, 'there is a key "Image" but no "image"; correct it, or'
    )
    assert to_conversation({"conversations": turns("Q", "A"), "Image": ""}, "r").images == ()


def test_images_are_named_as_other_programs_name_them(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    shutil.copy(folder / "images" / "red.png", folder / "images" / "a b.png")
    for name in (f"file://{folder}/images/a%20b.png", r"images\a b.png", "~/images/a b.png"):
        conversation = to_conversation({"image": name, "conversations": turns("Q", "A")}, "r", image_folder=folder)
        assert conversation.images[0].samefile(folder / "images" / "a b.png")
    conversation = to_conversation({"image": "a b.png", "conversations": turns("Q", "A")}, "r", image_folder="~/images")
    assert conversation.images == (folder / "images" / "a b.png",)
    refused({"image": "file:///none.png", "conversations": turns("Q", "A")}, 'there is no image "file:///none.png"; c')


def test_boxes_in_pixels_are_of_the_image(folder):
    turns = [{"role": "user", "content": "<image>Find <ref-object>"}, {"role": "assistant", "content": "<bbox>"}]
    record = {"messages": turns, "images": ["images/red.png"], "objects": {"ref": ["it"], "bbox": [[0, 1, 2, 2]]}}
    conversation = to_conversation(record, "r", base_folder=folder)
    assert [message.text for message in conversation.messages] == ["Find it", "[(0,500),(1000,1000)]"]
    (folder / "images" / "red.png").write_text("damaged")
    with pytest.raises(DataError, match="r: .*red.png: this is not an image"):
        to_conversation(record, "r", base_folder=folder)

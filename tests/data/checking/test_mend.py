"""What --fix changes, and what it leaves alone."""

import copy
import json
import random
import shutil

import pytest
from PIL import Image

from paddle_xc2.data.checking.check import open_sources
from paddle_xc2.data.checking.mend import mend_record, write_mended
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.records.conversations import to_conversation
from paddle_xc2.data.records.record_files import RecordFile
from tests.data.test_mutated_records import FORMATS, mutated
from tests.kills import killed_everywhere


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / "red.png")
    return tmp_path


TURNS = [{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}]


def record(**others):
    return {"conversations": copy.deepcopy(TURNS), **others}


@pytest.mark.parametrize(
    "given, mended, changes",
    [
        (record(imgae=["a.png"]), record(image=["a.png"]), ['key "imgae" is written "image"']),
        (record(Image=["a.png"], image=None), record(image=["a.png"]), ['key "Image" is written "image"']),
        ({"conversatons": TURNS}, record(), ['key "conversatons" is written "conversations"']),
        (record(image="a.png"), record(image=["a.png"]), ['"image" is written as a list of one path']),
        (record(image=""), record(), ['"image", which names none, is removed']),
        (
            record(image=["a"], images=["a"]),
            record(image=["a"]),
            ['"images", which says the same as "image", is removed'],
        ),
        (record(id=7), record(id="7"), ['"id" is written "7"']),
        (
            record(image=[" images/red.png ", "images\\red.png"]),
            record(image=["images/red.png", "images/red.png"]),
            ['" images/red.png " is written "images/red.png"', '"images\\red.png" is written "images/red.png"'],
        ),
        (
            {"conversations": [{"form": "user", "vlaue": "Q"}, {"from": "asistant", "value": "A"}]},
            record(),
            [
                *('message 0: key "form" is written "from"', 'message 0: key "vlaue" is written "value"'),
                'message 1: "asistant" is written "assistant"',
            ],
        ),
    ],
)  # fmt: skip
def test_what_is_mended(folder, given, mended, changes):
    before = copy.deepcopy(given)
    found, told = mend_record(given, [folder])
    assert found == mended and [change for _, change in told] == changes
    assert given == before
    assert mend_record(found, [folder]) == (found, [])  # there is nothing left to mend


@pytest.mark.parametrize(
    "given",
    [
        record(image=["images/red.png"], id="7"),
        record(imgae="a.png", iamge="b.png"),  # which of them?
        record(image=["a.png", "http://a/b.png", "", 3, "a\0b"], images=["c.png"]),
        record(imageId="7"),
        {"conversations": [{"from": "robot", "value": "Q"}, "text", {"from": 3}]},
        {"conversations": [["Q", "A"]], "image": ["a.png"]},
        {"conversations": "text"},
        [1],
        None,
    ],
)
def test_what_is_left_alone(folder, given):
    assert mend_record(given, [folder]) == (given, [])


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_file_that_was_no_json(folder, suffix):
    source = folder / "train.json"
    source.write_text("# ours\n" + str([record(id="1", image="images/red.png"), record(id="2")]), encoding="utf-8-sig")
    before = source.read_bytes()
    ((opened,), _) = open_sources([(source, None)])
    out, changes = folder / f"mended{suffix}", folder / "changes.txt"
    mended = write_mended(opened, out, changes)
    text = out.read_text()
    values = json.loads(text) if suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    assert values == [record(id="1", image=["images/red.png"]), record(id="2")]
    assert source.read_bytes() == before
    told = changes.read_text().splitlines()
    assert len(told) == mended.num_changes == sum(count for count, _ in mended.kinds.values())
    assert f'{source}[0]: "image" is written as a list of one path' in told
    assert any("not JSON (single quotes" in line for line in told)
    assert sorted(path.name for path in folder.iterdir()) == ["changes.txt", "images", out.name, "train.json"]


def test_half_a_surrogate_pair_is_kept(folder):
    (folder / "train.json").write_text('[{"id": "1", "conversations": [["\\ud800", "好"]]}]')
    ((opened,), _) = open_sources([(folder / "train.json", None)])
    write_mended(opened, folder / "out.json", folder / "changes.txt")
    assert json.loads((folder / "out.json").read_text()) == [{"id": "1", "conversations": [["\ud800", "好"]]}]


def test_nothing_is_overwritten_and_nothing_half_written(folder):
    (folder / "train.jsonl").write_text(json.dumps(record()) + "\n{]\n")
    ((opened,), _) = open_sources([(folder / "train.jsonl", None)])
    with pytest.raises(ValueError, match="train.jsonl: this is not valid JSON at line 2"):
        write_mended(opened, folder / "out.json", folder / "changes.txt")
    assert sorted(path.name for path in folder.iterdir()) == ["images", "train.jsonl"]
    (folder / "changes.txt").write_text("mine")
    (folder / "train.jsonl").write_text(json.dumps(record()) + "\n")
    ((opened,), _) = open_sources([(folder / "train.jsonl", None)])
    with pytest.raises(ValueError, match="--fix: .*changes.txt exists; remove it, or give another name"):
        write_mended(opened, folder / "out.json", folder / "changes.txt")


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_killed_at_every_operation(folder, tmp_path, suffix):
    """Given again, it succeeds, and nothing else is left."""
    (folder / "train.json").write_text(json.dumps([record(image="images/red.png")] * 2))
    ((opened,), _) = open_sources([(folder / "train.json", None)])
    place, places = tmp_path / "out", []

    def prepare():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()

    def work():
        write_mended(opened, place / f"out{suffix}", place / "changes.txt")

    prepare()
    work()
    expected = {path.name: path.read_bytes() for path in place.iterdir()}
    for killed in killed_everywhere(place, prepare, work):
        places.append(killed)
        work()
        assert {path.name: path.read_bytes() for path in place.iterdir()} == expected, killed
    assert len(places) >= 10


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.name)
def test_what_could_be_used_stays_the_same(path, folder, monkeypatch):
    monkeypatch.setenv("PADDLE_XC2_CACHE", str(folder / "cache"))
    (folder / "images" / "blue.png").write_bytes((folder / "images" / "red.png").read_bytes())
    chance, originals, num_usable = random.Random(path.name), list(RecordFile(path)), 0
    for record in originals + [mutated(chance.choice(originals), chance) for _ in range(100)]:
        mended, _ = mend_record(record, [folder])
        assert mend_record(mended, [folder]) == (mended, [])
        try:
            conversation = to_conversation(record, "r", image_folder=folder)
        except DataError:
            continue
        assert to_conversation(mended, "r", image_folder=folder) == conversation
        num_usable += 1
    assert num_usable > len(originals)

import base64
import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from paddle_xc2.data.checking import rewrite as conversion
from paddle_xc2.data.checking.rewrite import OTHER_KEY, convert_data
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.records.conversations import load_conversations
from paddle_xc2.data.records.writers import DIALECTS, UNLABELLED
from tests.kills import killed_everywhere

FORMATS = Path(__file__).parent.parent / "formats"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """`data/` with the sample files and their images, `out/`; the working directory is a third one."""
    shutil.copytree(FORMATS, tmp_path / "data")
    for name in ("data/images", "out", "elsewhere"):
        (tmp_path / name).mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (2, 2), colour).save(tmp_path / "data" / "images" / f"{colour}.png")
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def samples_of(path, **options):
    return [
        (sample.messages, [image.resolve() for image in sample.images])
        for sample in load_conversations(path, **options)
    ]


def written(path, records):
    path.write_text(json.dumps(records))
    return path


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_sample_files_of_every_format_in_one(folder, suffix):
    sources = sorted((folder / "data").glob("*.json*"))
    out = folder / "out" / f"all.{suffix}"
    report = convert_data(sources, out, "xcomposer2")
    assert report.num_records == 25 and report.num_images == sum(len(images) for _, images in samples_of(out))
    want = [sample for source in sources for sample in samples_of(source)]
    found = samples_of(out)
    assert [images for _, images in found] == [images for _, images in want]
    same = [one[0] == other[0] for one, other in zip(found, want, strict=True)]
    placed = sum(note.count for note in report.notes if note.kind.startswith("image without a place"))
    assert same.count(False) == placed == 11
    assert out.read_text().startswith("[\n{" if suffix == "json" else "{")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_there_and_back_from_every_sample_file(folder, dialect):
    """What can be said in both is the same afterwards, whichever way the images were named."""
    for source in sorted((folder / "data").glob("*.json*")):
        try:
            convert_data([source], folder / "out" / "there.jsonl", dialect, overwrite=True)
        except DataError as error:
            assert f"can't be written as {dialect}; nothing is written" in str(error)
            continue
        there = samples_of(folder / "out" / "there.jsonl")
        convert_data([folder / "out" / "there.jsonl"], folder / "data" / "back.json", "xcomposer2d5", overwrite=True)
        assert samples_of(folder / "data" / "back.json") == there
        (folder / "data" / "back.json").unlink()


@pytest.mark.parametrize("text", ["<image>\nQ", "<image>Q", "<image>\n\nQ", "Q <image>", "<image>\n<image>\nQ"])
def test_messages_stay_as_they_are(folder, text):
    """Other programs see each line break that stands beside a picture."""
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "A"}]
    record = {"id": "1", "messages": turns, "images": ["images/red.png"] * text.count("<image>")}
    source = written(folder / "data" / "a.json", [record])
    report = convert_data([source], folder / "data" / "b.json", "messages")
    assert json.loads((folder / "data" / "b.json").read_text()) == [record]
    assert {note.kind for note in report.notes} <= {UNLABELLED}


@pytest.mark.parametrize("question", ["<img>images/red.png</img>Q", "Picture 1: <img>images/red.png</img>\nQ"])
def test_tags_stay_where_they_are(folder, question):
    turns = [{"from": "user", "value": question}, {"from": "assistant", "value": "A"}]
    source = written(folder / "data" / "a.json", [{"id": "1", "conversations": turns}])
    convert_data([source], folder / "data" / "b.json", "qwen-vl")
    assert json.loads((folder / "data" / "b.json").read_text()) == [{"id": "1", "conversations": turns}]


def test_ids_and_other_keys(folder):
    turns = [["Q", "A"]]
    records = [{"id": 33471, "conversations": turns, "score": 1}, {"id": "x", "conversations": turns, "width": 9}]
    source = written(folder / "data" / "a.json", [*records, {"id": [1], "conversations": turns, "score": 2}])
    report = convert_data([source], folder / "out" / "a.json", "messages")
    assert [record["id"] for record in json.loads((folder / "out" / "a.json").read_text())] == ["33471", "x", "2"]
    assert [str(note) for note in report.notes] == [
        f'2 x key "score" of records, which is not read (first: {source}[0])',
        f'1 x {OTHER_KEY} (first: {source}[1]: "width")',
    ]


def test_places_of_images(folder):
    red = folder / "data" / "images" / "red.png"
    shutil.copy(red, folder / "elsewhere" / "here.png")
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    inline = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    images = ["./images/red.png", str(red), "here.png", "https://example.org/a.png", inline]
    record = {"image": images, "conversations": [["<ImageHere>" * len(images), "A"]]}
    source = written(folder / "data" / "a.json", [record])
    convert_data([source], folder / "out" / "a.json", "xcomposer2")
    (found,) = json.loads((folder / "out" / "a.json").read_text())
    assert found["image"] == ["../data/images/red.png", str(red), "../elsewhere/here.png", images[3], inline]
    record["image"] = ["red.png", str(red), "red.png", *images[3:]]
    written(source, [record])
    convert_data([source], folder / "out" / "b.json", "xcomposer2", image_folder=folder / "data" / "images")
    (found,) = json.loads((folder / "out" / "b.json").read_text())
    assert found["image"] == record["image"]


def test_across_a_link_the_path_is_absolute(folder):
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "linked").symlink_to(folder / "deep" / "er")
    source = written(folder / "data" / "a.json", [{"image": "images/red.png", "conversations": [["Q", "A"]]}])
    convert_data([source], folder / "linked" / "a.json", "chatml")
    assert samples_of(folder / "linked" / "a.json")[0][1] == [folder / "data" / "images" / "red.png"]


def test_bad_records_are_listed_and_nothing_is_written(folder):
    system = {
        "conversations": [
            {"from": "system", "value": "S"},
            *[{"from": "user", "value": "Q"}, {"from": "bot", "value": "A"}],
        ]
    }
    good, missing = {"conversations": [["Q", "A"]]}, {"image": "gone.png", "conversations": [["Q", "A"]]}
    source = written(
        folder / "data" / "a.json", [good, system, missing, {"conversations": [["Q", ""]]}] + [system] * 30
    )
    out = folder / "out" / "a.json"
    out.write_text("kept")
    with pytest.raises(DataError) as caught:
        convert_data([source], out, "chatml", overwrite=True)
    lines = str(caught.value).split("\n  ")
    assert lines[0] == "33 of 34 records can't be written as chatml; nothing is written:"
    assert lines[1] == f"{source}[1]: chatml has no system turn; remove it, or choose another format"
    assert lines[2].startswith(f'{source}[2]: there is no image "gone.png"')
    assert lines[3].startswith(f"{source}[3]: message 1 (assistant) is empty")
    assert len(lines) == 22 and lines[-1] == "and 13 more"
    assert [path.name for path in (folder / "out").iterdir()] == ["a.json"] and out.read_text() == "kept"


def test_an_interruption_leaves_nothing(folder, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "write_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_data([folder / "data" / "llava.jsonl"], folder / "out" / "a.json", "chatml")
    assert list((folder / "out").iterdir()) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_killed_at_every_operation(folder, overwrite):
    """Given again, it succeeds, and nothing else is left."""
    out, places = folder / "out", []

    def prepare():
        shutil.rmtree(out)
        out.mkdir()
        if overwrite:
            (out / "a.jsonl").write_text("an earlier one")

    source = written(folder / "data" / "a.json", [{"conversations": [["Q", "A"]]}] * 2)

    def work():
        convert_data([source], out / "a.jsonl", "chatml", overwrite=overwrite)

    prepare()
    work()
    expected = (out / "a.jsonl").read_bytes()
    for place in killed_everywhere(out, prepare, work):
        places.append(place)
        work()
        assert [path.name for path in out.iterdir()] == ["a.jsonl"] and (out / "a.jsonl").read_bytes() == expected
    assert len(places) >= 6


def test_another_content_is_not_replaced_unasked(folder):
    """Not a longer or a shorter one either."""
    source, out = written(folder / "data" / "a.json", [{"conversations": [["Q", "A"]]}] * 2), folder / "out" / "a.jsonl"
    convert_data([source], out, "chatml")
    whole = out.read_bytes()
    for other in (whole + b"\n", whole[:-1], b""):
        out.write_bytes(other)
        with pytest.raises(ValueError, match="a.jsonl exists; give another name, or --overwrite to replace it"):
            convert_data([source], out, "chatml")
        assert out.read_bytes() == other


def test_half_a_surrogate_pair_in_an_id(folder):
    source = written(folder / "data" / "a.json", [{"id": "\ud800", "conversations": [["é", "A"]]}])
    convert_data([source], folder / "out" / "a.jsonl", "chatml")
    assert json.loads((folder / "out" / "a.jsonl").read_text())["id"] == "\ud800"


def test_destination(folder):
    source = written(folder / "data" / "a.json", [{"conversations": [["Q", "A"]]}])
    for name, error, message in (
        ("out/a.txt", ValueError, r"a.txt: the name must end with .json \(a list\) or .jsonl \(a record a line\)"),
        ("gone/a.json", FileNotFoundError, "gone: there is no such folder; make it first"),
        ("data/a.json", ValueError, "a.json is read from, too; give another name to write to"),
        ("data/llava.jsonl", ValueError, "llava.jsonl exists; give another name, or --overwrite to replace it"),
        ("folder.json", ValueError, "folder.json is a folder; give the name of a file"),
    ):
        (folder / "folder.json").mkdir(exist_ok=True)
        with pytest.raises(error, match=message):
            convert_data([source], folder / name, "llava")
    assert convert_data([source], folder / "data" / "llava.jsonl", "llava", overwrite=True).num_records == 1
    with pytest.raises(FileNotFoundError, match="gone.json: there is no such data file"):
        convert_data([folder / "gone.json"], folder / "out" / "a.json", "llava")

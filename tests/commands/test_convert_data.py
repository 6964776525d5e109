import json

import pytest

from paddle_xc2 import cli
from paddle_xc2.data.records.conversations import load_conversations


def test_converts_and_says_what_was_done(tmp_path, capsys):
    source, more, out = tmp_path / "a.json", tmp_path / "b.jsonl", tmp_path / "c.jsonl"
    source.write_text("[{'conversations': [['Q', 'A']]}]")
    more.write_text(json.dumps({"messages": [{"role": "user", "content": "R"}, {"role": "assistant", "content": "B"}]}))
    assert cli.main(["convert-data", str(source), str(more), str(out), "--to", "llava"]) == 0
    output, errors = capsys.readouterr()
    assert output.startswith("note: 1 x not JSON (single quotes, comments, missing or spare commas)")
    assert output.endswith(f"(first: {source}[0])\n{out} (llava): 2 records, 0 images\n")
    assert "converting: 100%" in errors
    assert [sample.messages[0].text for sample in load_conversations(out)] == ["Q", "R"]
    assert cli.main(["convert-data", str(source), str(out), "--to", "llava", "--disable_tqdm"]) == 2
    output, errors = capsys.readouterr()
    assert errors == f"paddle-xc2 convert-data: {out} exists; give another name, or --overwrite to replace it\n"
    assert cli.main(["convert-data", str(source), str(out), "--to", "chatml", "--overwrite", "--disable_tqdm"]) == 0
    assert json.loads(out.read_text()) == {"id": "0", "conversations": [["Q", "A"]]}


def test_image_folder(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"not opened")
    source, out = tmp_path / "a.json", tmp_path / "b.json"
    source.write_text(json.dumps([{"image": "a.png", "conversations": [["Q", "A"]]}]))
    folder = str(tmp_path / "images")
    for spelling in ("--image_folder", "--image-folder"):
        arguments = [str(source), str(out), "--to", "xcomposer2d5", spelling, folder, "--overwrite"]
        assert cli.main(["convert-data", *arguments]) == 0
        assert json.loads(out.read_text())[0]["image"] == "a.png"
    assert capsys.readouterr().out.endswith(f"{out} (xcomposer2d5): 1 record, 1 image\n")
    assert cli.main(["convert-data", str(source), str(out), "--to", "llava", "--overwrite"]) == 2
    assert 'there is no image "a.png" in' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["b.json", "b.jsonl"])
@pytest.mark.parametrize("num_records", [1, 2000])
def test_a_full_disk(tmp_path, capsys, name, num_records):
    """In the midst of it, or when it is closed."""
    source, out = tmp_path / "a.json", tmp_path / name
    source.write_text(json.dumps([{"conversations": [["Q", "A"]]}] * num_records))
    out.write_text("what was there")
    (tmp_path / f".paddle_xc2-writing-{name}").symlink_to("/dev/full")
    assert cli.main(["convert-data", str(source), str(out), "--to", "llava", "--overwrite", "--disable_tqdm"]) == 1
    message = "No space left on device; make room there, or write to another disk"
    assert capsys.readouterr().err == f"paddle-xc2 convert-data: {out}: {message}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", name]
    assert out.read_text() == "what was there"

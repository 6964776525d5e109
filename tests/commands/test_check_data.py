import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from paddle_xc2.cli import main
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.conftest import ROOT
from tests.golden import Golden
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def model():
    """Configuration and tokenizer; 256 tokens an image."""
    return Golden().directory / "ckpt"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A set in order and one that is not; they are in the working directory."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("red.png")
    good = [
        {"id": "0", "conversations": [["Q", "A"]]},
        {"id": "1", "conversations": [["Q?", "A"]], "image": ["red.png"]},
    ]
    (tmp_path / "good.json").write_text(json.dumps(good))
    bad = [{"conversations": [["Q", "A"]], "imgae": "red.png"}, {"conversations": [["Q", "A"]], "image": "none.png"}]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, bad)))
    return tmp_path


def run(*arguments):
    return main(["check-data", *map(str, arguments), "--disable_tqdm", "--num_workers", "0"])


def test_a_set_in_order(folder, capsys):
    assert run("good.json") == 0
    out, err = capsys.readouterr()
    assert "good.json: 2 records\n\n2 records: 2 can be trained on, 0 can't\n" in out
    assert "characters a record" in out and not err


def test_a_set_that_would_train_wrongly(folder, capsys):
    assert run("good.json", "bad.jsonl") == 1
    out = capsys.readouterr().out
    assert '  misspelt key: 1\n      bad.jsonl[0]: there is a key "imgae" but no "image"' in out
    assert '  image missing: 1\n      bad.jsonl[1]: there is no image "none.png" in' in out
    (folder / "damaged.json").write_text("[{]")
    assert run("good.json", "damaged.json") == 1
    assert "  unreadable file: 1\n      damaged.json: this is not valid JSON at line 1" in capsys.readouterr().out
    assert run("damaged.json", "--fix", "fixed.json") == 1
    assert not (folder / "fixed.json").exists()


def test_with_a_model(folder, model, capsys):
    assert run("good.json", "--from_pretrained", model, "--max_length", 12) == 1
    out = capsys.readouterr().out
    assert "more than max_length 12; raise max_length" in out and "max_length is 12; " in out
    assert run("good.json", "--model_name_or_path", model, "--max_length", 20, "--truncation", "leave_out") == 0
    assert "left out: 1 (too long, and truncation leave_out goes on without them)" in capsys.readouterr().out


def test_the_arguments_of_a_run(folder, model, capsys):
    (folder / "images").mkdir()
    (folder / "red.png").rename("images/red.png")
    arguments = {
        "model_name_or_path": str(model),
        "dataset": {
            "train": [{"name": "a", "data_files": "good.json", "image_folder": "images"}],
            "eval": [{"name": "b", "data_files": ["bad.jsonl"]}],
        },
        "max_length": 400,
        "output_dir": "out",
    }
    (folder / "sft.json").write_text(json.dumps(arguments))
    assert run("sft.json") == 1
    out = capsys.readouterr().out
    assert "good.json: 2 records\nbad.jsonl: 2 records\n" in out and "max_length is 400; 0 records" in out
    assert "4 records: 2 can be trained on, 2 can't" in out
    assert run("sft.json", "--max_length", 12, "--image_folder", ".") == 1
    assert "max_length is 12; " in capsys.readouterr().out
    assert not (folder / "out").exists()


def test_new_tokens_of_a_run(folder, capsys):
    """They are counted as the one token that they are in the run: its own, and those of the adapter it goes on with."""
    model = tiny_checkpoint(folder / "model", num_unused=4)
    (folder / "adapter").mkdir()
    XComposer2Tokenizer.from_pretrained(model).with_new_tokens(["<defect>"]).save_pretrained(folder / "adapter")
    (folder / "new.json").write_text(json.dumps([{"conversations": [["Q", "<defect><scratch>" * 9]]}]))
    arguments = {"model_name_or_path": str(model), "data_path": "new.json", "output_dir": "o", "max_length": 40}
    added = {"lora": True, "lora_path": "adapter", "new_tokens": ["<scratch>"]}
    for keys, status, longer in (({}, 1, 1), (added, 0, 0)):
        (folder / "sft.json").write_text(json.dumps(arguments | keys))
        assert run("sft.json") == status
        assert f"max_length is 40; {longer} record" in capsys.readouterr().out


def test_a_data_list(folder, model, capsys):
    (folder / "data.txt").write_text("# upstream's\ngood.json 0.5\n\nbad.jsonl 2\ngood.json 0.1\n")
    assert run("data.txt") == 1
    assert capsys.readouterr().out.startswith("good.json: 2 records\nbad.jsonl: 2 records\n\n4 records: 2 can be")
    arguments = {"data_path": "data.txt", "model_name_or_path": str(model), "output_dir": "o"}
    (folder / "sft.json").write_text(json.dumps(arguments))
    assert run("sft.json") == 1
    assert "4 records: 2 can be" in capsys.readouterr().out
    (folder / "data.txt").write_text("none.json 1\n")
    assert run("data.txt") == 2
    assert "data.txt: files are missing: none.json (line 1)" in capsys.readouterr().err


def test_json_is_all_that_is_printed(folder, capsys):
    assert run("good.json", "--json", "--report", "r.html", "--fix", "fixed.json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["usable"] == 2
    assert "report: r.html" in err and "good.json -> fixed.json: 2 records, 0 changes" in err
    assert (folder / "r.html").read_text().startswith("<!DOCTYPE html>")


def test_a_set_of_one(folder, model, capsys):
    (folder / "one.json").write_text(json.dumps([{"id": "1", "conversations": [["Q?", "A"]], "image": ["red.png"]}]))
    arguments = ("--from_pretrained", model, "--truncation", "turns")
    assert run("one.json", *arguments, "--max_length", 12, "--report", "r.html", "--fix", "fixed.json") == 1
    out, page = capsys.readouterr().out, (folder / "r.html").read_text()
    assert out.startswith("one.json: 1 record\n\n1 record: 0 can be trained on, 1 can't\n")
    assert "max_length is 12; 1 record is longer\n" in out and "images: records name 1; read whole: 1 file, " in out
    assert "one.json -> fixed.json: 1 record, 0 changes, listed in" in out
    assert "<h1>1 record: 0" in page and "1 record is longer" in page and "<td>1 record</td>" in page
    assert "<p>Records name 1; read whole:" in page and "1 file, " in page


def test_mending(folder, capsys):
    before = (folder / "bad.jsonl").read_bytes()
    assert run("bad.jsonl", "--fix", "fixed.jsonl") == 1
    out = capsys.readouterr().out
    assert "bad.jsonl -> fixed.jsonl: 2 records, 3 changes, listed in fixed.jsonl.changes.txt\n" in out
    assert '  1 misspelt key, as in bad.jsonl[0]: key "imgae" is written "image"\n' in out
    assert "  2 of form alone: what the records say stays the same\n" in out
    assert "\nnext: paddle-xc2 check-data fixed.jsonl\n" in out
    assert (folder / "bad.jsonl").read_bytes() == before
    first, second = map(json.loads, (folder / "fixed.jsonl").read_text().splitlines())
    assert (first["image"], second["image"]) == (["red.png"], ["none.png"])
    (folder / "mended").mkdir()
    assert run("bad.jsonl", "good.json", "--fix", "mended", "--image_folder", ".") == 1
    assert sorted(path.name for path in (folder / "mended").iterdir()) == [
        *("bad.jsonl", "bad.jsonl.changes.txt", "good.json", "good.json.changes.txt"),
    ]  # fmt: skip


def test_what_cant_be_trained_on_is_left_out(folder, model, capsys):
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:-30])
    lines = [*(folder / "bad.jsonl").read_text().splitlines(), "{", "[]", json.dumps({"conversations": [["Q", "A"]]})]
    lines.append(json.dumps({"conversations": [["Q", "A"]], "image": "cut.png"}))
    lines.append(json.dumps({"conversations": [["Q", "A " * 9000]]}))
    (folder / "bad.jsonl").write_text("\n".join(lines))
    assert run("bad.jsonl", "--fix", "fixed.json", "--from_pretrained", model) == 2
    assert "; or add --drop_bad, which leaves out what can't be trained on\n" in capsys.readouterr().err
    assert run("bad.jsonl", "--fix", "fixed.json", "--drop_bad", "--from_pretrained", model) == 1
    out = capsys.readouterr().out
    assert (
        "bad.jsonl -> fixed.json: 2 records, 2 changes, 5 records left out, listed in fixed.json.changes.txt\n" in out
    )
    assert "\nnext: paddle-xc2 finetune YOUR_ARGUMENTS.json --data_path fixed.json\n" in out
    told = (folder / "fixed.json.changes.txt").read_text().splitlines()
    dropped = [line for line in told if ": left out: " in line]
    assert [line.split(": ")[0] for line in dropped] == [f"bad.jsonl[{index}]" for index in (1, 2, 3, 5, 6)]
    assert dropped[0].startswith('bad.jsonl[1]: left out: there is no image "none.png"')
    assert "this is not valid JSON at line 3" in dropped[1] and "more than max_length" in dropped[4]
    assert run("fixed.json", "--from_pretrained", model) == 0
    assert "2 records: 2 can be trained on, 0 can't" in capsys.readouterr().out
    arguments = ["--from_pretrained", model, "--truncation", "leave_out", "--image_folder", "."]
    assert run("bad.jsonl", "--fix", "longer.jsonl", "--drop_bad", *arguments) == 1
    assert "3 records, 2 changes, 4 records left out" in capsys.readouterr().out
    assert run("bad.jsonl", "--drop_bad") == 2
    assert "--drop_bad says what --fix writes; give --fix OUT too" in capsys.readouterr().err
    (folder / "run.json").write_text(json.dumps({"data_path": "good.json", "output_dir": "o"}))
    assert run("run.json", "--from_pretrained", model, "--fix", "again.json") == 0
    assert "next: name again.json as data in run.json, then: paddle-xc2 finetune run.json\n" in capsys.readouterr().out


@pytest.mark.parametrize("num_records", [1, 2000])
@pytest.mark.parametrize(
    "option, name, full",
    [("--report", "r.html", "r.html"), ("--fix", "b.json", "b.json"), ("--fix", "b.json", "b.json.changes.txt")],
)
def test_a_full_disk(folder, capsys, option, name, full, num_records):
    (folder / "a.json").write_text(json.dumps([{"id": 1, "conversations": [["Q", "A"]]}] * num_records))
    before = set(folder.iterdir())
    (folder / f".paddle_xc2-writing-{full}").symlink_to("/dev/full")
    assert run("a.json", option, name) == 1
    message = "No space left on device; make room there, or write to another disk"
    assert capsys.readouterr().err == f"paddle-xc2 check-data: {full}: {message}\n"
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none.json"], "none.json: there is no such data file; correct the path"),
        (["good.json", "--max_length", "9"], "--max_length is in tokens of a model; name it by --model_name_or_path"),
        (["good.json", "--max_length", "0"], "--max_length is 0, but must be 1 or more"),
        (["good.json", "--report", "good.json"], "--report good.json: the report is a page; give a name that"),
        (["good.json", "--report", "notes.html"], "--report notes.html: there is another file, no report; remove"),
        (["good.json", "--report", "a/r.html"], "--report a/r.html: there is no folder a; make it first"),
        (["good.json", "--image_folder", "a"], "--image_folder a: there is no such folder"),
        (["good.json", "--fix", "good.json"], "--fix: good.json exists; remove it, or give another name"),
        (["good.json", "--fix", "a.txt"], "--fix a.txt: give a name that ends in .json or .jsonl, or a folder"),
        (["good.json", "--fix", "a/b.json"], "--fix a/b.json: there is no folder a; make it first"),
        (["good.json", "bad.jsonl", "--fix", "a"], "--fix a: several files are mended into a folder, and there"),
        (["good.json", "./good.json", "--fix", "sub"], "--fix sub: two of the files would be written to sub/good.json"),
        (["good.json", "--fix", "sub"], "--fix sub/good.json: its relative image paths would no longer start from"),
        (["run.json", "good.json"], "run.json is the argument file of a run; check it alone, or give its data files"),
        (["misspelt.json"], 'misspelt.json: unknown argument "max_lenght"; did you mean "max_length"?'),
    ],
)  # fmt: skip
def test_wrong_arguments(folder, capsys, arguments, message):
    (folder / "sub").mkdir()
    (folder / "notes.html").write_text("<title>my notes</title>")
    (folder / "run.json").write_text('{"model_name_or_path": "m", "output_dir": "o", "do_train": false}')
    (folder / "misspelt.json").write_text('{"data_path": "good.json", "max_lenght": 5}')
    assert run(*arguments) == 2
    assert capsys.readouterr().err.startswith(f"paddle-xc2 check-data: {message}")
    assert (folder / "notes.html").read_text() == "<title>my notes</title>"


def test_a_report_replaces_a_report(folder):
    for name in ("good.json", "bad.jsonl"):
        run(name, "--report", "r.html")
        assert name in (folder / "r.html").read_text()


def test_ctrl_c_ends_the_workers(folder):
    record = json.dumps({"conversations": [["Q " * 500, "A " * 500]]})
    (folder / "many.jsonl").write_text(f"{record}\n" * 120_000)
    command = [sys.executable, str(ROOT / "tools/check_data.py"), "many.jsonl", "--num_workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    while b"%" not in (seen := process.stderr.read1()):
        assert seen, "it ended before its progress bar"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.endswith(b"paddle-xc2 check-data: stopped by Ctrl-C\n") and b"Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of its group is left


def test_a_table(folder, capsys):
    (folder / "photos").mkdir()
    (folder / "red.png").rename(folder / "photos" / "red.png")
    (folder / "faq.csv").write_text("photo,q,reply\nred.png,What colour?,Red.\nred.png,And now?,Red.\n")
    assert run("faq.csv") == 1
    assert (
        "faq.csv: which column holds the answer? the columns are photo, q, reply; say it by" in capsys.readouterr().out
    )
    assert run("faq.csv", "--columns", "answer=reply") == 1
    out = capsys.readouterr().out
    assert "      -> 1 of the 1 looked for are in photos: set image_folder to it (--image_folder photos)\n" in out
    arguments = ["--columns", "answer=reply", "--image_folder", "photos"]
    assert run("faq.csv", *arguments, "--fix", "faq.json") == 0
    out = capsys.readouterr().out
    assert "2 records: 2 can be trained on, 0 can't" in out
    assert "1 x table with the columns image = photo, question = q, answer = reply (first: faq.csv)\n" in out
    assert json.loads((folder / "faq.json").read_text())[0]["image"] == ["red.png"]
    assert main(["convert-data", "faq.csv", "faq.jsonl", "--to", "llava", *arguments, "--disable_tqdm"]) == 0
    assert json.loads((folder / "faq.jsonl").read_text().splitlines()[1])["conversations"][0] == {
        "from": "human",
        "value": "<image>\nAnd now?",
    }
    assert run("good.json", *arguments) == 2
    assert "--columns is of CSV and TSV files, and there is none" in capsys.readouterr().err
    (folder / "book.xlsx").write_bytes(b"PK\3\4...")
    assert run("book.xlsx") == 1
    assert "book.xlsx: this is an Excel workbook, or an archive, which is not read; save the" in capsys.readouterr().out
    (folder / "out").mkdir()
    assert run("faq.csv", *arguments, "--fix", "out") == 0
    assert (folder / "out" / "faq.csv.json").is_file()

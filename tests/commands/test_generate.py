import json

import pytest

from paddle_xc2.cli import main
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_checkpoint(tmp_path_factory.mktemp("model")))


def write(path, *answers):
    turns = [{"from": "user", "value": "What?"}]
    records = [{"conversations": turns + [{"from": "assistant", "value": text}] * (text != "")} for text in answers]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_answers_equal_ones_and_bad_records_are_told(tmp_path, model, capsys):
    command = ["generate", write(tmp_path / "in.jsonl", ""), str(tmp_path / "out.jsonl"), "--from_pretrained", model]
    command += ["--greedy", "--max_new_tokens", "4", "--disable_tqdm"]
    assert main(command) == 0
    answer = json.loads((tmp_path / "out.jsonl").read_text())["answer"]
    assert answer.strip()
    command[1] = write(tmp_path / "more.jsonl", answer, "Something else.", "")
    with open(command[1], "a") as file:
        file.write('{"image": "x.png"}\n')
    capsys.readouterr()
    assert main([*command, "--overwrite", "--compare"]) == 0
    shown = capsys.readouterr()
    assert "out.jsonl: 4 records; 12 tokens in" in shown.out
    assert "1 of 2 answers equal the given one (50.0%)" in shown.out
    assert "1 record could not be answered, and hold an error in place of an answer:\n  " in shown.err
    assert "more.jsonl[3]" in shown.err
    assert [sorted(json.loads(line)) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        ["answer", "finish", "given", "index", "question", "tokens"],
        ["answer", "finish", "given", "index", "question", "tokens"],
        ["answer", "finish", "index", "question", "tokens"],
        ["error", "index"],
    ]


def test_mistakes_are_told_before_the_model_is_loaded(tmp_path, capsys):
    there = write(tmp_path / "in.jsonl", "")
    for words, message in (
        ((str(tmp_path / "none.jsonl"),), "none.jsonl: there is no such data file"),
        ((there, "--temperature", "0"), "temperature is 0.0, but must be above 0"),
        ((there, "--max_batch_size", "0"), "max_batch_size is 0, but must be at least 1"),
    ):
        command = ["generate", words[0], "out.jsonl", *words[1:], "--from_pretrained", str(tmp_path / "no_model")]
        assert main(command) == 2
        assert message in capsys.readouterr().err
    command = ["generate", write(tmp_path / "bad.jsonl"), "out.jsonl", "--from_pretrained", str(tmp_path / "no_model")]
    assert main(command) == 2

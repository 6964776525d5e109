import json

import pytest

from paddle_xc2.training.run_folder.predictions import (
    TABLE_FILE,
    check_none_in_the_way,
    delete_predictions,
    write_predictions,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(tmp_path):
    """Our predictions after steps 2 and 4, and others' files."""
    for step in (2, 4):
        write_predictions(tmp_path, step, [{"index": 0, "answer": "一"}])
    (tmp_path / "predictions-99.jsonl").write_text("mine")
    (tmp_path / "predictions-best.jsonl").write_text("mine")
    return tmp_path


def test_what_is_written(out):
    assert json.loads((out / "predictions-2.jsonl").read_text()) == {"answer": "一"}


def test_only_ours_are_deleted(out):
    (out / "predictions-4.jsonl").write_text("changed")
    write_predictions(out, 5, [])
    delete_predictions(out, 1)
    assert names(out) == [TABLE_FILE, "predictions-4.jsonl", "predictions-99.jsonl", "predictions-best.jsonl"]
    assert list(json.loads((out / TABLE_FILE).read_text())) == ["predictions-4.jsonl"]


def test_others_are_in_the_way(out):
    check_none_in_the_way(out, 0, 98)
    with pytest.raises(ValueError, match="holds predictions-99.jsonl, not written by paddle-xc2 or changed since"):
        check_none_in_the_way(out, 0, 99)
    (out / TABLE_FILE).write_text('["damaged"]')
    with pytest.raises(ValueError, match="holds predictions-2.jsonl, predictions-4.jsonl, not written"):
        check_none_in_the_way(out, 0, 98)
    delete_predictions(out, 0)
    assert "predictions-2.jsonl" in names(out)

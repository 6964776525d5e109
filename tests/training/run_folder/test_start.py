import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paddle_xc2.checkpoint.whole_directory import whole_directory
from paddle_xc2.files.replacement import JOURNAL, replace_files
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.run_folder.checkpoints import check_whole, save_checkpoint
from paddle_xc2.training.run_folder.predictions import write_predictions
from paddle_xc2.training.run_folder.start import (
    PICTURES,
    RUN_FILE,
    StartingPoint,
    begin_run_folder,
    check_none_in_the_way,
    check_settings_match,
    choose_start,
    held,
)
from tests.training.run_folder.test_checkpoints import write_file

SETTINGS = {"learning_rate": 0.001, "training data": "ab12"}


@pytest.fixture
def choose(tmp_path):
    """Chooses where a run into tmp_path/out begins."""

    def with_arguments(**values):
        return choose_start(FinetuneArguments("model", output_dir=str(tmp_path / "out"), **values))

    return with_arguments


@pytest.fixture
def ours(tmp_path):
    """Makes tmp_path/out ours, with whole checkpoints after the given steps."""

    def make(*steps, started=5):
        out = tmp_path / "out"
        begin_run_folder(out, {"paddle_xc2": "0.1.0"})
        for step in steps:
            save_checkpoint(out, step, write_file("x"), {"started": started, "course": SETTINGS})
        return out

    return make


def test_new_and_empty_folders(choose, tmp_path):
    first = choose()
    assert (first.checkpoint, first.step, first.settings, first.notes) == (None, 0, {}, ())
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert choose().checkpoint is None and choose().started > first.started


def test_evaluation_alone_needs_no_folder():
    assert choose_start(FinetuneArguments(do_train=False, do_eval=True)).checkpoint is None


@pytest.mark.parametrize("name", ["notes.txt", RUN_FILE])
def test_somebody_elses_folder(choose, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"other": 1}')
    with pytest.raises(ValueError, match="is not empty, and what it holds was not written by paddle-xc2 finetune"):
        choose(overwrite_output_dir=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_file_in_the_way(choose, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="out is a file; give a folder"):
        choose()


def test_killed_before_anything_was_written(choose, tmp_path):
    """The folder is there, with nothing but what was about to be renamed."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".paddle_xc2-writing-{RUN_FILE}").write_text("{")
    assert choose().checkpoint is None


def test_two_runs_in_one_folder(ours):
    arguments = FinetuneArguments("model", output_dir=str(ours(3)))
    with held(arguments):
        with ThreadPoolExecutor() as pool, pytest.raises(ValueError, match=rf"\(process {os.getpid()} on .*, since"):
            pool.submit(held(arguments).__enter__).result()
        with whole_directory(arguments.output_dir, overwrite=True) as partial:  # of the run itself
            (partial / "config.json").write_text("{}")
    assert not list(Path(arguments.output_dir).parent.glob(".*"))


def test_killed_in_the_midst_of_a_replacement(ours, monkeypatch):
    """Of a checkpoint that was damaged, and of the model."""
    out = ours(3, 6)
    with monkeypatch.context() as patch:
        patch.setattr("paddle_xc2.training.run_folder.checkpoints.replace_files", lambda *args: interrupt(args))
        interrupt = _interrupted_after_the_journal(patch)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(out, 6, write_file("y"), {"started": 5, "course": SETTINGS})
    assert (out / ".paddle_xc2-writing-checkpoint-6" / JOURNAL).exists()
    with held(FinetuneArguments("model", output_dir=str(out))):
        assert (out / "checkpoint-6" / "a").read_text() == "y"
    check_whole(out / "checkpoint-6")
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint-3", "checkpoint-6", RUN_FILE]


def _interrupted_after_the_journal(patch):
    def stop(*args):
        raise KeyboardInterrupt

    def replace(args):
        patch.setattr("paddle_xc2.files.replacement.finish", stop)
        replace_files(*args)

    return replace


def test_what_is_not_ours_stands_in_the_way(ours, tmp_path):
    out, model = ours(), tmp_path / "model"
    model.mkdir()
    (model / "README.md").write_text("the model's")
    start = StartingPoint(None, 0, {}, 5)
    arguments = FinetuneArguments("model", output_dir=str(out), save_generation_output=True)
    check_none_in_the_way(arguments, start, 10, model)
    write_predictions(out, 4, [])
    check_none_in_the_way(arguments, start, 10, model)
    for path, told in (
        ("checkpoint-7/weights", "holds checkpoint-7 without a sound checkpoint.json: not written by"),
        ("predictions-9.jsonl", "holds predictions-9.jsonl, not written by paddle-xc2 or changed since"),
        ("README.md", "README.md: not written by paddle_xc2, or changed since; move that away"),
    ):
        (out / path).parent.mkdir(exist_ok=True)
        (out / path).write_text("mine")
        with pytest.raises(ValueError, match=told):
            check_none_in_the_way(arguments, start, 10, model)
        (out / path).unlink()
    (out / "predictions-99.jsonl").write_text("beyond the last step")
    check_none_in_the_way(arguments, start, 10, model)


def test_model_in_the_way(tmp_path):
    with pytest.raises(ValueError, match="is the folder of the model to start from"):
        choose_start(FinetuneArguments(str(tmp_path), output_dir=f"{tmp_path}/"))


def test_adapter_in_the_way(choose, ours):
    out = ours()
    with pytest.raises(ValueError, match="is the folder of the adapter to start from"):
        choose(lora=True, lora_path=str(out), overwrite_output_dir=True)


def test_file_above_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file/a/b can't be made, .*/file is a file; give another folder"):
        choose_start(FinetuneArguments("model", output_dir=str(tmp_path / "file" / "a" / "b")))


def test_goes_on_by_default(choose, ours):
    out = ours(3, 6)
    start = choose()
    assert (start.checkpoint, start.step, start.settings, start.started) == (out / "checkpoint-6", 6, SETTINGS, 5)
    assert choose(resume_from_checkpoint="auto", overwrite_output_dir=True).step == 6


def test_passes_over_what_is_damaged(choose, ours):
    out = ours(3, 6)
    (out / "checkpoint-6" / "a").write_text("y")
    start = choose()
    assert start.step == 3
    assert start.notes == (f"passed over: {out}/checkpoint-6: a has changed (its SHA-256 is another)",)


def test_starts_again(choose, ours):
    out = ours(3)
    for values in ({"overwrite_output_dir": True}, {"resume_from_checkpoint": False}):
        start = choose(**values)
        assert start.checkpoint is None and start.started != 5
        assert start.notes[0].startswith(f"{out} holds checkpoint-3 of an earlier run, which the first new checkpoint")


def test_chosen_checkpoint(choose, ours, tmp_path):
    out = ours(3, 6)
    assert choose(resume_from_checkpoint=str(out / "checkpoint-3")).step == 3
    (out / "checkpoint-3" / "a").unlink()
    with pytest.raises(ValueError, match="checkpoint-3: a is missing"):
        choose(resume_from_checkpoint=str(out / "checkpoint-3"))
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such checkpoint"):
        choose(resume_from_checkpoint=str(tmp_path / "nowhere"))


def test_interrupted_before_the_first_checkpoint(choose, ours):
    ours()
    assert choose().checkpoint is None


def test_finished_run_without_checkpoints(choose, ours):
    (ours() / "config.json").write_text("{}")
    with pytest.raises(ValueError, match='holds a finished run without a checkpoint .* "overwrite_output_dir": true'):
        choose()
    assert choose(overwrite_output_dir=True).checkpoint is None
    assert choose(resume_from_checkpoint="auto").checkpoint is None


def test_changed_settings(tmp_path):
    start = StartingPoint(tmp_path / "checkpoint-3", 3, SETTINGS, 5)
    check_settings_match(start, dict(SETTINGS))
    with pytest.raises(ValueError) as caught:
        check_settings_match(start, {"learning_rate": 0.002, "training data": "cd34", "seed": 1})
    assert str(caught.value) == (
        f"{tmp_path}/checkpoint-3: training can't go on from here as it would have: learning_rate was 0.001 and is "
        "0.002; training data was ab12 and is cd34; seed was 42 and is 1; set that back, or start again with "
        '"resume_from_checkpoint": false or "overwrite_output_dir": true'
    )
    check_settings_match(start, {**SETTINGS, "seed": 42})  # a key that the checkpoint's version did not have
    check_settings_match(StartingPoint(None, 0, {}, 5), {"seed": 1})
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ValueError, match="; .* holds a trained model: to train its model longer, begin a new run"):
        check_settings_match(start, SETTINGS | {"learning_rate": 0.002})


def test_settings_of_an_earlier_version(tmp_path):
    """It told nothing of what is in the pictures."""
    start = StartingPoint(tmp_path / "checkpoint-3", 3, SETTINGS, 5)
    check_settings_match(start, SETTINGS | {PICTURES: "ab"})
    with pytest.raises(ValueError, match=f"{PICTURES} was cd and is ab"):
        check_settings_match(
            StartingPoint(tmp_path / "checkpoint-3", 3, SETTINGS | {PICTURES: "cd"}, 5), SETTINGS | {PICTURES: "ab"}
        )


def test_claiming_clears_what_was_left_half_written(tmp_path):
    (tmp_path / ".paddle_xc2-writing-checkpoint-4").mkdir()
    (tmp_path / "mine.txt").write_text("stays")
    (tmp_path / ".writing-mine").mkdir()
    begin_run_folder(tmp_path, {"paddle_xc2": "0.1.0", "arguments": {"learning_rate": 0.1}})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-mine", "mine.txt", RUN_FILE]
    assert json.loads((tmp_path / RUN_FILE).read_text())["arguments"] == {"learning_rate": 0.1}

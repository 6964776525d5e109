"""The README's first command, shortened: a few scans and steps, everything else as it is."""

import json
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from paddle_xc2 import cli
from tests.kills import killed_everywhere

START = (
    "import pathlib, runpy, sys; sys.exit(runpy.run_path(sys.argv[1])['main'](['--short'], pathlib.Path(sys.argv[2])))"
)


def quickstart(root, folder):
    command = [sys.executable, "-c", START, str(root / "examples/quickstart.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=folder)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """(what was printed, the folder with the results)."""
    folder = tmp_path_factory.mktemp("checkout")
    done = quickstart(root, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, folder / "quickstart_output"


def test_result_tells_accuracy_time_and_memory(run):
    result = json.loads((run[1] / "result.json").read_text())
    assert 0 <= result["held_out_accuracy"] <= 1 and result["train_seconds"] > 0 and result["peak_rss_mb"] > 0
    assert 0 <= result["lora_accuracy"] <= 1 and 0 < result["lora_trained_share"] <= 0.05


def test_everything_is_left_in_the_folder(run):
    _, output = run
    for name in ("loss.png", "answers.png"):
        with Image.open(output / name) as image:
            assert min(image.size) > 200
    assert (output / "upstream/model.safetensors").is_file()
    assert json.loads((output / "finetuned/config.json").read_text())["chat_layout"] == "as_trained"
    steps = [json.loads(line)["step"] for line in (output / "finetuned/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_the_command_to_try_next_works(run):
    command = shlex.split(run[0].strip().splitlines()[-1])
    answered = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=run[1].parent)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.endswith("\n")


def test_a_second_run_begins_anew(root, run):
    _, output = run
    (output / "finetuned" / "left_over").touch()
    (output / "letter.txt").touch()
    assert quickstart(root, output.parent).returncode == 0
    assert not (output / "finetuned" / "left_over").exists()
    (output / "letter.txt").unlink()  # it is not ours


def test_beginning_anew_may_be_killed(root, tmp_path, monkeypatch):
    """The next start is not told that the folder is somebody else's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    begin_anew = runpy.run_path(str(root / "examples/quickstart.py"))["begin_anew"]
    output = tmp_path / "quickstart_output"

    def prepare():
        shutil.rmtree(output, ignore_errors=True)
        for name in ("made_by_quickstart", "data/a", "loss.png", "mine"):
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).touch()

    for _ in killed_everywhere(output, prepare, begin_anew):
        begin_anew()
        assert sorted(path.name for path in output.iterdir()) == ["made_by_quickstart", "mine"]
    shutil.rmtree(output)
    for _ in killed_everywhere(output, lambda: shutil.rmtree(output, ignore_errors=True), begin_anew):
        begin_anew()
        assert [path.name for path in output.iterdir()] == ["made_by_quickstart"]


def test_ctrl_c_while_fine_tuning_is_the_end(root, tmp_path, monkeypatch):
    """The command itself ends with 0 then, without a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    fine_tune = runpy.run_path(str(root / "examples/quickstart.py"))["fine_tune"]
    monkeypatch.setattr(cli, "main", lambda words: 0)
    with pytest.raises(SystemExit, match="130"):
        fine_tune(1, [])


def test_a_foreign_folder_is_left_alone(root, tmp_path):
    (tmp_path / "quickstart_output").mkdir()
    (tmp_path / "quickstart_output/letter.txt").touch()
    refused = quickstart(root, tmp_path)
    assert refused.returncode == 2 and "is there, but no quickstart made it; move it away" in refused.stderr
    assert "Traceback" not in refused.stderr and (tmp_path / "quickstart_output/letter.txt").exists()

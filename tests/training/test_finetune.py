import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from paddle_xc2 import XComposer2Processor
from paddle_xc2.checkpoint.base_fingerprint import base_fingerprint
from paddle_xc2.cli import main
from paddle_xc2.data.batches import TrainingSteps
from paddle_xc2.hub.directory import open_model
from paddle_xc2.model import XComposer2ForCausalLM
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.log import TrainingLog
from paddle_xc2.training.run_folder.interruption import StopRequest
from paddle_xc2.training.trainer import StepTrainer

TRAINED_KEYS = {
    *("step", "epoch", "loss", "learning_rate", "grad_norm", "trained_tokens", "image_tokens", "tokens"),
    *("tokens_per_second", "peak_memory_gb"),
}


def curve(entries):
    """What two equal runs have in common, to the last bit: everything but time and memory."""
    measured = {"tokens_per_second", "peak_memory_gb", "eval_seconds"}
    return [{key: value for key, value in entry.items() if key not in measured} for entry in entries]


def weights(folder):
    model = XComposer2ForCausalLM.from_pretrained(folder)
    return {name: parameter.numpy() for name, parameter in model.named_parameters()}


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_run_from_beginning_to_end(config, tmp_path, metrics, capsys):
    path = config(
        max_steps=None, num_train_epochs=3, evaluation_strategy="epoch", save_strategy="epoch", logging_steps=2
    )
    assert finetune(path) == 0
    out, told = tmp_path / "out", capsys.readouterr()

    entries = metrics(out)
    trained = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in trained] == [2, 4, 6, 8, 10, 12]
    assert all(set(entry) == TRAINED_KEYS for entry in trained)
    assert [(entry["step"], entry["epoch"]) for entry in entries if "eval_loss" in entry] == [
        (4, 1.0),
        (8, 2.0),
        (12, 3.0),
    ]
    assert set(entries[-1]) == {"step", "epoch", "eval_loss", "eval_tokens", "eval_seconds"}
    assert trained[-1]["loss"] < trained[0]["loss"] - 1.0

    assert [line for line in told.out.splitlines() if line.startswith("schedule")]
    assert "⟦The digit 0.[UNUSED_TOKEN_145]\n</s>⟧" in told.out
    assert "step 2/12  epoch 0.50  loss" in told.out and "step 4/12  evaluation loss" in told.out
    assert f"the model is saved, ask it: paddle-xc2 chat --from_pretrained {out}" in told.out
    assert "PaddleNLP" not in told.out + told.err and "[INFO]" not in told.err

    assert [child.name for child in out.glob("checkpoint-*")] == ["checkpoint-12"]
    run = json.loads((out / "run.json").read_text())
    assert run["arguments"]["learning_rate"] == 1e-3 and run["precision"] == "float32"
    state = json.loads((out / "trainer_state.json").read_text())
    assert state["global_step"] == 12 and state["log_history"] == entries
    assert (out / "loss.png").stat().st_size > 5000
    assert_same_weights(out, out / "checkpoint-12")


def test_output_is_a_checkpoint_for_chat(config, tmp_path, workspace):
    finetune(config(max_length=64))
    out = tmp_path / "out"
    processor = XComposer2Processor.from_pretrained(out)
    assert processor.chat_layout == "as_trained"
    model = XComposer2ForCausalLM.from_pretrained(out)
    assert model.config.max_length == 64
    answer, history = model.chat(processor.tokenizer, "Which digit is 1?", do_sample=False, max_new_tokens=3)
    assert len(history) == 1
    trained = XComposer2Processor.from_pretrained(workspace / "model", chat_layout="as_trained")
    assert processor.encode_chat("a").input_ids.tolist() == trained.encode_chat("a").input_ids.tolist()


def test_stopped_and_gone_on_equals_uninterrupted(config, tmp_path, metrics, power_fails, monkeypatch):
    """With dropout, in the middle of an epoch, with workers, from another number of passes."""
    keys = {"max_steps": 10, "save_strategy": "steps", "save_steps": 3, "evaluation_strategy": "epoch"}
    assert finetune(config(**keys)) == 0
    path = config("again.json", **keys, output_dir=str(tmp_path / "again"), dataloader_num_workers=2)
    power_fails(9)
    with pytest.raises(RuntimeError, match="the power fails"):
        finetune(path)
    assert len(metrics(tmp_path / "again")) == 10
    monkeypatch.undo()
    assert finetune(path) == 0
    assert curve(metrics(tmp_path / "again")) == curve(metrics(tmp_path / "out"))
    assert_same_weights(tmp_path / "again", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("learning", [[], ["--lora"]], ids=["whole", "lora"])
def test_killed_at_random_moments_and_a_full_disk(root, learning):
    """A small part of what `tests/benchmarks/torture.py` does by hand."""
    command = [sys.executable, str(root / "tests" / "benchmarks" / "torture.py"), "--no-mount", *learning]
    done = subprocess.run([*command, "--kills", "2", "--full-disks", "1"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ended_otherwise"] == 0 and result["kills"] >= 2 and result["full_disks"] == 1, result


@pytest.mark.slow
def test_killed_at_an_operation_started_twice_and_left_alone(root):
    """The same: a run that is gone on with is killed at two places, two begin at once, a reader and a worker go."""
    command = [sys.executable, str(root / "tests" / "benchmarks" / "torture.py"), "--part", "short"]
    done = subprocess.run([*command, "--limit", "2", "--times", "1"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["kills"], result["pairs"], result["without reader"], result["killed workers"]) == (2, 1, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("number, name", [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_signal_ends_the_step_saves_and_tells_how_to_go_on(config, tmp_path, number, name):
    path = config(max_steps=2000, save_strategy="epoch", save_total_limit=2, dataloader_num_workers=1)
    command = [sys.executable, "-m", "paddle_xc2.cli", "finetune", str(path), "--seed", "7"]
    # A group of its own, whose members get the signal together, as from a keyboard or a cluster.
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "out" / "checkpoint-4").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    told = errors.strip().splitlines()[-1]
    found = re.fullmatch(
        rf"stopped by {name}; (\d+) of 2000 steps are done, the last checkpoint is {tmp_path}/out/checkpoint-(\d+); "
        rf"go on with: paddle-xc2 finetune {path} --seed 7 --resume_from_checkpoint auto",
        told,
    )
    assert found and found[1] == found[2]
    assert "Traceback" not in errors and "KeyboardInterrupt" not in errors


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0)  # the handler runs before the next line


def test_stopped_in_any_step_and_gone_on_equals_uninterrupted(config, tmp_path, metrics, at_step, monkeypatch, capsys):
    """Also between two logged steps, and at the end of an epoch."""
    keys = {"max_steps": 9, "logging_steps": 3, "logging_strategy": "steps", "evaluation_strategy": "epoch"}
    keys |= {"save_strategy": "no", "save_total_limit": 1}
    assert finetune(config(**keys)) == 0
    path = config("again.json", **keys, output_dir=str(tmp_path / "again"))
    for step in (1, 4, 5, 9):
        at_step(step, lambda: send(signal.SIGTERM))
        assert finetune(path) == 0
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith(f"stopped by SIGTERM; {step} of 9 steps are done, the last checkpoint is {tmp_path}")
        assert [child.name for child in (tmp_path / "again").glob("checkpoint-*")] == [f"checkpoint-{step}"]
        monkeypatch.undo()
    assert finetune(path) == 0
    assert curve(metrics(tmp_path / "again")) == curve(metrics(tmp_path / "out"))
    assert_same_weights(tmp_path / "again", tmp_path / "out")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and signal.getsignal(signal.SIGINT) != signal.SIG_DFL


@pytest.mark.parametrize(
    "keys", [{"evaluation_strategy": "steps", "eval_steps": 2}, {"do_eval": True}], ids=["during", "at the end"]
)
def test_evaluation_that_was_cut_short_is_made_up_for(config, tmp_path, metrics, monkeypatch, keys):
    keys["max_steps"] = 4
    assert finetune(config(**keys)) == 0
    path = config("again.json", **keys, output_dir=str(tmp_path / "again"))
    evaluate, signals = StepTrainer.evaluate, iter([signal.SIGINT, signal.SIGTERM])

    def interrupted(trainer):
        if number := next(signals, None):
            send(number)
        return evaluate(trainer)

    monkeypatch.setattr(StepTrainer, "evaluate", interrupted)
    for _ in range(2):
        assert finetune(path) == 0
        assert not [entry for entry in metrics(tmp_path / "again") if "eval_loss" in entry]
    assert finetune(path) == 0
    assert curve(metrics(tmp_path / "again")) == curve(metrics(tmp_path / "out"))
    assert finetune(path) == 0  # everything is done
    assert curve(metrics(tmp_path / "again")) == curve(metrics(tmp_path / "out"))


def test_second_ctrl_c_stops_at_once(config, capsys, at_step):
    at_step(2, lambda: (send(signal.SIGINT), send(signal.SIGINT)))
    assert finetune(config()) == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        "stopped by Ctrl-C in the midst of it; 1 of 4 steps are done, there is no checkpoint yet "
        "(save_strategy, save_steps)"
    )


def test_what_ended_a_run_stands_below_its_bar(config, capsys, at_step):
    at_step(2, lambda: send(signal.SIGTERM))
    assert finetune(config(disable_tqdm=False)) == 0
    bar, _, told = capsys.readouterr().err.rpartition("\n")[0].rpartition("\n")
    assert "step/s" in bar and told.startswith("stopped by SIGTERM; 2 of 4 steps are done")


def test_outside_the_main_thread_signals_are_left_alone():
    def listen():
        with StopRequest().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen = []
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_disk_that_can_not_be_written_to(config, tmp_path, metrics, monkeypatch, capsys):
    """While the weights are written, the third time; then again with room for everything."""
    keys = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    assert finetune(config(**keys)) == 0
    out = tmp_path / "again"
    path = config("again.json", **keys, output_dir=str(out))
    save = XComposer2ForCausalLM.save_pretrained

    def full_at_6(model, directory, **settings):
        if str(directory).endswith("checkpoint-6"):
            (directory / "model.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        save(model, directory, **settings)

    monkeypatch.setattr(XComposer2ForCausalLM, "save_pretrained", full_at_6)
    capsys.readouterr()
    assert main(["finetune", str(path)]) == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert told.strip() == (
        f"{out} can't be written to ([Errno 28] No space left on device: '{out}/.paddle_xc2-writing-checkpoint-6'); "
        f"make room, or mend the disk; 6 of 8 steps are done, the last checkpoint is {out}/checkpoint-4; go on with: "
        f"paddle-xc2 finetune {path} --resume_from_checkpoint auto"
    )
    assert [child.name for child in out.glob("*checkpoint-*")] == ["checkpoint-4"]
    monkeypatch.undo()
    assert finetune(path) == 0
    assert curve(metrics(out)) == curve(metrics(tmp_path / "out"))
    assert_same_weights(out, tmp_path / "out")


def test_disk_without_room_is_told_before_anything_is_written(config, tmp_path, monkeypatch, capsys):
    """Checkpoints look for room first; so does the trained model."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert main(["finetune", str(config(save_strategy="epoch"))]) == 1
    told = capsys.readouterr().err
    assert "B are needed there, but its disk has 1 kB free" in told and "there is no checkpoint yet" in told


def test_folder_that_can_not_be_written_to(config, tmp_path, monkeypatch, capsys):
    def refuse(output_dir, facts):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(output_dir))

    monkeypatch.setattr("paddle_xc2.training.finetune.begin_run_folder", refuse)
    assert main(["finetune", str(config())]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"output_dir {tmp_path}/out can't be written to: [Errno 30] Read-only file system: '{tmp_path}/out'; mend "
        "that, or choose another folder"
    )


def test_finished_run_is_not_trained_again(config, tmp_path, metrics, capsys):
    path = config(save_strategy="epoch")
    assert finetune(path) == 0
    before = metrics(tmp_path / "out")
    assert finetune(path) == 0
    assert "every step is trained already" in capsys.readouterr().out
    assert metrics(tmp_path / "out") == before


def test_finished_run_is_not_trained_from_its_last_checkpoint(config, tmp_path, metrics, capsys):
    """Which lies before its end; asked for by name, it is gone on from all the same."""
    keys = {"save_strategy": "steps", "save_steps": 3}
    path, out = config(**keys), tmp_path / "out"
    assert finetune(path) == 0
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    capsys.readouterr()
    assert finetune(path) == 0
    assert f"{out}: every step is trained already, and the model is saved; to train its" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    assert finetune(config(**keys, resume_from_checkpoint=str(out / "checkpoint-3"))) == 0
    assert "trained 1 step in" in capsys.readouterr().out and len(metrics(out)) == 4
    (out / "model.safetensors").unlink()
    assert finetune(path) == 0
    assert "trained 1 step in" in capsys.readouterr().out and (out / "model.safetensors").exists()


def test_changed_settings_are_refused(config, tmp_path):
    finetune(config(save_strategy="epoch"))
    with pytest.raises(
        ValueError, match="can't go on from here as it would have: steps was 4 and is 6; learning_rate was"
    ):
        finetune(config(save_strategy="epoch", max_steps=6, learning_rate=1e-4))


@pytest.fixture
def evaluates_to(monkeypatch):
    """Has the evaluations of a run come to the given losses, by step."""

    def arrange(losses):
        def report(log, entry):
            if "eval_loss" in entry:
                entry["eval_loss"] = losses[entry["step"]]
            as_before(log, entry)

        as_before = TrainingLog.report
        monkeypatch.setattr(TrainingLog, "report", report)

    return arrange


BEST = {"load_best_model_at_end": True, "evaluation_strategy": "steps", "eval_steps": 2, "save_total_limit": 2}


@pytest.mark.parametrize(
    ("losses", "best", "greater"),
    [((3.0, 1.0, 2.0, 2.5), 4, None), ((4.0, 3.0, 2.0, 1.0), 8, None), ((3.0, 1.0, 2.0, 2.5), 2, True)],
)
def test_ends_with_the_best(config, tmp_path, evaluates_to, capsys, losses, best, greater):
    """Saved is at steps 3 and 6 and, whatever save_steps says, where the best is."""
    evaluates_to(dict(zip((2, 4, 6, 8), losses, strict=True)))
    keys = {**BEST, "max_steps": 8, "save_strategy": "steps", "save_steps": 3, "greater_is_better": greater}
    assert finetune(config(**keys)) == 0
    out = tmp_path / "out"
    names = {child.name for child in out.glob("checkpoint-*")}
    assert len(names) == 2 and f"checkpoint-{best}" in names
    assert_same_weights(out, out / f"checkpoint-{best}")
    told = f"{out}/checkpoint-{best} is taken, the best of all: eval_loss"
    assert (told in capsys.readouterr().out) == (best < 8)


def test_best_adapter(config, tmp_path, evaluates_to, metrics):
    """Its checkpoints hold what learned, and so does what it ends with; answers are generated with it."""
    evaluates_to({2: 1.0, 4: 3.0})
    keys = {**BEST, "save_strategy": "epoch", "lora": True, "lora_rank": 4, "max_steps": 4, "fix_vit": True}
    assert finetune(config(**keys, eval_with_do_generation=True, max_new_tokens=2)) == 0
    out = tmp_path / "out"
    best, last, end = (
        (folder / "adapter_model.safetensors").read_bytes()
        for folder in (out / "checkpoint-2", out / "checkpoint-4", out)
    )
    assert end == best != last
    assert [entry["eval_answers"] for entry in metrics(out) if "eval_loss" in entry] == [5, 5]


def test_best_before_an_interruption_stays_the_best(config, tmp_path, evaluates_to, at_step, monkeypatch):
    keys = {**BEST, "max_steps": 8, "save_strategy": "steps", "save_steps": 3}
    evaluates_to({2: 1.0, 4: 3.0, 6: 2.0, 8: 4.0})
    at_step(7, lambda: send(signal.SIGTERM))
    assert finetune(config(**keys)) == 0
    assert finetune(config(**keys)) == 0
    out = tmp_path / "out"
    assert {child.name for child in out.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-7"}
    assert_same_weights(out, out / "checkpoint-2")


def test_best_checkpoint_that_is_damaged(config, tmp_path, evaluates_to, at_step, capsys):
    evaluates_to({2: 1.0, 4: 2.0})
    (weights_file,) = ["model.safetensors"]
    at_step(4, lambda: (tmp_path / "out" / "checkpoint-2" / weights_file).write_bytes(b"x"))
    told = fails(config, capsys, **BEST, save_strategy="steps", save_steps=4)
    assert "checkpoint-2: model.safetensors has 1 bytes" in told
    assert told.endswith('it was the best, set "load_best_model_at_end" to false to save the last')


def test_best_of_what_nothing_has(config, tmp_path, capsys):
    keys = {**BEST, "save_strategy": "epoch", "eval_with_do_generation": True, "metric_for_best_model": "box_iou"}
    told = fails(config, capsys, **keys)
    assert told.startswith('"metric_for_best_model" is "box_iou", but no sample of the evaluation has what it measures')
    assert not (tmp_path / "out").exists()


def test_best_by_generated_answers(config, tmp_path, metrics):
    keys = {**BEST, "save_strategy": "epoch", "eval_with_do_generation": True, "metric_for_best_model": "anls"}
    assert finetune(config(**keys, max_steps=6, max_new_tokens=20)) == 0
    evaluated = [entry for entry in metrics(tmp_path / "out") if "eval_anls" in entry]
    best = max(evaluated, key=lambda entry: (entry["eval_anls"], -entry["eval_loss"]))
    assert len(evaluated) == 3 and all(0 <= entry["eval_anls"] <= 1 for entry in evaluated)
    assert_same_weights(tmp_path / "out", tmp_path / "out" / f"checkpoint-{best['step']}")


def test_visualdl_shows_the_course(config, tmp_path, metrics, at_step):
    at_step(3, lambda: send(signal.SIGTERM))
    for _ in range(2):
        assert finetune(config(report_to="visualdl", logging_dir=str(tmp_path / "runs"))) == 0
    from visualdl import LogReader  # takes long to import

    (run,) = (tmp_path / "runs").iterdir()
    (file,) = (run / "visualdl").iterdir()
    shown = LogReader(file_path=str(file)).get_data("scalar", "train/loss")
    expected = [(entry["step"], entry["loss"]) for entry in metrics(tmp_path / "out")]
    assert [(record.id, pytest.approx(record.value)) for record in shown] == expected and len(expected) == 4


def test_reporter_that_is_not_installed(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install --no-deps "tensorboardX' in fails(config, capsys, report_to=["tensorboard"])
    assert not (tmp_path / "out").exists()


def test_workers_that_are_killed_again_and_again(config, tmp_path, monkeypatch, capsys):
    """What is trained is saved, and the same command goes on from there."""
    make = TrainingSteps.__getitem__

    def killed_at_3(steps, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return make(steps, index)

    monkeypatch.setattr(TrainingSteps, "__getitem__", killed_at_3)
    path = config(dataloader_num_workers=1)
    assert finetune(path) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("data workers were killed 3 times in a row; it may be that memory ran out: use fewer")
    assert f"; 2 of 4 steps are done, the last checkpoint is {tmp_path}/out/checkpoint-2; go on with: " in told[-1]
    monkeypatch.undo()
    assert finetune(path) == 0


def test_changed_inputs_are_noticed(config, tmp_path, workspace, capsys):
    """Pictures that were replaced under the same names, the base's settings, and one of its weights."""
    inputs = shutil.copytree(workspace, tmp_path / "inputs")
    dataset = {"train": [{"data_files": str(inputs / "train.json")}]}
    keys = {"lora": True, "lora_rank": 4, "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    keys |= {"dataset": dataset, "model_name_or_path": str(inputs / "model"), "benchmark": True}
    assert finetune(config(**keys)) == 0
    weights = next((inputs / "model").glob("*.safetensors"))
    flipped = bytearray(weights.read_bytes())
    flipped[-1] ^= 1
    settings = (inputs / "model" / "config.json").read_text()
    for path, content, told in (
        (
            inputs / "1_0.png",
            (inputs / "2_0.png").read_bytes(),
            "(other pictures in {inputs}/train.json[1] (1_0.png)); set",
        ),
        (inputs / "model" / "config.json", settings.replace("10000", "20000").encode(), "files of the base model was"),
        (weights, flipped, "files of the base model was"),
    ):
        before = path.read_bytes()
        assert content != before
        path.write_bytes(content)
        assert told.format(inputs=inputs) in fails(config, capsys, **keys)
        path.write_bytes(before)
    assert finetune(config(**keys)) == 0


def test_start_again(config, tmp_path, metrics):
    finetune(config(save_strategy="steps", save_steps=2, save_total_limit=None))
    finetune(config(save_strategy="steps", save_steps=3, learning_rate=1e-4, overwrite_output_dir=True))
    assert [child.name for child in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-3"]
    assert [entry["step"] for entry in metrics(tmp_path / "out")] == [1, 2, 3, 4]


def test_evaluation_alone(config, tmp_path, capsys):
    assert finetune(config(do_train=False, do_eval=True, output_dir=None)) == 0
    assert re.fullmatch(r"step 0/0  evaluation loss \d\.\d{4}\n", capsys.readouterr().out)
    assert not (tmp_path / "out").exists()


def test_evaluation_alone_by_generation(config, tmp_path, capsys):
    keys = {"eval_with_do_generation": True, "save_generation_output": True, "max_new_tokens": 2}
    assert finetune(config(do_train=False, do_eval=True, **keys)) == 0
    assert re.search(r"evaluation loss \d\.\d{4}, exact_match 0\.0000, rouge_l", capsys.readouterr().out)
    written = [".predictions_sha256.json", "predictions-0.jsonl"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == written


def test_answers_that_can_not_be_written(config, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("paddle_xc2.training.evaluate.write_predictions", refuse)
    keys = {"eval_with_do_generation": True, "save_generation_output": True, "max_new_tokens": 1}
    assert main(["finetune", str(config(do_train=False, do_eval=True, **keys))]) == 1
    told = capsys.readouterr().err
    assert "can't be written to: [Errno 28] No space left on device" in told and "Traceback" not in told


def test_error_of_another_kind_is_not_the_disks(config, monkeypatch):
    def fail(*_):
        raise OSError("something else")

    monkeypatch.setattr("paddle_xc2.training.finetune.begin_run_folder", fail)
    with pytest.raises(OSError, match="something else"):
        finetune(config())
    monkeypatch.undo()
    monkeypatch.setattr(StepTrainer, "training_step", fail)
    with pytest.raises(OSError, match="something else"):
        finetune(config())


def test_a_device_that_fails_is_not_the_disk(config, at_step, capsys):
    """CUDA's errors are OSErrors: see device_errors.py."""

    def fail():
        raise OSError("(External) CUDA error(700), an illegal memory access was encountered.")

    at_step(3, fail)
    assert finetune(config(save_strategy="steps", save_steps=1)) == 1
    told = capsys.readouterr().err
    assert "the device that computes has failed: (External) CUDA error(700)" in told and "written" not in told
    assert "2 of 4 steps are done, the last checkpoint is" in told and "checkpoint-2; go on with" in told


def test_benchmark_saves_no_model(config, tmp_path):
    assert finetune(config(benchmark=True)) == 0
    assert not (tmp_path / "out" / "config.json").exists() and (tmp_path / "out" / "metrics.jsonl").exists()


def test_progress_bar(config, capsys):
    assert finetune(config(disable_tqdm=False)) == 0
    told = capsys.readouterr()
    assert "training: " in told.err and "4/4" in told.err and "step 1/4" not in told.out


def fails(config, capsys, *words, **keys):
    """The message with which the command ends, status 2."""
    assert main(["finetune", str(config(**keys)), *words]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told.strip().removeprefix("paddle-xc2 finetune: ")


def test_mistakes_end_before_anything_is_written(config, tmp_path, workspace, capsys):
    assert fails(config, capsys, bf16=True).startswith("bf16 is true, but cpu")
    assert "which can't be used" in fails(config, capsys, device="gpu")
    assert "there is no such directory" in fails(config, capsys, model_name_or_path="./nowhere")
    assert 'did you mean "max_steps"' in fails(config, capsys, "--max_step", "3")
    assert "data files of dataset.train are missing: no.json" in fails(
        config, capsys, dataset={"train": [{"data_files": "no.json"}]}
    )
    assert "no sample is left" in fails(config, capsys, max_length=6)
    assert "matches no parameter" in fails(config, capsys, freeze_include=["nothing"])
    assert "takes no tiles" in fails(config, capsys, hd_num=16)
    assert fails(config, capsys, output_dir=str(workspace)).startswith(f"output_dir {workspace} is not empty")
    assert not (tmp_path / "out").exists()


def test_bf16_falls_back_only_if_asked(config, capsys):
    assert main(["finetune", str(config(bf16=True, max_steps=1)), "--allow_precision_fallback"]) == 0
    assert "precision    float32" in capsys.readouterr().out


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_image_names_its_record(config, tmp_path, workspace, capsys, num_workers):
    records = json.loads((workspace / "train.json").read_text())[1:2]
    (tmp_path / records[0]["image"][0]).write_bytes((workspace / records[0]["image"][0]).read_bytes()[:300])
    (tmp_path / "train.json").write_text(json.dumps(records))
    data = {"train": [{"data_files": str(tmp_path / "train.json")}]}
    assert "train.json[0]" in fails(config, capsys, dataset=data, dataloader_num_workers=num_workers)


def test_another_image_size(config, tmp_path):
    assert finetune(config(img_size=56, max_steps=1)) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["img_size"] == 56


def test_polynomial_schedule_that_is_all_warm_up(config, tmp_path, metrics):
    assert finetune(config(lr_scheduler_type="polynomial", max_steps=2, warmup_steps=2)) == 0
    assert [entry["learning_rate"] for entry in metrics(tmp_path / "out")] == [0.0, 5e-4]


def test_the_base_may_go_while_an_adapter_learns(config, tmp_path, workspace, at_step):
    shutil.copytree(workspace / "model", tmp_path / "base")
    expected = base_fingerprint(tmp_path / "base")
    at_step(1, lambda: shutil.rmtree(tmp_path / "base"))
    assert (
        finetune(
            config(
                lora=True, lora_rank=4, save_strategy="steps", save_steps=2, model_name_or_path=str(tmp_path / "base")
            )
        )
        == 0
    )
    assert open_model(tmp_path / "out").origin.fingerprint == expected


def test_the_last_steps_are_logged(config, tmp_path, metrics):
    assert finetune(config(logging_steps=3)) == 0
    assert [entry["step"] for entry in metrics(tmp_path / "out")] == [3, 4]
    assert finetune(config(logging_strategy="no", output_dir=str(tmp_path / "none"))) == 0
    assert metrics(tmp_path / "none") == []

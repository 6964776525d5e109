#!/usr/bin/env python3
"""The main job end to end, on the CPU, in minutes: a checkpoint is converted, fine-tuned on real pictures, and asked.

Then LoRA teaches the fine-tuned model another kind of question, and what it learned is merged into it.

`sh examples/quickstart.sh` runs this, with all of its own set-up. Everything is left in quickstart_output/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import shlex
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
# The checkout's root in place of this folder: works without an installation, and nothing here hides a package's name.
sys.path[0] = str(ROOT)

from examples.demo import digits, exam, small_checkpoint  # noqa: E402
from paddle_xc2 import cli, runtime  # noqa: E402
from paddle_xc2.checkpoint.safetensors_file import read_safetensors  # noqa: E402
from paddle_xc2.commands.lasting_output import keep_output  # noqa: E402
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER  # noqa: E402
from paddle_xc2.files.directory_lock import locked  # noqa: E402
from paddle_xc2.files.durable import SCRATCH  # noqa: E402

CONFIG, LORA_CONFIG = ROOT / "config" / "sft_tiny.json", ROOT / "config" / "lora_tiny.json"
OUTPUT = Path("quickstart_output")  # in the checkout: the argument file's paths begin there
MARKER = "made_by_quickstart"  # an output folder that holds this file is ours: the next run begins it anew
FOLDERS = ("upstream", "model", "data", "finetuned", "lora", "merged")
FILES = ("result.json", "loss.png", "answers.json", "answers.png", "answers_lora.json")
SHORT_TRAINING, SHORT_HELD_OUT, SHORT_STEPS = 32, 4, 2


def main(argv: list[str] | None = None, folder: Path = ROOT) -> int:
    """Runs the demo; `folder` is where OUTPUT is made. Returns: exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of weights, distortions and order (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="a few scans and steps: shows in seconds that all works")
    args = parser.parse_args(argv)
    started_from, started = Path.cwd(), time.perf_counter()
    # Matrices this small gain nothing from a second thread; the other core reads the pictures.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    runtime.prepare_environment()
    keep_output()
    os.chdir(folder)
    try:
        with locked(OUTPUT, whole_run=True):
            begin_anew()
            result, questions, answers = learn_digits(args.seed, args.short)
            result |= learn_lesson(args.seed, args.short, questions, answers)
    except (ValueError, ImportError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 2
    result["peak_rss_mb"] = round(peak_rss_mb())
    result["total_seconds"] = round(time.perf_counter() - started, 1)
    (OUTPUT / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n" + "\n".join(summary(result)))
    print("\n" + "\n".join(next_command(questions[0], started_from)))
    return 0


def begin_anew() -> None:
    """Deletes what an earlier run left; other files stay. Raises: ValueError if the folder is somebody else's."""
    if OUTPUT.exists() and any(OUTPUT.iterdir()) and not (OUTPUT / MARKER).is_file():
        raise ValueError(f"{OUTPUT.absolute()} is there, but no quickstart made it; move it away")
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / MARKER).touch()
    for name in FOLDERS:
        shutil.rmtree(OUTPUT / name, ignore_errors=True)
    for path in (OUTPUT / name for name in FILES):
        path.unlink(missing_ok=True)
    for path in OUTPUT.glob(f"{SCRATCH}*"):  # a command that was killed
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def learn_digits(seed: int, short: bool) -> tuple[dict, list[digits.Question], list[str]]:
    """Fine-tunes a model with random weights to answer questions about handwritten digits.

    Returns: (what result.json tells of it, the held-out questions, the fine-tuned model's answers).
    """
    training, held_out, steps = scans_and_steps(short)
    with stage("A small checkpoint with random weights, laid out as the released ones are"):
        small_checkpoint.write_small_checkpoint(OUTPUT / "upstream", digits.texts(), seed)
    with stage("The same in Paddle's layout"):
        run_command("convert", OUTPUT / "upstream", OUTPUT / "model", "--disable_tqdm")
    with stage(f"Questions about {len(training)} scans to learn from, and about {len(held_out)} held-out ones"):
        digits.write_training_data(OUTPUT / "data", training, seed)
        questions = digits.write_held_out(OUTPUT / "data", held_out)
    with stage("Asking the held-out questions before fine-tuning"):
        before = exam.answer_questions(OUTPUT / "model", questions)
    with stage("Fine-tuning") as finetuning:
        fine_tune(seed, steps)
    with stage("Asking the held-out questions after fine-tuning"):
        after = exam.answer_questions(OUTPUT / "finetuned", questions)

    accuracy_before, accuracy = (exam.accuracy_by_kind(questions, answers) for answers in (before, after))
    print("\n" + "\n".join(exam.table_lines(accuracy_before, accuracy)))
    shutil.copyfile(OUTPUT / "finetuned" / "loss.png", OUTPUT / "loss.png")
    exam.write_answers(questions, before, after, OUTPUT / "answers.json")
    exam.draw_answers(questions, after, OUTPUT / "answers.png")
    result = {
        "held_out_accuracy": accuracy[digits.WHICH_DIGIT],
        "held_out_scans": len(held_out),
        "train_seconds": round(finetuning.seconds, 1),
        "seed": seed,
        "accuracy": [
            {"question": kind.name, "language": kind.language, "before": accuracy_before[kind], "after": accuracy[kind]}
            for kind in digits.KINDS
        ],
    }
    return result, questions, after


def learn_lesson(seed: int, short: bool, known: list[digits.Question], answers: list[str]) -> dict:
    """Teaches the fine-tuned model another kind of question by LoRA, and merges what it learned into it.

    Args:
        known, answers: the questions of before, and what the model answered to them.
    Returns: what result.json tells of it.
    """
    training, held_out, steps = scans_and_steps(short)
    model, adapter, merged = (OUTPUT / name for name in ("finetuned", "lora", "merged"))
    with stage("Another kind of question, which the model was never asked"):
        digits.write_lesson(OUTPUT / "data", training, seed)
        questions = digits.held_out_questions(OUTPUT / "data", held_out, digits.LESSON_KINDS)
        before = exam.answer_questions(model, questions)
    with stage("Fine-tuning with LoRA") as finetuning:
        run_command("finetune", os.path.relpath(LORA_CONFIG), "--seed", seed, *steps)
    with stage("Merging the adapter into the model"):
        words = ("--model_name_or_path", model, "--lora_path", adapter, "--output_path", merged)
        run_command("merge", *words)
    with stage("Asking the merged model all held-out questions, new and old"):
        asked = [*questions, *known]
        after = exam.answer_questions(merged, asked)

    accuracy_before = exam.accuracy_by_kind(asked, [*before, *answers])
    accuracy = exam.accuracy_by_kind(asked, after)
    print("\n" + "\n".join(exam.table_lines(accuracy_before, accuracy)))
    exam.write_answers(asked, [*before, *answers], after, OUTPUT / "answers_lora.json")
    trained = num_parameters(adapter, "adapter_model.safetensors") / num_parameters(model, "model*.safetensors")
    return {
        "lora_accuracy": sum(accuracy[kind] for kind in digits.LESSON_KINDS) / len(digits.LESSON_KINDS),
        "lora_held_out_accuracy": accuracy[digits.WHICH_DIGIT],
        "lora_trained_share": round(trained, 4),
        "lora_train_seconds": round(finetuning.seconds, 1),
        "lora": [
            {"question": kind.name, "language": kind.language, "before": accuracy_before[kind], "after": accuracy[kind]}
            for kind in accuracy
        ],
    }


def scans_and_steps(short: bool) -> tuple[digits.Scans, digits.Scans, list]:
    """(scans to train on, held-out scans, words for `finetune`)."""
    training, held_out = digits.load_scans()
    if short:
        return training[:SHORT_TRAINING], held_out[:SHORT_HELD_OUT], ["--max_steps", SHORT_STEPS]
    return training, held_out, []


def num_parameters(directory: Path, pattern: str) -> int:
    """Numbers in the weight files of a model or an adapter."""
    shards = [read_safetensors(path) for path in directory.glob(pattern)]
    return sum(math.prod(tensor.shape) for shard in shards for tensor in shard.values())


def fine_tune(seed: int, steps: list) -> None:
    """Raises: SystemExit: 130 if Ctrl-C ended it, which for the command is no failure, as it can go on from there."""
    run_command("finetune", os.path.relpath(CONFIG), "--seed", seed, *steps)
    if not (OUTPUT / "finetuned" / "config.json").is_file():
        raise SystemExit(cli.EXIT_INTERRUPTED)


@contextlib.contextmanager
def stage(title: str):
    """Says what is being done, and how long it took. Yields an object whose `seconds` is set in the end."""
    print(f"\n== {title}", flush=True)
    started, timing = time.perf_counter(), SimpleNamespace(seconds=None)
    yield timing
    timing.seconds = time.perf_counter() - started
    print(f"   {timing.seconds:.1f} s", flush=True)


def run_command(*words) -> None:
    """Runs `paddle-xc2 WORDS`, as in a shell. Raises: SystemExit with its status if it fails."""
    words = list(map(str, words))
    print("$ " + shlex.join(["paddle-xc2", *words]), flush=True)
    if status := cli.main(words):
        raise SystemExit(status)


def peak_rss_mb() -> float:
    """Largest memory of this process so far, in 1e6 bytes."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def summary(result: dict) -> list[str]:
    """What came out and where it is, as lines of text."""
    return [
        f"{result['held_out_accuracy']:.1%} of {result['held_out_scans']} held-out scans read right, after "
        f"{result['train_seconds']:.0f} s of training; at most {result['peak_rss_mb']} MB of memory, "
        f"{result['total_seconds']:.0f} s in all.",
        f"Then LoRA taught it another kind of question with {result['lora_trained_share']:.1%} of the parameters, in "
        f"{result['lora_train_seconds']:.0f} s: {result['lora_accuracy']:.1%} of these answered right, and still "
        f"{result['lora_held_out_accuracy']:.1%} of the scans.",
        f"{OUTPUT.absolute()} holds result.json, loss.png, answers.png, answers.json and the models: finetuned/, the "
        "adapter lora/, and merged/.",
    ]


def next_command(example: digits.Question, started_from: Path) -> list[str]:
    """A command to try, for somebody who stands in `started_from`, as lines of text."""
    query = example.kind.query.replace(IMAGE_PLACEHOLDER, "")
    words = [
        under(sys.executable),
        under(ROOT / "examples" / "chat_demo.py"),
        "--from_pretrained",
        OUTPUT / "merged",
    ]
    words += ["--image_path", *example.images, "--text", query, "--greedy"]
    go = "" if started_from == Path.cwd() else f"cd {shlex.quote(str(Path.cwd()))} && "
    return [f"Next, ask it yourself (the right answer is {example.answer}):", f"  {go}{shlex.join(map(str, words))}"]


def under(path: str | Path) -> str:
    """The path from the current folder if it lies below it, else as it is."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    sys.exit(main())

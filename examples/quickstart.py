#!/usr/bin/env python3
"""The main job end to end, on the CPU, in minutes: a checkpoint is converted, fine-tuned on real pictures, and asked.

`sh examples/quickstart.sh` runs this, with all of its own set-up. Everything is left in quickstart_output/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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

from paddle_xc2 import cli, runtime  # noqa: E402
from paddle_xc2.demo import digits, exam, small_checkpoint  # noqa: E402
from paddle_xc2.special_tokens import IMAGE_PLACEHOLDER  # noqa: E402

CONFIG = ROOT / "config" / "sft_tiny.json"
OUTPUT = Path("quickstart_output")  # in the checkout: the argument file's paths begin there
MARKER = "made_by_quickstart"  # an output folder that holds this file is ours: the next run begins it anew
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
    os.chdir(folder)
    try:
        begin_anew()
        result, example = learn_digits(args.seed, args.short)
    except (ValueError, ImportError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 2
    result["peak_rss_mb"] = round(peak_rss_mb())
    result["total_seconds"] = round(time.perf_counter() - started, 1)
    (OUTPUT / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n" + "\n".join(summary(result)))
    print("\n" + "\n".join(next_command(example, started_from)))
    return 0


def begin_anew() -> None:
    """Empties the output folder of an earlier run. Raises: ValueError if it is somebody else's."""
    if OUTPUT.exists() and not (OUTPUT / MARKER).is_file():
        raise ValueError(f"{OUTPUT.absolute()} is there, but no quickstart made it; move it away")
    if OUTPUT.exists():
        shutil.rmtree(OUTPUT)
    OUTPUT.mkdir()
    (OUTPUT / MARKER).touch()


def learn_digits(seed: int, short: bool) -> tuple[dict, digits.Question]:
    """Fine-tunes a model with random weights to answer questions about handwritten digits.

    Returns: (what result.json tells of it, a question to ask the fine-tuned model).
    """
    training, held_out = digits.load_scans()
    steps = []
    if short:
        training, held_out, steps = training[:SHORT_TRAINING], held_out[:SHORT_HELD_OUT], ["--max_steps", SHORT_STEPS]

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
    return result, questions[0]


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
        f"{OUTPUT.absolute()} holds result.json, loss.png, answers.png, answers.json and the model in finetuned/.",
    ]


def next_command(example: digits.Question, started_from: Path) -> list[str]:
    """A command to try, for somebody who stands in `started_from`, as lines of text."""
    query = example.kind.query.replace(IMAGE_PLACEHOLDER, "")
    words = [
        under(sys.executable),
        under(ROOT / "examples" / "chat_demo.py"),
        "--from_pretrained",
        OUTPUT / "finetuned",
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

#!/usr/bin/env python3
"""A user's whole way with a model of a released size: convert, load, ask, fine-tune, merge, ask again.

    python tests/benchmarks/real_size.py /tmp/real_size --tokenizer DIRECTORY_WITH_TOKENIZER_MODEL

Writes a checkpoint with random weights (`synthetic_checkpoint.py`), and runs the commands that a user runs, each in a
process of its own. Prints a Markdown table: seconds, processor seconds and peak memory of each, beside what the disk
and the products alone need at the speeds that are measured in the same run: weights read and written once, and all
multiplications of the prompt, the tokens and the steps; for a token, the weights read from memory once.

--layers 2 is a quick trial. In full, 1_8b takes 20 GB of disk, 14 GB of memory and a quarter of an hour.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# The checkout's root in place of this folder: works without an installation.
sys.path[0] = str(ROOT)

from tests.benchmarks.synthetic_checkpoint import SIZES, write_synthetic  # noqa: E402

NUM_NEW, NUM_STEPS, ANSWER_WORDS = 20, 2, 300
COMMAND = [sys.executable, "-m", "paddle_xc2"]


@dataclass
class Speeds:
    """Of this machine: bytes a second from and to the disk and memory, multiplications and additions a second."""

    read: float
    write: float
    memory: float
    products: float


@dataclass
class Needs:
    """What a stage can't do without: bytes from and to the disk, weights from memory, multiplications and additions."""

    read: float = 0.0
    write: float = 0.0
    memory: float = 0.0
    products: float = 0.0

    def __add__(self, other):
        return Needs(*(mine + others for mine, others in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[float, ...]:
        return self.read, self.write, self.memory, self.products

    def seconds(self, speeds: Speeds) -> float:
        return (
            self.read / speeds.read
            + self.write / speeds.write
            + self.memory / speeds.memory
            + (self.products / speeds.products)
        )


def measure_speeds(folder: Path) -> Speeds:
    import numpy as np

    from paddle_xc2 import runtime

    runtime.prepare()
    import paddle

    def seconds(action, times: int = 3) -> float:
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            action()
            taken.append(time.perf_counter() - start)
        return min(taken)

    data, file = np.random.default_rng(0).bytes(2**28), folder / "speed.bin"

    def write():
        with open(file, "wb") as target:
            target.write(data)
            os.fsync(target.fileno())

    def read():
        with open(file, "rb", buffering=0) as source:
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while source.read(2**24):
                pass

    writing, reading = seconds(write), seconds(read)
    file.unlink()
    vector, square = paddle.randn([1, 8192]), paddle.randn([8192, 8192])
    paddle.matmul(vector, square)
    memory = 4 * square.size / seconds(lambda: paddle.matmul(vector, square), 5)
    part = square[:2048, :2048].contiguous()
    products = 2 * 2048**3 / seconds(lambda: paddle.matmul(part, part), 5)
    return Speeds(len(data) / reading, len(data) / writing, memory, products)


def run_stage(arguments: list[str], folder: Path) -> tuple[float, float, float, str]:
    """Runs a command. Returns: seconds, processor seconds, peak memory in GB, and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with open(folder / "stage.log", "w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        printed = log.read()
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} ends with exit status {process.returncode}:\n{printed[-3000:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, printed


def write_data(folder: Path, model: Path) -> tuple[Path, Path]:
    """A picture, and an argument file for NUM_STEPS steps of LoRA on a record of it."""
    import numpy as np
    from PIL import Image

    picture = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)).save(picture)
    turns = [{"from": "user", "value": "<ImageHere>What is it?"}, {"from": "assistant", "value": "cat " * ANSWER_WORDS}]
    data = folder / "train.json"
    data.write_text(json.dumps([{"id": "0", "image": [str(picture)], "conversations": turns}]))
    config = folder / "lora.json"
    settings = {"model_name_or_path": str(model), "data_path": str(data), "output_dir": str(folder / "adapter")}
    settings |= {"lora": True, "recompute": True, "max_steps": NUM_STEPS, "per_device_train_batch_size": 1}
    settings |= {"learning_rate": 1e-4, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    config.write_text(json.dumps(settings))
    return picture, config


def count_needs(model: Path, prompt_tokens: int, step_tokens: int) -> dict[str, Needs]:
    """What each stage can't do without."""
    from paddle_xc2.checkpoint.shapes import parameter_shapes
    from paddle_xc2.families.settings import ModelSettings

    config = ModelSettings(**json.loads((model / "config.json").read_text()))
    sizes = {}
    for name, (rows, *columns) in parameter_shapes(config).items():
        part = name.split(".")[0]
        number = rows
        for column in columns:
            number *= column
        sizes[part] = sizes.get(part, 0) + number
        if "plora" in name:
            sizes["plora"] = sizes.get("plora", 0) + number
    stored = 2 * sum(number for part, number in sizes.items() if part != "plora")
    # A table of words is looked up, not multiplied with; PLoRA acts on image tokens, in prompts and steps.
    decoder = sizes["model"] - config.vocab_size * config.hidden_size
    image_tokens = (config.img_size // 14) ** 2
    image = 2.0 * image_tokens * (sizes["vit"] + sizes["vision_proj"])
    pairs = config.num_hidden_layers * config.hidden_size
    load = Needs(read=stored, memory=2 * stored)  # from bfloat16 to float32
    prompt = Needs(products=image + 2.0 * decoder * prompt_tokens + 2.0 * pairs * prompt_tokens**2)
    token = Needs(memory=4.0 * (decoder - sizes["plora"] + sizes["output"]))
    # Forward, again for the backward pass, and the gradients of what goes in; the head without the second.
    trained = 2.0 * sizes["output"] * (step_tokens - image_tokens)
    step = 3 * (2.0 * decoder * step_tokens + 2.0 * pairs * step_tokens**2) + 2 * trained + image
    answer = load + prompt + Needs(memory=NUM_NEW * token.memory)
    return {
        "convert": Needs(read=stored, write=stored),
        "load": load,
        "answer": answer,
        "train": load + Needs(products=NUM_STEPS * step),
        "step": Needs(products=step),
        "merge": Needs(read=stored, write=stored),
    }


def last_step(folder: Path) -> tuple[float, int]:
    """(seconds, tokens) of the last step of the run, as metrics.jsonl tells it."""
    entries = [json.loads(line) for line in (folder / "adapter" / "metrics.jsonl").read_text().splitlines()]
    return entries[-1]["tokens"] / entries[-1]["tokens_per_second"], entries[-1]["tokens"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder for all that is written; removed at the end")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory of the real tokenizer.model")
    parser.add_argument("--size", choices=SIZES, default="1_8b", help="%(default)s")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has, for a quick trial")
    parser.add_argument("--keep", action="store_true", help="don't remove the folder")
    args = parser.parse_args()
    folder = args.folder.resolve()
    source, model, merged = (folder / name for name in ("upstream", "model", "merged"))
    folder.mkdir(parents=True)
    try:
        write_synthetic(source, args.size, num_layers=args.layers)
        for file in args.tokenizer.glob("tokenizer*"):
            shutil.copy(file, source)
        speeds = measure_speeds(folder)
        picture, config = write_data(folder, model)

        def ask(path: Path) -> list[str]:
            ways = ["--image_path", str(picture), "--text", "What is it?", "--greedy", "--max_new_tokens", str(NUM_NEW)]
            return [*COMMAND, "chat", "--from_pretrained", str(path), *ways]

        load = f"from paddle_xc2 import XComposer2ForCausalLM as M; M.from_pretrained({str(model)!r}, dtype='float32')"
        adapter = str(folder / "adapter")
        merge = ["--model_name_or_path", str(model), "--lora_path", adapter, "--output_path", str(merged)]
        stages = {
            "convert": ("convert", [*COMMAND, "convert", str(source), str(model)]),
            "load": ("load", [sys.executable, "-c", load]),
            f"load, answer {NUM_NEW} tokens to a picture": ("answer", ask(model)),
            f"load, {NUM_STEPS} LoRA steps, save": ("train", [*COMMAND, "finetune", str(config)]),
            "merge": ("merge", [*COMMAND, "merge", *merge]),
            "load, answer again": ("answer", ask(merged)),
        }
        taken = {}
        for name, (kind, command) in stages.items():
            taken[name] = (kind, *run_stage(command, folder)[:3])
            print(f"{name}: {taken[name][1]:.1f} s", file=sys.stderr, flush=True)
        seconds_of_step, step_tokens = last_step(folder)
        needs = count_needs(model, step_tokens - ANSWER_WORDS, step_tokens)
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    taken["of it a step"] = ("step", seconds_of_step, None, None)
    title = f"XComposer2-VL {args.size}" + (f", {args.layers} layers" if args.layers else "")
    print_table(f"{title}, {step_tokens} tokens a step", speeds, taken, needs)


def print_table(title: str, speeds: Speeds, taken: dict, needs: dict[str, Needs]) -> None:
    """taken: {stage: (key of needs, seconds, processor seconds, peak GB)}."""
    measured = [
        f"disk {speeds.read / 1e9:.1f} GB/s read and {speeds.write / 1e9:.1f} written",
        f"memory {speeds.memory / 1e9:.0f} GB/s",
        f"products {speeds.products / 1e9:.0f} GFLOP/s",
    ]
    print(f"{title}. {date.today()}, {processor_name()}, load {os.getloadavg()[0]:.1f}: {', '.join(measured)}.\n")
    print("| stage | seconds | processor s | peak GB | disk and products need, s | times |\n|---|---|---|---|---|---|")
    for name, (kind, seconds, processor, peak) in taken.items():
        need = needs[kind].seconds(speeds)
        cells = [f"{seconds:.1f}", *("" if value is None else f"{value:.1f}" for value in (processor, peak))]
        print(f"| {name} | {' | '.join(cells)} | {need:.1f} | {seconds / need:.1f} |")


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else 'unknown processor'}"


if __name__ == "__main__":
    main()

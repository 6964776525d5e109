#!/usr/bin/env python3
"""Runs that are killed, and runs whose disk fills up: do they end as if nothing had happened?

    python tests/benchmarks/torture.py
    python tests/benchmarks/torture.py --lora
    python tests/benchmarks/torture.py --part overwrite [--limit 50]
    python tests/benchmarks/torture.py --part all --limit 50

With --part, as torture_parts.py says: kills a command before and after every rename, removal and new file (overwrite,
llava, convert, merge, convert-data, check-data, report, finetune, again, resumed), starts it twice at once (twice), or
takes from a run its reader, its terminal or a data worker (left); short is some of each.

Without, trains a tiny model once without interruption: all of it, or LoRA and, whole, its projector, so that a
checkpoint holds an adapter. Then trains it again and again: each run is killed with SIGKILL up to three times, at
random moments or in the midst of writing a checkpoint, and started anew until it is done. The last ones write into a
small tmpfs that is filled up at a random moment, where one can be mounted, and else meet an injected ENOSPC; they have
to say so and to exit with 1, and are started anew with room again. Every run must end with the same model or adapter,
metrics and predictions as the uninterrupted one, and with nothing left over.

The runs are forked from this process, which has imported everything and computed nothing. Prints one JSON line: how
many runs, kills (in_save: with a checkpoint half-written), full disks and starts there were, how large a checkpoint
is, the seed, and how many runs ended otherwise (the first of them in `wrong`); exits with 1 if any did.
"""

import argparse
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
# The checkout's root in place of this folder: works without an installation.
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

# On the small disk: three at most lie there, one that is being written, and the model at the end.
CHECKPOINTS_ON_DISK = 9
STEPS = 10
LORA = {
    **{"lora": True, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.1},
    **{"fix_sampler": False, "mm_projector_lr": 3e-4},
    **{"new_tokens": ["digit is"], "train_tokens": ["e"], "embeddings_lr": 2e-3},
}
MEASURED = ("tokens_per_second", "peak_memory_gb", "eval_seconds")  # never the same twice


def in_child(function) -> int:
    """Forks a process that calls `function` and exits with what it returns. Returns: its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        status = function()
    finally:
        os._exit(status)


def exit_status(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def make_workspace(folder: Path) -> int:
    """Writes the model and the data of all runs."""
    import numpy as np
    from PIL import Image

    from tests.tiny import tiny_checkpoint

    tiny_checkpoint(folder / "model", num_unused=2)
    draw = np.random.default_rng(0)
    for name, indexes in (("train", range(11)), ("eval", range(100, 103))):
        records = []
        for index in indexes:
            image = f"{index}.png"
            Image.fromarray(draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / image)
            turns = [f"Which digit is {index}?", f"The digit {index * 7 % 10}."]
            messages = [{"from": who, "value": turn} for who, turn in zip(("user", "assistant"), turns, strict=True)]
            records.append({"id": str(index), "image": [image] * (index % 2), "conversations": messages})
        (folder / f"{name}.json").write_text(json.dumps(records))
    return 0


def write_config(folder: Path, output_dir: Path, num_workers: int, learning: dict) -> Path:
    """Args:
    learning: arguments that say what learns.
    """
    values = {
        "model_name_or_path": str(folder / "model"),
        "dataset": {part: [{"data_files": str(folder / f"{part}.json")}] for part in ("train", "eval")},
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 2,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "logging_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 2,
        "evaluation_strategy": "steps",
        "eval_steps": 3,
        "eval_with_do_generation": True,
        "max_new_tokens": 4,
        "save_generation_output": True,
        "load_best_model_at_end": True,
        "dataloader_num_workers": num_workers,
        "disable_tqdm": True,
        **learning,
    }
    path = output_dir.with_name(f"{output_dir.name}.json")
    path.write_text(json.dumps(values))
    return path


def train(config: Path, log: Path, full_at: int | None = None) -> int:
    """`paddle-xc2 finetune CONFIG` in this process, its output in `log`.

    Args:
        full_at: the disk is full as soon as so many bytes of a checkpoint are written; None is never.
    """
    from paddle_xc2.cli import main

    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if full_at is not None:
        fsync, written = os.fsync, 0

        def fsync_or_fail(descriptor):
            nonlocal written
            written += os.fstat(descriptor).st_size
            if written > full_at:
                path = os.readlink(f"/proc/self/fd/{descriptor}")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            fsync(descriptor)

        os.fsync = fsync_or_fail
    return main(["finetune", str(config)])


def outcome(output_dir: Path) -> dict:
    """What has to be the same: SHA-256 of model, tokenizer and predictions, what was logged, which files there are."""
    files = sorted(path for path in output_dir.iterdir() if path.is_file())
    same = [path for path in files if path.suffix == ".safetensors" or path.name.startswith(("predictions-", "token"))]
    entries = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        "sums": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in same},
        "metrics": [{key: value for key, value in entry.items() if key not in MEASURED} for entry in entries],
        "names": sorted(path.name for path in output_dir.iterdir()),
    }


def half_written(output_dir: Path) -> bool:
    return any(output_dir.glob(".paddle_xc2-writing-checkpoint-*"))


class Torture:
    """Counts what was done to the runs."""

    def __init__(self, folder: Path, draw: random.Random, may_mount: bool, learning: dict):
        self.folder = folder
        self.draw = draw
        self.may_mount = may_mount
        self.learning = learning
        self.counts = {"kills": 0, "in_save": 0, "full_disks": 0, "starts": 0}
        self.seconds = 0.0  # of an uninterrupted run
        self.checkpoint_bytes = 0  # of one checkpoint of such a run

    def write_config(self, output_dir: Path, num_workers: int = 0) -> Path:
        return write_config(self.folder, output_dir, num_workers, self.learning)

    def start(self, config: Path, **injected) -> int:
        self.counts["starts"] += 1
        return in_child(lambda: train(config, config.with_suffix(".log"), **injected))

    def uninterrupted(self) -> dict:
        output_dir = self.folder / "reference"
        config = self.write_config(output_dir)
        started = time.perf_counter()
        self.finish(config)
        self.seconds = time.perf_counter() - started
        newest = output_dir / f"checkpoint-{STEPS}"
        self.checkpoint_bytes = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
        return outcome(output_dir)

    def finish(self, config: Path) -> None:
        status = exit_status(self.start(config))
        if status:
            raise RuntimeError(f"exit status {status}: {last_line(config)}")

    def killed(self, index: int) -> dict:
        """A run that is killed one to three times."""
        output_dir = self.folder / f"killed{index}"
        config = self.write_config(output_dir, index % 2)
        before = self.counts["kills"]
        while self.counts["kills"] == before:
            shutil.rmtree(output_dir, ignore_errors=True)  # it was done too soon
            for _ in range(self.draw.randint(1, 3)):
                self.kill_once(config, output_dir)
        self.finish(config)
        return outcome(output_dir)

    def kill_once(self, config: Path, output_dir: Path) -> None:
        process = self.start(config)
        self.wait_for_a_moment(process, output_dir)
        os.kill(process, signal.SIGKILL)
        if exit_status(process) == -signal.SIGKILL:
            self.counts["kills"] += 1
            self.counts["in_save"] += half_written(output_dir)

    def wait_for_a_moment(self, process: int, output_dir: Path) -> None:
        """Somewhere in the run; every other time, somewhere in a save."""
        ended = time.perf_counter() + self.draw.uniform(0, self.seconds)
        if self.draw.random() < 0.5:
            time.sleep(max(0, ended - time.perf_counter()))
            return
        skipped, seen = self.draw.randrange(STEPS // 2), False
        while not gone(process):
            now = half_written(output_dir)
            if now and not seen:
                if not skipped:
                    time.sleep(self.draw.uniform(0, 0.05))
                    return
                skipped -= 1
            seen = now
            time.sleep(0.0005)

    def full(self, index: int) -> dict:
        """A run whose disk fills up."""
        disk = self.folder / f"disk{index}"
        disk.mkdir()
        mounted = self.may_mount and mount(disk, CHECKPOINTS_ON_DISK * self.checkpoint_bytes)
        before = self.counts["full_disks"]
        try:
            while self.counts["full_disks"] == before:
                shutil.rmtree(disk / "full", ignore_errors=True)  # it was done too soon
                result = self.full_on(disk / "full", mounted)
            return result
        finally:
            if mounted:
                subprocess.run(["umount", str(disk)], check=True)

    def full_on(self, output_dir: Path, mounted: bool) -> dict:
        config = self.write_config(output_dir)
        ballast = output_dir.with_name("ballast")
        if mounted:
            process = self.start(config)
            self.wait_for_a_moment(process, output_dir)
            left = self.draw.randrange(self.checkpoint_bytes)
            # Only what is left to be written counts: a checkpoint may be half-written, and old ones make room.
            while not gone(process):
                fill_up(ballast, left)
                time.sleep(0.002)
        else:
            process = self.start(config, full_at=self.draw.randrange(4 * self.checkpoint_bytes))
        status = exit_status(process)
        if status:
            told = last_line(config)
            if (
                status != 1
                or "can't be written to" not in told
                or "Traceback" in config.with_suffix(".log").read_text()
            ):
                raise RuntimeError(f"exit status {status} when the disk was full: {told}")
            self.counts["full_disks"] += 1
        ballast.unlink(missing_ok=True)
        self.finish(config)
        return outcome(output_dir)


def gone(process: int) -> bool:
    """Whether a child has ended; it can still be waited for."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def last_line(config: Path) -> str:
    return (config.with_suffix(".log").read_text().strip().splitlines() or [""])[-1]


def mount(folder: Path, size: int) -> bool:
    """Mounts a small disk of `size` bytes at `folder`, if that is permitted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def fill_up(ballast: Path, left: int) -> None:
    """Makes a file so large that `left` bytes of its disk are free, at most."""
    with open(ballast, "ab") as file:
        size = shutil.disk_usage(ballast.parent).free - left
        if size > 0:
            try:
                os.posix_fallocate(file.fileno(), file.tell(), size)
            except OSError:
                pass  # the run was faster


def torture_parts(folder: Path, args, seed: int) -> int:
    """--part: returns the exit status."""
    from tests.benchmarks.torture_jobs import make_jobs, make_models
    from tests.benchmarks.torture_parts import PARTS, Parts, jobs_of

    if args.part not in PARTS:
        raise SystemExit(f"--part {args.part}: there are {', '.join(PARTS)}")
    if exit_status(in_child(lambda: make_models(folder) or 0)):
        raise RuntimeError("the models could not be made")
    started = time.perf_counter()
    jobs = make_jobs(folder, jobs_of(args.part))
    parts = Parts(jobs, random.Random(seed), lambda line: print(line, file=sys.stderr, flush=True))
    for deed, name in PARTS[args.part]:
        getattr(parts, deed)(name, args.limit if deed == "killed" else args.times)
    result = {"part": args.part, **parts.counts, "seconds": round(time.perf_counter() - started), "seed": seed}
    print(json.dumps(result | {"ended_otherwise": len(parts.wrong), "wrong": parts.wrong[:10]}))
    return int(bool(parts.wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="runs that are killed (%(default)s)")
    parser.add_argument("--full-disks", type=int, default=5, help="runs whose disk fills up (%(default)s)")
    parser.add_argument("--lora", action="store_true", help="train LoRA, the projector and tokens, not the whole model")
    parser.add_argument("--no-mount", action="store_true", help="mount nothing, inject ENOSPC")
    parser.add_argument("--part", help="of torture_parts.py, or all of them")
    parser.add_argument("--limit", type=int, help="of --part: places to kill at, of each command; all if left out")
    parser.add_argument("--times", type=int, default=3, help="of --part: of each pair, and of what is taken away")
    parser.add_argument("--seed", type=int, help="of the moments; drawn if it is left out")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed

    from paddle_xc2 import runtime

    runtime.prepare_environment()
    import paddle_xc2.training.finetune  # noqa: F401  what is imported here is not imported in every run
    import tests.tiny  # noqa: F401

    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    wrong = []
    if args.part:
        try:
            return torture_parts(folder, args, seed)
        finally:
            shutil.rmtree(folder)
    try:
        if exit_status(in_child(lambda: make_workspace(folder))):
            raise RuntimeError("the model to train could not be made")
        torture = Torture(folder, random.Random(seed), not args.no_mount, LORA if args.lora else {})
        started = time.perf_counter()
        expected = torture.uninterrupted()
        runs = [(torture.killed, index) for index in range(args.kills)]
        runs += [(torture.full, index) for index in range(args.full_disks)]
        for run, index in runs:
            try:
                got = run(index)
                wrong += [f"{run.__name__} {index}: {key}" for key in expected if got[key] != expected[key]]
            except (RuntimeError, OSError) as error:
                wrong.append(f"{run.__name__} {index}: {error}")
            for path in folder.glob(f"{run.__name__}{index}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        seconds = round(time.perf_counter() - started)
        result = {"lora": args.lora, "checkpoint_bytes": torture.checkpoint_bytes, "runs": len(runs), **torture.counts}
        result |= {"seconds": seconds, "seed": seed, "ended_otherwise": len(wrong), "wrong": wrong[:3]}
        print(json.dumps(result))
    finally:
        shutil.rmtree(folder)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

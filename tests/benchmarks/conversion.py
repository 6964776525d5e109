#!/usr/bin/env python3
"""Speed and memory of a conversion there and back, beside `cp` of the same files.

    python tests/benchmarks/synthetic_checkpoint.py /tmp/synthetic_7b
    python tests/benchmarks/conversion.py /tmp/synthetic_7b

Runs `paddle-xc2 convert` from upstream's layout to ours and back, each in a process of its own and next to a `cp` of
the files that it reads; before each of them these files leave the system's cache. Compares every byte of every tensor
that came back. Then kills a conversion when half of its shards are finished, starts it again and compares the files.
Writes beside the checkpoint, where three times its size has to be free, and deletes what it wrote.

Prints one JSON line. `there` and `back`: seconds of the command, from its start to its end, and of `cp`, once until it
returned and once until the copy was on the disk as well; `of_cp`, the speed of the command as a part of the first of
these; peak memory in MB above an idle interpreter (as /usr/bin/time -v tells it), user and system seconds. `load` is
how many processes wanted to run at the start: figures of a machine that does other things are no figures.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

# The checkout's root in place of this folder: works without an installation.
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

CONVERT = [sys.executable, "-m", "paddle_xc2.cli", "convert", "--disable_tqdm", "--max-shard-size"]


def measure(command: list) -> dict:
    """Runs a command. Returns: its seconds and peak memory. Raises: CalledProcessError if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise subprocess.CalledProcessError(status, command)
    return {
        "s": round(seconds, 2),
        "user_s": round(usage.ru_utime, 1),
        "system_s": round(usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def for_files(directory: Path, action) -> None:
    """Calls `action` with a descriptor of every file."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                action(descriptor)
            finally:
                os.close(descriptor)


def leave_cache(directory: Path) -> None:
    """Lets the system forget what it holds of the files, so that whoever reads them next waits for the disk."""
    for_files(directory, os.fsync)
    for_files(directory, lambda descriptor: os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED))


def beside_cp(source: Path, destination: Path, to: str, shard_size: str, idle_mb: float) -> dict:
    """A conversion from `source` to `destination`, after a copy of the same files."""
    copy = destination.with_name("copy")
    leave_cache(source)
    copied = measure(["cp", "-r", source, copy])
    started = time.perf_counter()
    for_files(copy, os.fsync)
    sync_s = time.perf_counter() - started
    shutil.rmtree(copy)
    leave_cache(source)
    converted = measure([*CONVERT, shard_size, source, destination, "--to", to])
    return {
        **converted,
        "cp_s": copied["s"],
        "cp_and_sync_s": round(copied["s"] + sync_s, 2),
        "cp_system_s": copied["system_s"],
        "of_cp": round(copied["s"] / converted["s"], 2),
        "of_cp_and_sync": round((copied["s"] + sync_s) / converted["s"], 2),
        "peak_above_idle_mb": round(converted["peak_mb"] - idle_mb),
    }


def check_equal_tensors(first: Path, second: Path) -> None:
    """Raises: ValueError naming a tensor that differs."""
    from paddle_xc2.checkpoint.shards import read_checkpoint

    first, second = read_checkpoint(first), read_checkpoint(second)
    if first.keys() != second.keys():
        raise ValueError(f"other names: {first.keys() ^ second.keys()}")
    for name, tensor in first.items():
        if (tensor.dtype, tensor.shape) != (second[name].dtype, second[name].shape):
            raise ValueError(f"{name}: another dtype or shape")
        # Compared as integers, with which a NaN equals itself.
        one, other = tensor.read().view("u2"), second[name].read().view("u2")
        for start in range(0, len(one), 4096):
            if (one[start : start + 4096] != other[start : start + 4096]).any():
                raise ValueError(f"{name}: other values")


def interrupted(source: Path, destination: Path, shard_size: str, expected: Path) -> dict:
    """Kills a conversion when half of its shards are finished, and starts it again.

    Returns: how many shards were finished, seconds of the second start. Raises: ValueError if a finished shard is
        written again, or the result is not `expected`.
    """
    state = destination.with_name(f".paddle_xc2-unfinished-{destination.name}") / "finished_shards.json"
    num_shards = len(list(expected.glob("*.safetensors")))
    process = subprocess.Popen([*CONVERT, shard_size, str(source), str(destination)], cwd=ROOT)
    finished = {}
    while len(finished) < num_shards // 2:
        if process.poll() is not None:
            raise ValueError("the conversion ended before it could be killed; take a larger checkpoint")
        time.sleep(0.02)
        if state.is_file():
            finished = json.loads(state.read_text())["shards"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    inodes = {name: (state.parent / name).stat().st_ino for name in finished}
    again = measure([*CONVERT, shard_size, source, destination])
    if any((destination / name).stat().st_ino != inode for name, inode in inodes.items()):
        raise ValueError("a finished shard was written again")
    manifests = [json.loads((path / "paddle_xc2_manifest.json").read_text()) for path in (destination, expected)]
    if manifests[0] != manifests[1]:
        raise ValueError("the files are not those of a conversion at one go")
    return {"finished_shards": len(finished), "shards": num_shards, "second_start_s": again["s"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="in upstream's layout")
    parser.add_argument("--max-shard-size", default="5GB", help="%(default)s")
    parser.add_argument("--no-kill", action="store_true", help="leave out the conversion that is killed")
    args = parser.parse_args()
    work = args.checkpoint.resolve().with_name(f"{args.checkpoint.name}_conversion")
    work.mkdir()
    try:
        load = os.getloadavg()[0]
        num_bytes = sum(path.stat().st_size for path in args.checkpoint.glob("*.safetensors"))
        idle_mb = measure([sys.executable, "-c", "pass"])["peak_mb"]
        results = {"gb": round(num_bytes / 1e9, 2), "load": load, "idle_mb": idle_mb}
        results["there"] = beside_cp(args.checkpoint.resolve(), work / "ours", "paddle", args.max_shard_size, idle_mb)
        results["back"] = beside_cp(work / "ours", work / "back", "hf", args.max_shard_size, idle_mb)
        check_equal_tensors(args.checkpoint, work / "back")
        results["bit_exact"] = True
        shutil.rmtree(work / "back")
        if not args.no_kill:
            results["killed"] = interrupted(
                args.checkpoint.resolve(), work / "again", args.max_shard_size, work / "ours"
            )
        print(json.dumps(results))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

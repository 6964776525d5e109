#!/usr/bin/env python3
"""Where the time goes: seconds and new memory of every operator and part of a training step, a prefill and a token.

    python tests/benchmarks/profile_step.py
    python tests/benchmarks/profile_step.py --what token --vocab 92544

Profiles what `speed.py` measures, of the same sizes, with Paddle's profiler. Each is done --steps times, and of every
operator call the fastest counts, for what other programs did to one call they rarely did to all. Prints a table of the
parts, and one of the operators of each part, the longest first. An operator's own time is without those that it calls;
"(between)" is a part's time outside of operators, which is Python's and Paddle's bookkeeping. "new MB" is what an
operator allocates, which is what it has to write. The profiler itself takes some ten microseconds a call.
"""

import argparse
import contextlib
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import speed

# The checkout's root in place of this folder: works without an installation.
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

# Layers that are one operator: what they do belongs to the layer around them.
SINGLE = ("Linear", "PLoRALinear", "LoRALinear", "Dropout", "LayerNorm", "Embedding", "GELU")


@dataclass
class Call:
    """Attributes:
    part: of what.
    name: of the operator.
    seconds: its own.
    new_bytes: that it allocates.
    """

    part: str
    name: str
    seconds: float
    new_bytes: int


@dataclass
class Total:
    """Of all calls of a kind."""

    calls: int = 0
    seconds: float = 0.0
    new_bytes: int = 0

    def add(self, call: Call) -> None:
        self.calls, self.seconds = self.calls + 1, self.seconds + call.seconds
        self.new_bytes += call.new_bytes


class Recorder:
    """Records every operator call, in order, and what is between them."""

    def __init__(self):
        self.runs: list[list[Call]] = []
        self._profiler = None

    def start(self) -> None:
        from paddle import profiler

        cpu = [profiler.ProfilerTarget.CPU]
        self._profiler = profiler.Profiler(targets=cpu, profile_memory=True, on_trace_ready=lambda _: None)
        self._profiler.start()

    def stop(self) -> None:
        """Ends a run."""
        self._profiler.stop()
        calls: list[Call] = []
        for root in self._profiler.profiler_result.get_data().values():
            for step in root.children_node:
                _walk(step, "elsewhere", calls)
        self._profiler = None  # Paddle makes no second one while it is there
        self.runs.append(calls)

    def record(self, run, times: int) -> list[Call]:
        """Does it once unrecorded, and then so many times. Returns: the calls, each with its least time."""
        run()
        for _ in range(times):
            self.start()
            run()
            self.stop()
        return fastest(self.runs)


def _walk(node, part: str, calls: list[Call]) -> tuple[float, int]:
    """Adds what a node of the profiler's tree took to `calls`. Returns: its seconds and new bytes, all in all."""
    kind = str(node.type).removeprefix("TracerEventType.")
    part = _part(node.name, kind, part)
    inner = [_walk(child, part, calls) for child in node.children_node]
    seconds = (node.end_ns - node.start_ns) * 1e-9
    new_bytes = sum(max(0, change.increase_bytes) for change in node.mem_node) + sum(size for _, size in inner)
    own = seconds - sum(time for time, _ in inner)
    if kind == "Operator" and " dygraph" in node.name or node.name.startswith("Local_"):
        name = node.name.removesuffix(" dygraph").removeprefix("Local_")
        calls.append(Call(part, name, seconds, new_bytes))
    elif not _within_operator(node, kind):
        calls.append(Call(part, "(between)", own, 0))
    return seconds, new_bytes


def _within_operator(node, kind: str) -> bool:
    return kind in ("OperatorInner", "DygraphKernelLaunch") or node.name.endswith((" infer_meta", " kernel launch"))


def _part(name: str, kind: str, around: str) -> str:
    """What a node and those within it are part of."""
    if kind == "Forward" and name not in SINGLE:
        return name
    if kind in ("Backward", "Optimization"):
        return kind.lower()
    if "GradNodePyLayer_" in name:
        return "backward of " + name.rpartition("GradNodePyLayer_")[2].strip("_")
    return around


def fastest(runs: list[list[Call]]) -> list[Call]:
    """The calls of runs that did the same, each with its least time."""
    names = [[(call.part, call.name) for call in run] for run in runs]
    alike = [run for run, kinds in zip(runs, names, strict=True) if kinds == names[-1]]
    return [
        Call(calls[0].part, calls[0].name, min(call.seconds for call in calls), calls[0].new_bytes)
        for calls in zip(*alike, strict=True)
    ]


def print_tables(title: str, calls: list[Call], rows: int) -> None:
    parts: dict[str, Total] = defaultdict(Total)
    operators: dict[tuple[str, str], Total] = defaultdict(Total)
    for call in calls:
        parts[call.part].add(call)
        operators[call.part, call.name].add(call)
    everything = sum(call.seconds for call in calls)
    print(f"\n{title}: {1e3 * everything:.1f} ms")
    for kind, totals in (("part", parts), ("operator", operators)):
        print(f"{'ms':>9}  {'%':>5}  {'calls':>6}  {'new MB':>8}  {kind}")
        ordered = sorted(totals.items(), key=lambda item: -item[1].seconds)
        for name, total in ordered[:rows]:
            shown = name if kind == "part" else f"{name[0]}: {name[1]}"
            share = 100 * total.seconds / everything
            print(f"{1e3 * total.seconds:9.2f}  {share:5.1f}  {total.calls:6}  {total.new_bytes / 1e6:8.1f}  {shown}")


def profile_training(args, model, folder: Path) -> list[Call]:
    """Calls of a step as it is in a fine-tuning run."""
    recorder = Recorder()

    def on_step_end(step: int) -> None:
        if step > speed.WARM_UP_STEPS:
            recorder.stop()
        if speed.WARM_UP_STEPS <= step < speed.WARM_UP_STEPS + args.steps:
            recorder.start()

    with contextlib.redirect_stdout(sys.stderr):
        speed.train(args, model, folder, on_step_end)
    return fastest(recorder.runs)


def profile_prefill(args, model, batch) -> list[Call]:
    prompt = speed.prompt_of(batch)
    return Recorder().record(lambda: model.generate(**prompt, max_new_tokens=1, eos_token_id=[]), args.steps)


def profile_token(args, model, batch) -> list[Call]:
    """Calls of one more token, of which the prompt is computed already."""
    import paddle

    from paddle_xc2.generation.runner import Prompt, Runner

    ids, mask = batch["input_ids"].numpy(), batch["image_mask"].numpy()
    prompt = Prompt(ids, mask | True, mask, model.image_tokens(batch["pixel_values"]))
    token = paddle.full([1, 1], 5, "int64")
    with paddle.no_grad(), Runner(model, prompt) as runner:
        runner.prefill()
        return Recorder().record(lambda: runner.step(token), 5 * args.steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=("step", "prefill", "token"), default=["step", "prefill", "token"])
    parser.add_argument("--rows", type=int, default=40, help="of a table (%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="times that each is done (%(default)s)")
    speed.add_sizes(parser)
    args = parser.parse_args()

    from paddle_xc2 import runtime

    runtime.prepare()
    model = speed.build_model(args)
    with tempfile.TemporaryDirectory() as folder:
        batch = speed.make_batch(args, model, Path(folder))
        if "step" in args.what:
            print_tables("step", profile_training(args, model, Path(folder)), args.rows)
    if "prefill" in args.what:
        print_tables("prefill", profile_prefill(args, model, batch), args.rows)
    if "token" in args.what:
        print_tables("token", profile_token(args, model, batch), args.rows)


if __name__ == "__main__":
    main()

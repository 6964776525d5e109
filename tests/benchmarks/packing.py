#!/usr/bin/env python3
"""Trained tokens per second of fine-tuning, by how samples are made into batches.

    python tests/benchmarks/packing.py

A tiny XComposer2 (random weights, 128 wide, 2 layers, PLoRA of rank 256) trains on text samples whose lengths follow a
log-normal distribution: by default a median of 100 tokens and a spread (sigma of the logarithm) of 1.0, cut at 16 and
2048, as instruction data are that mix one-line answers with long conversations. The second half of each sample is
trained. The ways to make batches are planned by `data/step_order.py` for the whole set, as in a run:

    padded to max    8 samples a batch, padded to 2048 tokens, as PaddleMIX pads
    padded           8 samples a batch, padded to the longest
    grouped          the same with group_by_length
    limited          max_tokens_per_batch 4096
    packed           mixtoken: 2 rows a batch of up to 2048 tokens

A few batches of each way are timed, evenly spread over its batches from the smallest to the largest; all ways make one
AdamW step every 64 samples, so that only the batches differ. Repetitions alternate between the ways; medians are told.
`filled` is the share of computed tokens of the whole set that is no padding, peak memory is the process's while the way
runs. Prints a table and the histogram of lengths on standard error, one JSON line on standard output. `load` is
how many processes wanted to run at the start: figures of a machine that does other things are no figures.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import NormalDist, median

# The checkout's root in place of this folder: works without an installation.
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

SHORTEST, LONGEST = 16, 2048
BATCH_SIZE = 8
SAMPLES_PER_STEP = 64
TIMED_BATCHES = {"padded to max": 1, "padded": 12, "grouped": 12, "limited": 4, "packed": 4}  # in a repetition
VOCABULARY = 2000


def draw_lengths(number: int, middle: float, spread: float, seed: int):
    """int64 [number]: quantiles of the distribution in a random order."""
    import numpy as np

    quantiles = [NormalDist().inv_cdf((index + 0.5) / number) for index in range(number)]
    lengths = np.exp(np.log(middle) + spread * np.array(quantiles)).astype(np.int64)
    return np.random.default_rng(seed).permutation(np.clip(lengths, SHORTEST, LONGEST))


def make_examples(lengths, seed: int) -> list:
    import numpy as np

    from paddle_xc2.data.encode import Example
    from paddle_xc2.families.special_tokens import IGNORE_INDEX

    random = np.random.default_rng(seed)
    examples = []
    for length in lengths.tolist():
        ids = random.integers(3, VOCABULARY, length)
        labels = np.where(np.arange(length) < length // 2, IGNORE_INDEX, ids)
        examples.append(Example(ids, labels, np.zeros(length, bool)))
    return examples


def build_model():
    import paddle

    from paddle_xc2.families.config import XComposer2Config
    from paddle_xc2.model import XComposer2ForCausalLM

    paddle.seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = XComposer2ForCausalLM(
        XComposer2Config(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            xc2_family="xcomposer2-7b",
            img_size=28,
            vision_config=vision,
        )
    )
    for parameter in model.vit.parameters():
        parameter.stop_gradient = True
    model.train()
    return model


def plan_ways(lengths, seed: int) -> dict:
    """{name: [rows of each batch of an epoch]}, rows as lists of samples."""
    import numpy as np

    from paddle_xc2.data.mixture import Mixture
    from paddle_xc2.data.step_order import Layout, StepOrder

    layouts = {
        "padded": Layout(BATCH_SIZE, largest_first=False),
        "grouped": Layout(BATCH_SIZE, grouping="length", largest_first=False),
        "limited": Layout(1, batch_tokens=2 * LONGEST, largest_first=False),
        "packed": Layout(2, row_tokens=LONGEST, largest_first=False),
    }
    nothing = np.zeros(len(lengths), np.int64)
    ways = {}
    for name, layout in layouts.items():
        order = StepOrder(Mixture(nothing, [len(lengths)], seed), lengths, nothing > 0, layout, seed)
        steps = range(order.end_of_epoch(0))
        ways[name] = [batch for step in steps for batch in order.batches_of(step, BATCH_SIZE)]
    return {"padded to max": ways["padded"], **ways}


def collate(rows: list, examples: list, to_max: bool) -> dict:
    import numpy as np

    from paddle_xc2.data.collate import collate_rows, to_tensors
    from paddle_xc2.families.special_tokens import IGNORE_INDEX

    batch = collate_rows([[examples[index] for index in row] for row in rows], pad_token_id=2)
    if to_max:
        missing = LONGEST - batch["input_ids"].shape[1]
        fill = {"input_ids": 2, "labels": IGNORE_INDEX}
        for name in ("input_ids", "labels", "image_mask", "attention_mask", "position_ids"):
            batch[name] = np.pad(batch[name], [(0, 0), (0, missing)], constant_values=fill.get(name, 0))
    return to_tensors(batch)


def computed_tokens(rows: list, lengths, to_max: bool) -> int:
    return len(rows) * (LONGEST if to_max else int(max(lengths[row].sum() for row in rows)))


def choose_batches(batches: list, lengths, number: int, to_max: bool) -> list:
    """As many of them, evenly spread from the smallest to the largest.

    Those padded to max are all of one size: the ones whose samples have nearest to the mean number of tokens.
    """
    if to_max:
        mean = lengths.mean() * BATCH_SIZE
        return sorted(batches, key=lambda rows: abs(sum(lengths[row].sum() for row in rows) - mean))[:number]
    ascending = sorted(batches, key=lambda rows: computed_tokens(rows, lengths, to_max=False))
    return [ascending[int((index + 0.5) * len(batches) / number)] for index in range(number)]


def run_way(model, optimizer, batches: list, examples: list, to_max: bool) -> float:
    """Trains on the batches. Returns: trained tokens per second."""
    started, num_samples, num_trained = time.perf_counter(), 0, 0
    for rows in batches:
        out = model(**collate(rows, examples, to_max))
        out.loss.backward()
        num_trained += out.num_trained_tokens
        before, num_samples = num_samples, num_samples + sum(map(len, rows))
        if num_samples // SAMPLES_PER_STEP > before // SAMPLES_PER_STEP or rows is batches[-1]:
            optimizer.step()
            optimizer.clear_grad(set_to_zero=False)
    return num_trained / (time.perf_counter() - started)


def reset_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # then the peak is that of all ways so far


def peak_memory_mb() -> int:
    import resource

    try:
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) // 1024
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def count_by_length(lengths) -> dict[str, int]:
    """How many samples there are between neighbouring powers of two."""
    counts, low = {}, SHORTEST
    while low < LONGEST:
        last = low * 2 == LONGEST
        counts[f"{low}-{low * 2 if last else low * 2 - 1}"] = int(((lengths >= low) & (lengths < low * 2 + last)).sum())
        low *= 2
    return counts


def histogram_lines(counts: dict[str, int]) -> list[str]:
    total = sum(counts.values())
    return [f"{name:>9}  {'#' * round(60 * count / total)} {count / total:.0%}" for name, count in counts.items()]


def draw_histogram(lengths, path: str) -> None:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(lengths, bins=np.geomspace(SHORTEST, LONGEST, 29), color="tab:blue")
    axes.set(xlabel="tokens of a sample", ylabel="samples", xscale="log")
    FigureCanvasAgg(figure).print_png(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4096, help="in the set (%(default)s)")
    parser.add_argument("--median", type=float, default=100, help="length of a sample, in tokens (%(default)s)")
    parser.add_argument("--spread", type=float, default=1.0, help="sigma of the logarithm of lengths (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions of each way (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the ids (%(default)s)")
    parser.add_argument("--histogram", metavar="PNG", help="also draw the histogram of lengths into a file")
    args = parser.parse_args()

    from paddle_xc2 import runtime

    load = round(os.getloadavg()[0], 1)
    threads = runtime.prepare().threads.value

    import paddle

    lengths = draw_lengths(args.samples, args.median, args.spread, args.seed)
    examples = make_examples(lengths, args.seed)
    ways = plan_ways(lengths, args.seed)
    model = build_model()
    learning = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.AdamW(1e-5, parameters=learning)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, 0)
    run_way(model, optimizer, ways["packed"][:2], examples, False)  # Paddle's first steps are slower
    for _ in range(args.repeats):
        for name, batches in ways.items():
            reset_peak_memory()
            to_max = name == "padded to max"
            chosen = choose_batches(batches, lengths, TIMED_BATCHES[name], to_max)
            speeds[name].append(run_way(model, optimizer, chosen, examples, to_max))
            peaks[name] = max(peaks[name], peak_memory_mb())

    result = {"trained_tokens_s": {}, "filled": {}, "peak_mb": peaks}
    for name, batches in ways.items():
        computed = sum(computed_tokens(rows, lengths, name == "padded to max") for rows in batches)
        result["trained_tokens_s"][name] = round(median(speeds[name]), 1)
        result["filled"][name] = round(float(lengths.sum() / computed), 3)
    medians = result["trained_tokens_s"]
    result["packed_over_padded"] = round(medians["packed"] / medians["padded"], 2)
    result["packed_over_padded_to_max"] = round(medians["packed"] / medians["padded to max"], 2)
    result["grouped_over_padded"] = round(medians["grouped"] / medians["padded"], 2)
    counts = count_by_length(lengths)
    result |= {
        "lengths": {"samples": len(lengths), "median": args.median, "spread": args.spread, "mean": int(lengths.mean())},
        "histogram": counts,
        "repeats": args.repeats,
        "threads": int(threads),
        "load": load,
    }
    lines = [f"{'':<15}{'trained tokens/s':>17}{'against padded':>16}{'filled':>9}{'peak MB':>9}"]
    for name, speed in medians.items():
        against = speed / medians["padded"]
        lines.append(f"{name:<15}{speed:>17,.0f}{against:>15.2f}x{result['filled'][name]:>9.1%}{peaks[name]:>9,}")
    print("\n".join(["tokens of a sample", *histogram_lines(counts), "", *lines]), file=sys.stderr)
    if args.histogram:
        draw_histogram(lengths, args.histogram)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Every Paddle operator of the hot paths at real sizes, against what its bytes and its arithmetic need here.

    python tests/benchmarks/operators.py

Sizes are those of the 7B models: hidden 4096, 4096 tokens, 92,544 and 151,936 words, 25 tiles and a global view. What
an operator needs is the longest of: its bytes over the speed of a copy, its multiplications over the speed of a large
product, and, where that is neither, the time that NumPy takes for the same arithmetic (exp, random numbers, sorting);
all measured in the same run, and at least OVERHEAD a call. The best of several calls counts. Prints a table, slowest
against its need first; exits 1 if an operator takes more than --bound times what it needs. Takes up to 6 GB.

A line without a path in front is one operator; with one, a function of the package that is made of several.
"""

import argparse
import functools
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# The checkout's root in place of this folder: works without an installation.
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

TOKENS, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM = 4096, 4096, 14336, 32, 8, 128
PLORA_RANK, LORA_RANK, TRAINED_TOKENS = 256, 64, 512
TILES, TILE, PATCHES, VIT_HIDDEN, VIT_HEADS = 25, 336, 576, 1024, 16
VOCABULARIES = (92544, 151936)
OVERHEAD = 3e-5  # seconds of a call


@dataclass
class Case:
    """Attributes:
    path: of which hot path.
    name: operator and shapes.
    run: does it once.
    num_bytes: that have to be read and written.
    flops: multiplications and additions of products.
    arithmetic: the same in NumPy, where that is what takes its time.
    """

    path: str
    name: str
    run: Callable[[], object]
    num_bytes: float
    flops: float = 0.0
    arithmetic: Callable[[], object] | None = None


def best_seconds(run: Callable[[], object], budget: float = 1.0) -> float:
    """Of the calls that `budget` seconds allow, at most 20; the first one counts only if it is the only one.

    Up to six of slow ones, in six budgets: the C library needs a few until a gigabyte that is given back is what the
    next call takes (`runtime.keep_freed_memory`), as it does in every training step but the first ones.

    The time on the clock or of the processor, whichever is less: where others are at work, a call on one thread is not
    charged for them.
    """
    seconds, left = [], budget
    while not seconds or len(seconds) < 20 and left > (0 if len(seconds) >= 6 else -5 * budget):
        start, processor = time.perf_counter(), time.process_time()
        run()
        wall, processor = time.perf_counter() - start, time.process_time() - processor
        seconds.append(min(wall, max(processor, 1e-6)))
        left -= wall
    return min(seconds[1:] or seconds)


def copy_speed() -> float:
    """Bytes per second, read and written."""
    import numpy as np

    source, target = np.ones(2**24, np.float32), np.zeros(2**24, np.float32)
    return 8 * source.size / best_seconds(lambda: np.copyto(target, source))


def product(rows: int, inner: int, columns: int) -> dict:
    """What x [rows, inner] times W [inner, columns] needs."""
    numbers = rows * inner + inner * columns + rows * columns
    return {"num_bytes": 4 * numbers, "flops": 2.0 * rows * inner * columns}


@functools.cache
def numpy_ones(number: int):
    import numpy as np

    return np.ones(number, np.float32)


@functools.cache
def numpy_random(number: int):
    import numpy as np

    return np.random.default_rng(0).normal(size=number).astype(np.float32)


def exps(number: int) -> Callable[[], object]:
    """NumPy's exp of so many numbers, done in pieces that fit into a cache."""
    import numpy as np

    size = min(number, 2**16)
    x, out = numpy_ones(size), np.empty(size, np.float32)
    return lambda: [np.exp(x, out=out) for _ in range(-(-number // size))]


def uniforms(number: int) -> Callable[[], object]:
    import numpy as np

    random = np.random.default_rng(0)
    return lambda: random.random(number, np.float32)


def prefill() -> Iterator[Case]:
    import paddle

    from paddle_xc2.models.attention import attention
    from paddle_xc2.models.internlm2 import count_positions
    from paddle_xc2.models.rms_norm import RMSNorm
    from paddle_xc2.models.rotary import RotaryTables, split_rotated
    from paddle_xc2.models.swiglu import swiglu

    path, row = "prefill", 4 * TOKENS * HIDDEN
    x = paddle.randn([1, TOKENS, HIDDEN])
    for inner, columns in ((HIDDEN, 6144), (HIDDEN, HIDDEN), (HIDDEN, PLORA_RANK), (PLORA_RANK, HIDDEN)):
        left, weight = paddle.randn([1, TOKENS, inner]), paddle.randn([inner, columns])
        run = functools.partial(paddle.matmul, left, weight)
        yield Case(path, f"matmul {TOKENS} x {inner} x {columns}", run, **product(TOKENS, inner, columns))
    yield Case(path, "add", lambda: x + x, 2 * row)
    yield Case(path, "square", lambda: x.square(), 2 * row)
    yield Case(path, "mean, last axis", lambda: x.mean(axis=-1, keepdim=True), row)
    column, vector = paddle.randn([1, TOKENS, 1]), paddle.randn([HIDDEN])
    yield Case(path, "multiply by a column", lambda: x * column, 2 * row)
    yield Case(path, "multiply by a row", lambda: x * vector, 2 * row)
    yield Case(path, "rsqrt of a column", lambda: paddle.rsqrt(column), 8 * TOKENS)
    yield Case(path, "cast to bool and back", lambda: column.astype("bool").astype("float32"), 10 * TOKENS)
    norm = RMSNorm(HIDDEN, 1e-5)
    with paddle.no_grad():
        yield Case(path, "models: RMSNorm", lambda: norm(x), 8 * row)  # square, mean, two products
    gate = paddle.randn([1, TOKENS, INNER])
    with paddle.no_grad():
        run = functools.partial(swiglu, gate, gate)
        yield Case(path, f"models: swiglu {TOKENS} x {INNER}", run, 12 * gate.size, arithmetic=exps(gate.size))
    yield Case(path, f"multiply {TOKENS} x {INNER}", lambda: gate * gate, 8 * gate.size)
    angles = paddle.randn([1, TOKENS, HEAD_DIM])
    yield Case(path, "cos of angles", lambda: angles.cos(), 8 * angles.size, arithmetic=exps(angles.size))
    query = paddle.randn([1, TOKENS, HEADS, HEAD_DIM])
    tables = angles.unsqueeze(2).cos(), angles.unsqueeze(2).sin()
    yield Case(path, "negative, concat", lambda: paddle.concat([-query, query], axis=-1), 5 * row)
    qkv, group = paddle.randn([1, TOKENS, KV_HEADS, HEADS // KV_HEADS + 2, HEAD_DIM]), HEADS // KV_HEADS
    run = lambda: split_rotated(qkv, RotaryTables(*tables, group))  # noqa: E731
    yield Case(path, "models: split_rotated", run, 40 * qkv.size)
    grouped = query.reshape([1, TOKENS, KV_HEADS, -1, HEAD_DIM])
    yield Case(path, "transpose heads first", lambda: grouped.transpose([0, 2, 1, 3, 4]).contiguous(), 2 * row)
    key = paddle.randn([1, TOKENS, KV_HEADS, HEAD_DIM])
    pairs = HEADS * TOKENS * TOKENS // 2
    flops = 4.0 * pairs * HEAD_DIM
    run = functools.partial(attention, query, key, key)
    yield Case(path, "models: attention", run, 3 * row, flops, exps(pairs))
    ids = paddle.arange(TOKENS)
    mask = (ids < 1225).astype("float32")
    yield Case(path, "nonzero of slots", lambda: paddle.nonzero(mask), 12 * TOKENS)
    slots = paddle.arange(1225)
    features = paddle.randn([1225, HIDDEN])
    yield Case(path, "scatter of features", lambda: paddle.scatter(x[0], slots, features), 2 * row)
    one = paddle.ones([1, TOKENS], "int64")
    yield Case(path, "models: count_positions", lambda: count_positions(one, TOKENS), 8 * 8 * TOKENS)


def tables_and_heads(vocab: int) -> Iterator[Case]:
    """What has a row for each word and a number for each hidden channel."""
    import paddle
    import paddle.nn.functional as F

    from paddle_xc2.models.loss import token_loss_sum

    weight = paddle.full([HIDDEN, vocab], 0.01)
    table = weight.reshape([vocab, HIDDEN])  # the same memory
    ids = paddle.randint(0, vocab, [1, TOKENS])
    yield Case("prefill", f"embedding {vocab}", lambda: F.embedding(ids, table), 8 * TOKENS * HIDDEN)
    for rows, path in ((1, "decode"), (4, "beams")):
        last = paddle.randn([rows, HIDDEN])
        run = functools.partial(paddle.matmul, last, weight)
        yield Case(path, f"matmul {rows} x {HIDDEN} x {vocab}", run, **product(rows, HIDDEN, vocab))
    hidden = 0.1 * paddle.randn([1, TRAINED_TOKENS + 1, HIDDEN])
    labels = paddle.randint(0, vocab, [1, TRAINED_TOKENS + 1])
    needs = product(TRAINED_TOKENS, HIDDEN, vocab)
    number, arithmetic = TRAINED_TOKENS * vocab, exps(TRAINED_TOKENS * vocab)

    def evaluate():
        with paddle.no_grad():
            token_loss_sum(hidden, weight, labels)

    needs["num_bytes"] += 16 * number
    yield Case("evaluation", f"models: token_loss_sum {vocab}", evaluate, **needs, arithmetic=arithmetic)
    hidden.stop_gradient = False

    def train():
        paddle.grad(token_loss_sum(hidden, weight, labels)[0], hidden)

    needs["flops"] *= 2
    needs["num_bytes"] += 4 * weight.size + 12 * number
    yield Case("training", f"models: token_loss_sum, backward {vocab}", train, **needs, arithmetic=arithmetic)


def logits(vocab: int) -> Iterator[Case]:
    """What is done with the scores of all words."""
    import numpy as np
    import paddle
    import paddle.nn.functional as F

    from paddle_xc2.generation.sampling import choose, penalize_repetition
    from paddle_xc2.generation.sampling_settings import SamplingSettings
    from paddle_xc2.models.log_sum import add_to_picked_, logsumexp, pick, softmax_

    for rows, path in ((1, "decode"), (4, "beams"), (181, "training")):  # the last: a chunk of the loss
        x, number, shape = paddle.randn([rows, vocab]), rows * vocab, f"{rows} x {vocab}"
        chosen = paddle.full([rows, 1], 7, "int64")
        yield Case(path, f"models: pick {shape}", functools.partial(pick, x, chosen), 16 * rows)
        if path == "training":
            run = functools.partial(add_to_picked_, x, chosen, -1.0)
            yield Case(path, f"models: add_to_picked_ {shape}", run, 24 * rows)
            run = functools.partial(softmax_, x)
            yield Case(path, f"models: softmax_ {shape}", run, 12 * number, arithmetic=exps(number))
        else:
            run = functools.partial(logsumexp, x)
            yield Case(path, f"models: logsumexp {shape}", run, 4 * number, arithmetic=exps(number))
            normalizer = logsumexp(x)
            yield Case(path, f"subtract {shape}", functools.partial(paddle.subtract, x, normalizer), 8 * number)
    for rows in (1, 4):
        x, number, shape = paddle.randn([rows, vocab]), rows * vocab, f"{rows} x {vocab}"
        scores = numpy_random(number)
        partition = functools.partial(np.partition, scores, number - 50)
        yield Case("decode", f"argmax {shape}", functools.partial(x.argmax, axis=-1), 4 * number)
        flat = x.reshape([1, -1])
        run = functools.partial(paddle.topk, flat, 8, axis=1)
        yield Case("beams", f"topk 8 of {number}", run, 4 * number, arithmetic=partition)
        run = functools.partial(F.softmax, x, axis=-1)
        yield Case("sampling", f"softmax {shape}", run, 8 * number, arithmetic=exps(number))
        yield Case("sampling", f"cumsum {shape}", functools.partial(x.cumsum, axis=-1), 8 * number)
        yield Case("sampling", f"divide {shape}", lambda x=x: x / 0.7, 8 * number)
        seen = paddle.zeros([rows, vocab], "uint8")
        word = paddle.full([rows, 1], 7, "int64")
        run = functools.partial(paddle.put_along_axis, seen, word, paddle.ones([rows, 1], "uint8"), axis=1)
        yield Case("sampling", f"put_along_axis uint8 {shape}", run, 2 * number)
        run = functools.partial(penalize_repetition, x, seen, 1.005)
        yield Case("sampling", f"generation: penalize_repetition {shape}", run, 36 * number)
        for count in (50, 1024):
            run = functools.partial(paddle.topk, x, count, axis=-1)
            yield Case("sampling", f"topk {count} of {shape}", run, 4 * number, arithmetic=partition)
        run = functools.partial(paddle.topk, x, vocab, axis=-1)
        order = functools.partial(np.argsort, scores)
        yield Case("sampling", f"topk all of {shape}, where 1024 don't do", run, 16 * number, arithmetic=order)
        for name, settings in {"top_k 50": {}, "top_p": {"top_k": 0, "top_p": 0.8}, "all": {"top_k": 0}}.items():
            run = functools.partial(choose, x * 10, SamplingSettings(True, **settings))
            arithmetic = partition if name != "all" else exps(number)
            yield Case("sampling", f"generation: choose {name} {shape}", run, 16 * number, arithmetic=arithmetic)


def decode() -> Iterator[Case]:
    import paddle

    from paddle_xc2.models.key_value_cache import KeyValueCache

    path = "decode"
    for rows in (1, 4):
        for inner, columns in ((HIDDEN, 6144), (HIDDEN, INNER), (INNER, HIDDEN)):
            left, weight = paddle.randn([rows, 1, inner]), paddle.randn([inner, columns])
            run = functools.partial(paddle.matmul, left, weight)
            where = path if rows == 1 else "beams"
            yield Case(where, f"matmul {rows} x {inner} x {columns}", run, **product(rows, inner, columns))
        cache = KeyValueCache()
        keys = paddle.randn([rows, TOKENS - 1, KV_HEADS, HEAD_DIM])
        cache.append(0, keys, keys)
        query, key = paddle.randn([rows, 1, HEADS, HEAD_DIM]), paddle.randn([rows, 1, KV_HEADS, HEAD_DIM])

        def attend(cache=cache, query=query, key=key):
            cache._lengths = [TOKENS - 1]  # the token before takes its place
            cache.attend(0, query, key, key)

        number = 2 * rows * TOKENS * KV_HEADS * HEAD_DIM
        yield Case(path, f"models: KeyValueCache.attend {rows} x {TOKENS}", attend, 4 * number, 2.0 * 4 * number)
        order = paddle.arange(rows)
        cache.append(0, key, key)

        def move(cache=cache, order=order):
            cache.select_rows(order, shared=TOKENS - 256)

        yield Case("beams", f"models: KeyValueCache.select_rows {rows} x 256", move, 32 * number // TOKENS * 256)


def training() -> Iterator[Case]:
    import paddle
    import paddle.nn.functional as F
    from paddle.nn.clip import _squared_l2_norm

    from paddle_xc2.models.attention import attention
    from paddle_xc2.models.lora import LoRALinear
    from paddle_xc2.models.plora import linear
    from paddle_xc2.models.rms_norm import RMSNorm
    from paddle_xc2.models.swiglu import swiglu

    path, row = "training", 4 * TOKENS * HIDDEN
    x = paddle.randn([1, TOKENS, HIDDEN])
    ones, numbers = paddle.ones_like(x), x.size

    def backward(function, *inputs):
        """Forward and backward."""
        for tensor in inputs:
            tensor.stop_gradient = False
        out = function(*inputs)
        return lambda: paddle.grad(function(*inputs), inputs, grad_outputs=paddle.ones_like(out))

    run = functools.partial(F.dropout, x, 0.05)
    yield Case(path, f"dropout {TOKENS} x {HIDDEN}", run, 9 * numbers, arithmetic=uniforms(numbers))
    yield Case(
        path, "dropout, backward", backward(lambda x: F.dropout(x, 0.05), x), 22 * numbers, arithmetic=uniforms(numbers)
    )
    norm = RMSNorm(HIDDEN, 1e-5)
    norm.weight.stop_gradient = True
    yield Case(path, "models: RMSNorm, backward", backward(norm, x), 30 * row)
    layer = LoRALinear(linear(HIDDEN, HIDDEN, 0.02), LORA_RANK, 1.0)
    layer.base.weight.stop_gradient = True
    needs = product(TOKENS, HIDDEN, HIDDEN)
    needs["flops"] = 2 * needs["flops"] + 3 * 2 * product(TOKENS, HIDDEN, LORA_RANK)["flops"]
    needs["num_bytes"] *= 4
    run = lambda: paddle.grad(layer(x), [x, layer.lora_a, layer.lora_b], grad_outputs=ones)  # noqa: E731
    yield Case(path, "models: LoRALinear, backward", run, **needs)
    query, key = paddle.randn([1, TOKENS, HEADS, HEAD_DIM]), paddle.randn([1, TOKENS, KV_HEADS, HEAD_DIM])
    pairs = HEADS * TOKENS * TOKENS // 2
    run = backward(attention, query, key, key.clone())
    yield Case(path, "models: attention, backward", run, 12 * row, 16.0 * pairs * HEAD_DIM, exps(2 * pairs))
    part = paddle.randn([TOKENS // 4, INNER])
    size = part.size
    yield Case(
        path,
        f"models: swiglu, backward {TOKENS // 4} x {INNER}",
        backward(swiglu, part, part.clone()),
        20 * size,
        arithmetic=exps(2 * size),
    )
    yield Case(path, "multiply, backward", backward(lambda a, b: a * b, part, part.clone()), 36 * size)
    yield Case(path, "where", lambda: paddle.where(part > 0, part, part), 18 * size)
    yield Case(path, "cast to float64", lambda: part.astype("float64"), 12 * size)
    parameter = paddle.create_parameter([HIDDEN, HIDDEN], "float32")
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=[parameter], weight_decay=0.01)
    parameter.sum().backward()
    yield Case(path, f"AdamW {HIDDEN} x {HIDDEN}", optimizer.step, 28 * parameter.size)
    gradient = parameter.grad.detach()
    yield Case(path, "squared norm", lambda: _squared_l2_norm(gradient), 4 * gradient.size)
    yield Case(path, "multiply_ by a scalar", lambda: gradient.multiply_(paddle.ones([])), 8 * gradient.size)


def embedding_gradient() -> Iterator[Case]:
    import paddle
    import paddle.nn.functional as F

    vocab = VOCABULARIES[0]
    table = paddle.full([vocab, HIDDEN], 0.01)
    table.stop_gradient = False
    ids = paddle.randint(0, vocab, [1, TOKENS])
    ones = paddle.ones([1, TOKENS, HIDDEN])
    run = lambda: paddle.grad(F.embedding(ids, table), table, grad_outputs=ones)  # noqa: E731
    yield Case("training", f"embedding, backward {vocab}", run, 4 * table.size + 16 * ones.size)


def nf4() -> Iterator[Case]:
    import numpy as np
    import paddle

    from paddle_xc2.models.nf4 import NF4Linear

    layer, rows = NF4Linear(HIDDEN, INNER), 512
    weight, size = paddle.randn([HIDDEN, INNER]), HIDDEN * INNER
    table, codes = np.zeros([256, 2], np.float32), np.zeros(rows * INNER // 2, np.uint8)
    look_up = lambda: [table[codes] for _ in range(HIDDEN // rows)]  # noqa: E731
    yield Case(
        "NF4", f"models: NF4Linear.dequantize {HIDDEN} x {INNER}", layer.dequantize, 4.5 * size, arithmetic=look_up
    )

    def quantize():
        layer.quantize(weight[start : start + rows] for start in range(0, HIDDEN, rows))

    block = numpy_random(2**16)
    compare = lambda: [np.greater(block, 0.5) for _ in range(15 * size // block.size)]  # noqa: E731
    yield Case("NF4", f"models: NF4Linear.quantize {HIDDEN} x {INNER}", quantize, 4.5 * size, arithmetic=compare)
    for tokens in (1, 512):
        x = paddle.randn([1, tokens, HIDDEN])
        needs = product(tokens, HIDDEN, INNER)
        needs["num_bytes"] += 4.5 * size
        run = functools.partial(layer, x)
        yield Case("NF4", f"models: NF4Linear {tokens} x {HIDDEN} x {INNER}", run, **needs, arithmetic=look_up)


def image_features() -> Iterator[Case]:
    import paddle
    import paddle.nn.functional as F
    from paddle import nn

    from paddle_xc2.models.attention import attention
    from paddle_xc2.models.clip_vit import resize_position_table
    from paddle_xc2.models.image_features import _cut, _merge_patches

    path, views = "image", TILES + 1
    side = int(TILES**0.5) * TILE
    image = paddle.randn([1, 3, side, side])
    run = functools.partial(F.interpolate, image, size=[TILE, TILE], mode="bicubic", align_corners=False)
    yield Case(path, f"bicubic {side} to {TILE}", run, 4 * 3 * TILE**2 * 17, 3 * TILE**2 * 16 * 40)
    run = functools.partial(_cut, image[0], side // TILE, side // TILE)
    yield Case(path, "models: cut into tiles", run, 8 * image.size)
    tiles = paddle.randn([views, 3, TILE, TILE])
    convolution = nn.Conv2D(3, VIT_HIDDEN, 14, stride=14, bias_attr=False)
    with paddle.no_grad():
        needs = product(views * PATCHES, 3 * 14 * 14, VIT_HIDDEN)
        yield Case(path, "conv2d of patches", lambda: convolution(tiles), **needs)
        patches = convolution(tiles)
        numbers = views * (PATCHES + 1) * VIT_HIDDEN
        run = lambda: patches.flatten(2).transpose([0, 2, 1]).contiguous()  # noqa: E731
        yield Case(path, "transpose of patches", run, 8 * numbers)
        x = paddle.randn([views, PATCHES + 1, VIT_HIDDEN])
        norm = nn.LayerNorm(VIT_HIDDEN)
        yield Case(path, "layer_norm", lambda: norm(x), 8 * numbers)
        weight, bias = paddle.randn([VIT_HIDDEN, 4 * VIT_HIDDEN]), paddle.randn([4 * VIT_HIDDEN])
        needs = product(views * (PATCHES + 1), VIT_HIDDEN, 4 * VIT_HIDDEN)
        yield Case(path, "linear with a bias", lambda: F.linear(x, weight, bias), **needs)
        inner = paddle.randn([views, PATCHES + 1, 4 * VIT_HIDDEN])
        yield Case(path, "sigmoid", lambda: F.sigmoid(inner), 8 * inner.size, arithmetic=exps(inner.size))
        yield Case(path, "multiply", lambda: inner * inner, 8 * inner.size)
        yield Case(path, "multiply by a number", lambda: 1.702 * inner, 8 * inner.size)
        yield Case(path, "gelu", lambda: F.gelu(inner), 8 * inner.size, arithmetic=exps(inner.size))
        query = x.reshape([views, PATCHES + 1, VIT_HEADS, -1])
        pairs = views * VIT_HEADS * (PATCHES + 1) ** 2
        run = functools.partial(attention, query, query, query, causal=False)
        flops = 4.0 * pairs * VIT_HIDDEN / VIT_HEADS
        yield Case(path, "models: attention of tiles", run, 16 * numbers, flops, exps(pairs))
        yield Case(path, "models: merge patches", lambda: _merge_patches(x[:, 1:], int(PATCHES**0.5)), 8 * numbers)
        yield Case(path, "concat of views", lambda: paddle.concat([x, x]), 16 * numbers)
        table = paddle.randn([1 + 24 * 24, VIT_HIDDEN])
        sizes = 4 * 35 * 35 * VIT_HIDDEN * 17, 35 * 35 * VIT_HIDDEN * 16 * 2
        yield Case(path, "models: resize_position_table", lambda: resize_position_table(table, 35), *sizes)


GROUPS = {
    "prefill": prefill,
    "decode": decode,
    "training": training,
    "embedding": embedding_gradient,
    "nf4": nf4,
    "image": image_features,
    "logits": logits,
    "head": tables_and_heads,
}


def cases(groups: list[str]) -> Iterator[Case]:
    for name in groups:
        for vocab in VOCABULARIES if name in ("logits", "head") else (None,):
            yield from GROUPS[name](*(() if vocab is None else (vocab,)))
            gc.collect()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bound", type=float, default=10.0, help="times what an operator needs (%(default)s)")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS), help="only these")
    args = parser.parse_args()

    from paddle_xc2 import runtime

    load = round(os.getloadavg()[0], 1)
    threads = runtime.prepare().threads.value

    import paddle

    bandwidth = copy_speed()
    square = paddle.randn([2048, 2048])
    peak = 2 * 2048**3 / best_seconds(lambda: paddle.matmul(square, square))
    print(f"{bandwidth / 1e9:.1f} GB/s, {peak / 1e9:.0f} GFLOP/s, {threads} threads, load {load}", flush=True)
    rows = []
    for case in cases(args.groups):
        need = max(case.num_bytes / bandwidth, case.flops / peak, OVERHEAD)
        if case.arithmetic:
            need = max(need, best_seconds(case.arithmetic, 0.3))
        seconds = best_seconds(case.run)
        rows.append((seconds / need, case.path, case.name, seconds, need))
        print(f"{case.path}: {case.name}: {seconds / need:.1f}", file=sys.stderr, flush=True)
    print(f"{'times':>6}  {'ms':>10}  {'needs ms':>10}  path        operator")
    for times, path, name, seconds, need in sorted(rows, reverse=True):
        print(f"{times:6.1f}  {1e3 * seconds:10.3f}  {1e3 * need:10.3f}  {path:<10}  {name}")
    above = sum(times > args.bound for times, *_ in rows)
    print(f"{len(rows)} operators, {above} above {args.bound:g} times what they need")
    return int(above > 0)


if __name__ == "__main__":
    sys.exit(main())

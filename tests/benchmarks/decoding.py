#!/usr/bin/env python3
"""What generation takes beside the model itself: tokens of `generate`, `chat` and beams against bare model steps.

    python tests/benchmarks/decoding.py

A bare step is the decoder over one new token with a key-value cache, and the output head: nothing is chosen, nothing
looked at. All ways answer the same prompt of --prompt tokens; times of a token are those after the first. Repetitions
alternate between the ways, medians are told. Exits 1 if a way takes more than --bound times its bare step.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import median

# The checkout's root in place of this folder: works without an installation.
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

WAYS = ("greedy", "sampled", "penalized", "chat", "beams")


def build_model(args):
    """(model, tokenizer): the model says only words that the tokenizer has, and never ends."""
    import paddle

    from examples.demo.small_checkpoint import train_tokenizer
    from paddle_xc2.families.config import XComposer2Config
    from paddle_xc2.model import XComposer2ForCausalLM
    from paddle_xc2.text.tokenizer import MODEL_FILE, XComposer2Tokenizer

    paddle.seed(0)
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = XComposer2ForCausalLM(
        XComposer2Config(
            vocab_size=args.vocab,
            hidden_size=args.hidden,
            intermediate_size=args.inter,
            num_hidden_layers=args.layers,
            num_attention_heads=args.heads,
            num_key_value_heads=args.kv,
            max_position_embeddings=8192,
            xc2_family="xcomposer2-7b",
            vision_config=vision,
        )
    )
    tokenizer = XComposer2Tokenizer({MODEL_FILE: train_tokenizer(["0 1 2 3 4 5 6 7 8 9 abc"])}, source="decoding.py")
    words = [tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)]
    weight = paddle.zeros_like(model.output.weight)
    weight[:, paddle.to_tensor(words)] = 0.5 * paddle.randn([args.hidden, len(words)])
    model.output.weight.set_value(weight)
    return model, tokenizer


def bare_seconds(model, ids, num_tokens: int, num_rows: int) -> float:
    """Of a step of `num_rows` rows after the prompt."""
    import paddle

    model.eval()
    with paddle.no_grad():
        cache = model(paddle.to_tensor(ids), use_cache=True).past_key_values
        cache.select_rows(paddle.zeros([num_rows], "int64"))
        token, seconds = paddle.full([num_rows, 1], 5, "int64"), []
        for _ in range(num_tokens):
            start = time.perf_counter()
            out = model(token, past_key_values=cache, use_cache=True)
            model.output(out.last_hidden_state[:, -1])
            seconds.append(time.perf_counter() - start)
    return sum(seconds[1:]) / (num_tokens - 1)


def way_seconds(model, tokenizer, ids, question: str, way: str, args) -> float:
    """Of a token of a way, but for the first, with which the prompt is."""

    def run(num_tokens: int) -> float:
        start = time.perf_counter()
        if way == "chat":
            model.chat(tokenizer, question, max_new_tokens=num_tokens, meta_instruction="")
        else:
            settings = {
                "greedy": {},
                "sampled": {"do_sample": True, "top_k": 0, "top_p": 0.8},
                "penalized": {"do_sample": True, "repetition_penalty": 1.005},
                "beams": {"num_beams": args.beams},
            }[way]
            new, _ = model.generate(ids, max_new_tokens=num_tokens, eos_token_id=[], **settings)
            assert new.shape[1] == num_tokens
        return time.perf_counter() - start

    prompt = run(1)
    return (run(args.tokens) - prompt) / (args.tokens - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=92544, help="words of the vocabulary (%(default)s)")
    parser.add_argument("--hidden", type=int, default=1024, help="hidden size of the decoder (%(default)s)")
    parser.add_argument("--inter", type=int, default=2816, help="inner size of its feed-forward layers (%(default)s)")
    parser.add_argument("--layers", type=int, default=12, help="its layers (%(default)s)")
    parser.add_argument("--heads", type=int, default=16, help="its query heads (%(default)s)")
    parser.add_argument("--kv", type=int, default=4, help="its key-value heads (%(default)s)")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt (%(default)s)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens decoded (%(default)s)")
    parser.add_argument("--beams", type=int, default=4, help="beams (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions of each way (%(default)s)")
    parser.add_argument("--bound", type=float, default=1.5, help="times of the bare step (%(default)s)")
    args = parser.parse_args()

    import numpy as np

    from paddle_xc2 import runtime

    load = round(os.getloadavg()[0], 1)
    threads = runtime.prepare().threads.value
    model, tokenizer = build_model(args)
    digits = "".join(map(str, np.random.default_rng(0).integers(0, 10, args.prompt)))
    ids = np.array([tokenizer.encode(digits)[: args.prompt]])
    bare: dict[int, list[float]] = {1: [], args.beams: []}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    bare_seconds(model, ids, 4, 1)  # Paddle's first steps are slower
    for _ in range(args.repeats):
        for num_rows in bare:
            bare[num_rows].append(bare_seconds(model, ids, args.tokens, num_rows))
        for way in WAYS:
            seconds[way].append(way_seconds(model, tokenizer, ids, digits, way, args))
    result = {"bare_ms": {rows: round(1e3 * median(times), 1) for rows, times in bare.items()}}
    result["token_ms"] = {way: round(1e3 * median(times), 1) for way, times in seconds.items()}
    result["times_bare"] = {
        way: round(median(times) / median(bare[args.beams if way == "beams" else 1]), 2)
        for way, times in seconds.items()
    }
    result |= {"vocab": args.vocab, "threads": int(threads), "load": load}
    print(json.dumps(result))
    sys.exit(int(max(result["times_bare"].values()) > args.bound))


if __name__ == "__main__":
    main()

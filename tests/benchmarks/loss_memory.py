#!/usr/bin/env python3
"""Memory and time of a training step with the chunked loss, and with cross-entropy over all logits at once.

    python tests/benchmarks/loss_memory.py

A small decoder over the released models' vocabulary, one row of text, every token trained; forward and backward, no
optimizer. Each way runs in a process of its own. Prints one JSON line: for each way the peak resident memory in MB, how
much of it the step took on top of the model, seconds of the fastest step, and the loss.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

# The checkout's root in place of this folder: works without an installation.
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

WAYS = ("chunked", "all_logits")


def peak_mb() -> float:
    """Most memory that this process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, args) -> dict:
    """Runs `args.steps` steps in this process."""
    import paddle
    import paddle.nn.functional as F

    from paddle_xc2.families.config import XComposer2Config
    from paddle_xc2.model import XComposer2ForCausalLM

    paddle.seed(0)
    model = XComposer2ForCausalLM(
        XComposer2Config(
            vocab_size=args.vocab,
            hidden_size=args.hidden,
            intermediate_size=2 * args.hidden,
            num_hidden_layers=args.layers,
            num_attention_heads=8,
            num_key_value_heads=2,
            img_size=28,
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
        )
    )
    model.train()
    input_ids = paddle.randint(3, args.vocab, [1, args.seq])
    before, seconds = peak_mb(), []
    for _ in range(args.steps):
        start = time.perf_counter()
        if way == "chunked":
            loss = model(input_ids, labels=input_ids).loss
        else:
            logits = model(input_ids).logits[:, :-1].reshape([-1, args.vocab])
            loss = F.cross_entropy(logits, input_ids[:, 1:].flatten())
            del logits
        loss.backward()
        seconds.append(time.perf_counter() - start)
        model.clear_gradients(set_to_zero=False)
    return {
        "peak_mb": round(peak_mb()),
        "step_mb": round(peak_mb() - before),
        "step_s": round(min(seconds), 3),
        "loss": round(float(loss), 5),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq", type=int, default=2048, help="tokens (%(default)s)")
    parser.add_argument("--vocab", type=int, default=92544, help="words of the vocabulary (%(default)s)")
    parser.add_argument("--hidden", type=int, default=512, help="size of the decoder's hidden states (%(default)s)")
    parser.add_argument("--layers", type=int, default=2, help="layers of the decoder (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="training steps (%(default)s)")
    parser.add_argument("--way", choices=WAYS, help="measure one way, in this process")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args)))
        return
    results = {}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        results[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(json.dumps(results))


if __name__ == "__main__":
    main()

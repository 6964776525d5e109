#!/usr/bin/env python3
"""Seconds a training step, prefill and decoding speed, peak memory of a model with random weights.

    python tests/benchmarks/speed.py

Measures the llava-internlm2 model of the given sizes, or with --plora the XComposer2 model, which has PLoRA of rank 256
beside every linear layer of the decoder.

The ViT is frozen; a step is one image of (image / 14)^2 tokens plus --text tokens a row: forward, backward and AdamW.
Prints one JSON line: median seconds a step, prefill and decoded tokens per second with a key-value cache, peak resident
memory in MB, millions of parameters, threads. Compare medians of runs on a quiet machine.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from statistics import median

# The checkout's root in place of this folder: works without an installation.
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

WARM_UP_STEPS = 3  # Paddle's first steps take up to twice the time of the later ones


def build_model(args):
    import paddle

    from paddle_xc2.configuration import XComposer2Config
    from paddle_xc2.models.xcomposer2 import XComposer2ForCausalLM

    paddle.seed(0)
    config = XComposer2Config(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.inter,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv,
        max_position_embeddings=4096,
        xc2_family="xcomposer2-7b" if args.plora else "llava-internlm2",
        img_size=args.image,
        vision_config={
            "hidden_size": args.vit_hidden,
            "intermediate_size": 4 * args.vit_hidden,
            "num_hidden_layers": args.vit_layers,
            "num_attention_heads": args.vit_heads,
        },
    )
    model = XComposer2ForCausalLM(config)
    for parameter in model.vit.parameters():
        parameter.stop_gradient = True
    return model


def make_batch(args, num_image_tokens: int) -> dict:
    """One image after the first token of every row; the text after it is trained."""
    import paddle

    from paddle_xc2.special_tokens import IGNORE_INDEX

    input_ids = paddle.randint(3, args.vocab - 1, [args.batch, num_image_tokens + args.text])
    image_mask = paddle.zeros(input_ids.shape, "bool")
    image_mask[:, 1 : 1 + num_image_tokens] = True
    labels = input_ids.clone()
    labels[:, : 1 + num_image_tokens] = IGNORE_INDEX
    pixel_values = [paddle.randn([3, args.image, args.image]) for _ in range(args.batch)]
    return {"input_ids": input_ids, "image_mask": image_mask, "pixel_values": pixel_values, "labels": labels}


def seconds_of_step(model, batch, num_steps: int) -> float:
    import paddle

    model.train()
    learning = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.AdamW(1e-5, parameters=learning)
    seconds = []
    for _ in range(WARM_UP_STEPS + num_steps):
        start = time.perf_counter()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARM_UP_STEPS:])


def seconds_of_prefill_and_token(model, batch, num_tokens: int) -> tuple[float, float]:
    """Of the whole prompt of one row, the better of two; and of each token decoded after it."""
    import paddle

    model.eval()
    prompt = {name: batch[name][:1] for name in ("input_ids", "image_mask", "pixel_values")}

    def next_token(**inputs):
        out = model(**inputs, use_cache=True)
        return model.output(out.hidden_states[:, -1:]).argmax(axis=-1), out.past_key_values

    prefill = []
    with paddle.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            token, cache = next_token(**prompt)
            prefill.append(time.perf_counter() - start)
        start = time.perf_counter()
        for _ in range(num_tokens):
            token, cache = next_token(input_ids=token, past_key_values=cache)
        decoding = time.perf_counter() - start
    return min(prefill), decoding / num_tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plora", action="store_true", help="the XComposer2 model")
    parser.add_argument("--hidden", type=int, default=1024, help="hidden size of the decoder (%(default)s)")
    parser.add_argument("--inter", type=int, default=2816, help="inner size of its feed-forward layers (%(default)s)")
    parser.add_argument("--layers", type=int, default=12, help="its layers (%(default)s)")
    parser.add_argument("--heads", type=int, default=16, help="its query heads (%(default)s)")
    parser.add_argument("--kv", type=int, default=4, help="its key-value heads (%(default)s)")
    parser.add_argument("--vit-hidden", type=int, default=512, help="hidden size of the ViT (%(default)s)")
    parser.add_argument("--vit-layers", type=int, default=6, help="its layers (%(default)s)")
    parser.add_argument("--vit-heads", type=int, default=8, help="its heads (%(default)s)")
    parser.add_argument("--image", type=int, default=224, help="pixels a side (%(default)s)")
    parser.add_argument("--vocab", type=int, default=8000, help="words of the vocabulary (%(default)s)")
    parser.add_argument("--text", type=int, default=128, help="text tokens a row (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="rows of a training step (%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="training steps that are timed (%(default)s)")
    parser.add_argument("--decode", type=int, default=64, help="tokens decoded (%(default)s)")
    args = parser.parse_args()

    from paddle_xc2 import runtime

    threads = runtime.prepare().threads.value
    model = build_model(args)
    batch = make_batch(args, model.config.num_image_tokens)
    step = seconds_of_step(model, batch, args.steps)
    prefill, token = seconds_of_prefill_and_token(model, batch, args.decode)
    result = {
        "step_s": round(step, 4),
        "prefill_tok_s": round(batch["input_ids"].shape[1] / prefill, 1),
        "decode_tok_s": round(1 / token, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "params_m": round(sum(parameter.size for parameter in model.parameters()) / 1e6, 1),
        "threads": int(threads),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Seconds a training step, prefill and decoding speed, peak memory of a model with random weights.

    python tests/benchmarks/speed.py
    python tests/benchmarks/speed.py --vocab 92544

Measures the llava-internlm2 model of the given sizes, or with --plora the XComposer2 model, which has PLoRA of rank 256
beside every linear layer of the decoder, as a user runs it: steps are those of a fine-tuning run (`StepTrainer`), and
tokens those of `model.generate`.

The ViT is frozen; a step is one image of (image / 14)^2 tokens plus --text tokens a row: forward, backward and AdamW.
Prints one JSON line: median seconds a step, prefill and decoded tokens per second with a key-value cache, peak resident
memory in MB, millions of parameters, threads. Compare medians of runs on a quiet machine.
"""

import argparse
import contextlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

# The checkout's root in place of this folder: works without an installation.
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

WARM_UP_STEPS = 3  # Paddle's first steps take up to twice the time of the later ones


def build_model(args):
    import paddle

    from paddle_xc2.families.config import XComposer2Config
    from paddle_xc2.model import XComposer2ForCausalLM

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
    return XComposer2ForCausalLM(config)


def make_records(args, folder: Path, processor, num_image_tokens: int) -> Path:
    """Writes a file of records of one picture; their answers and what is around them make up --text tokens."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (args.image, args.image, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")

    def record(num_digits: int) -> dict:
        turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "7" * num_digits}]
        return {"image": "picture.png", "conversations": turns}

    missing = num_image_tokens + args.text - len(processor.encode_sample(record(1), folder))
    if missing < 0:
        sys.exit(f"--text {args.text} is too little: the words around an answer take {args.text - missing} tokens")
    file = folder / "train.json"
    file.write_text(json.dumps([record(1 + missing)] * args.batch))
    return file


def step_seconds(args, model, folder: Path) -> list[float]:
    """Of each optimizer step of a run after the first ones."""
    clock = Clock()
    train(args, model, folder, clock.tick)
    times = clock.times[WARM_UP_STEPS:]
    return [after - before for before, after in zip(times, times[1:], strict=False)]


class Clock:
    """Notes when something happened. Also a streamer of `generate`: notes when each token came."""

    def __init__(self):
        self.times = [time.perf_counter()]

    def tick(self, *_):
        self.times.append(time.perf_counter())

    def put(self, ids):
        self.tick()

    def end(self):
        pass


def make_processor(model):
    """A processor whose tokenizer knows the records' words."""
    from examples.demo.small_checkpoint import train_tokenizer
    from paddle_xc2.data.processor import XComposer2Processor
    from paddle_xc2.text.tokenizer import MODEL_FILE, XComposer2Tokenizer

    tokenizer = XComposer2Tokenizer({MODEL_FILE: train_tokenizer(["0 1 2 3 4 5 6 7 8 9 ?"])}, source="speed.py")
    return XComposer2Processor.for_config(model.config, tokenizer)


def make_batch(args, model, folder: Path) -> dict:
    """One row of what `train` trains."""
    processor = make_processor(model)
    records = json.loads(make_records(args, folder, processor, model.config.num_image_tokens).read_text())
    return processor.collate([processor.encode_sample(records[0], folder)])


def train(args, model, folder: Path, on_step_end) -> None:
    """A fine-tuning run of WARM_UP_STEPS + args.steps steps.

    Args:
        folder: for its files.
        on_step_end: is called after each step with its number.
    """
    from paddlenlp.trainer import TrainerCallback

    from paddle_xc2.training.arguments import load_arguments
    from paddle_xc2.training.finetune import prepare_device, read_samples
    from paddle_xc2.training.learning.parts import choose_trainable
    from paddle_xc2.training.plan import Plan
    from paddle_xc2.training.run_folder.start import choose_start
    from paddle_xc2.training.trainer import StepTrainer

    class StepEnds(TrainerCallback):
        def on_step_end(self, _, state, control, **kwargs):
            on_step_end(state.global_step)

    processor = make_processor(model)
    settings = {
        "model_name_or_path": str(folder),
        "data_path": str(make_records(args, folder, processor, model.config.num_image_tokens)),
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": args.batch,
        "max_steps": WARM_UP_STEPS + args.steps,
        "learning_rate": 1e-5,
        "weight_decay": 0.01,
        "max_grad_norm": 0.0,
        "fix_vit": True,
        "recompute": False,
        "save_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
    }
    config = folder / "speed.json"
    config.write_text(json.dumps(settings))
    arguments = load_arguments(config)
    prepare_device(arguments)
    samples = read_samples(arguments, "train", config, processor)
    choose_trainable(model, arguments)
    model.recompute_disable()
    trainer = StepTrainer(model, processor, Plan(arguments, "float32", choose_start(arguments), samples, None))
    trainer.add_callback(StepEnds())
    trainer.train()
    model.clear_gradients()


def seconds_of_prefill_and_token(model, batch, num_tokens: int) -> tuple[float, float]:
    """Of the whole prompt of one row, the better of two; and of each token decoded after it."""
    prompt = prompt_of(batch)
    prefill = []
    for num_new in (1, 1 + num_tokens):
        clock = Clock()
        model.generate(**prompt, max_new_tokens=num_new, eos_token_id=[], streamer=clock)
        prefill.append(clock.times[1] - clock.times[0])
    return min(prefill), (clock.times[-1] - clock.times[1]) / num_tokens


def prompt_of(batch) -> dict:
    """What `generate` takes of a batch."""
    return {name: batch[name] for name in ("input_ids", "image_mask", "pixel_values")}


def add_sizes(parser) -> None:
    """Options for the sizes of the model and of a step."""
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sizes(parser)
    parser.add_argument("--steps", type=int, default=5, help="training steps that are timed (%(default)s)")
    parser.add_argument("--decode", type=int, default=64, help="tokens decoded (%(default)s)")
    args = parser.parse_args()

    from paddle_xc2 import runtime

    threads = runtime.prepare().threads.value
    model = build_model(args)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        steps = step_seconds(args, model, Path(folder))
        batch = make_batch(args, model, Path(folder))
    prefill, token = seconds_of_prefill_and_token(model, batch, args.decode)
    result = {
        "step_s": round(median(steps), 4),
        "prefill_tok_s": round(batch["input_ids"].shape[1] / prefill, 1),
        "decode_tok_s": round(1 / token, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "params_m": round(sum(parameter.size for parameter in model.parameters()) / 1e6, 1),
        "threads": int(threads),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

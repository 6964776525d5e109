"""`paddle-xc2 convert`: a checkpoint from upstream's layout to Paddle's and back."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

HELP = "convert a checkpoint between upstream's (Hugging Face) layout and Paddle's"
EXAMPLE = "paddle-xc2 convert internlm/internlm-xcomposer2-7b ./internlm-xcomposer2-7b-paddle"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", help="checkpoint directory in any layout (PaddleMIX's too), or a released name"
    )
    parser.add_argument(
        "destination",
        metavar="DST",
        nargs="?",
        help="directory to write, new or empty; may be left out with --verify, which then is all that is done",
    )
    parser.add_argument("--to", choices=("paddle", "hf"), default="paddle", help="layout to write (%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: as in SRC")
    parser.add_argument("--max_shard_size", metavar="SIZE", default="5GB", help="default: %(default)s")
    llava = parser.add_argument_group("LLaVA", "SRC may also be what XTuner's training left, or a language model")
    llava.add_argument(
        "--base",
        metavar="DIR",
        help="for an iter_*.pth (a file, or DeepSpeed's folder), or an adapter, as SRC: what it was trained from",
    )
    llava.add_argument("--lora_alpha", type=float, help="alpha of the language model's LoRA in the .pth")
    llava.add_argument("--visual_lora_alpha", type=float, help="alpha of the vision encoder's LoRA in the .pth")
    llava.add_argument(
        "--visual_encoder", metavar="CLIP", help="for an InternLM2 as SRC: makes a LLaVA with a fresh projector"
    )
    parser.add_argument("--verify", action="store_true", help="hold SRC against the SHA-256 of its manifest first")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that paddle-xc2 wrote at DST")
    parser.add_argument("--disable_tqdm", action="store_true", help="no progress bar")


def run(args: Namespace) -> int:
    # Imported here: --help answers without them.
    from paddle_xc2.checkpoint.manifest import verify_manifest
    from paddle_xc2.files.local_path import local_path
    from paddle_xc2.hub.directory import open_model
    from paddle_xc2.messages import sized, writing
    from paddle_xc2.weights.convert import convert
    from paddle_xc2.weights.sources import MergedAdapter

    if args.destination is None:
        if not args.verify:
            raise ValueError("DST is missing: give the directory to write, or --verify to check SRC only")
        print(f"{args.source}: {sized(verify_manifest(open_model(args.source)))} verified, as written")
        return 0
    args.destination = local_path(args.destination)
    source = source_of(args)
    with writing(args.destination):
        report = convert(
            source,
            args.destination,
            args.to,
            args.dtype,
            args.max_shard_size,
            args.verify,
            args.overwrite,
            progress=not args.disable_tqdm,
            say=lambda line: print(line, file=sys.stderr),
        )
    for name, reason in report.dropped.items():
        print(f"left out: {name}: {reason}")
    named = f"{args.source} ({report.layout})"
    if isinstance(source, MergedAdapter):
        named = f"{args.source}, merged into {source.directory} ({report.layout}),"
    written = report.num_bytes - report.num_kept_bytes
    print(
        f"{named} -> {args.destination} ({report.to}): {report.num_tensors} tensors, "
        f"{sized(report.num_bytes)}, every one read back and compared; {sized(written)} in {report.seconds:.1f} s "
        f"({sized(written / report.seconds)}/s)"
    )
    return 0


def source_of(args: Namespace):
    """What is converted, one of weights/sources.py. Raises: ValueError for options that SRC has no use for."""
    from paddle_xc2.files.local_path import local_path
    from paddle_xc2.hub.directory import open_model
    from paddle_xc2.weights.sources import NewLlava, TrainedByXTuner, model_source

    trained = Path(args.source).suffix == ".pth"
    if trained and args.base is None:
        raise ValueError(f"{args.source} holds only what was trained; give --base, the LLaVA that it was trained from")
    if trained:
        base, file = open_model(args.base), local_path(args.source)
        return TrainedByXTuner(base, file, args.lora_alpha, args.visual_lora_alpha)
    for name in ("lora_alpha", "visual_lora_alpha"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} is of the LoRA in an iter_*.pth, and {args.source} is none; leave it out")
    if args.visual_encoder is not None:
        return NewLlava(open_model(args.source), open_model(args.visual_encoder))
    return model_source(args.source, args.base)

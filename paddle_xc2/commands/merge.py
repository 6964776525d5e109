"""`paddle-xc2 merge`: an adapter into the model that it was trained on."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

HELP = "merge a LoRA adapter into its base, tensor by tensor, and compare the answers before and after"
EXAMPLE = "paddle-xc2 merge --model_name_or_path ./base --lora_path ./adapter --output_path ./merged"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--lora_path", "--adapter_model_name", dest="adapter", required=True, metavar="ADAPTER",
        help="adapter's directory, in PEFT's or PaddleNLP's layout",
    )  # fmt: skip
    parser.add_argument(
        "--model_name_or_path", "--base_model_name", "--from_pretrained", "--base", dest="base", metavar="BASE",
        help="the model that it was trained on; default: what the adapter remembers",
    )  # fmt: skip
    parser.add_argument(
        "--output_path", "--output_name", dest="output", required=True, metavar="OUT",
        help="directory to write, new or empty",
    )  # fmt: skip
    parser.add_argument("--to", choices=("paddle", "hf"), help="layout to write; default: that of BASE")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: as in BASE")
    parser.add_argument("--max_shard_size", metavar="SIZE", default="5GB", help="default: %(default)s")
    parser.add_argument(
        "--dequantize",
        action="store_true",
        help="of an adapter that was trained on a base in four bits (QLoRA): merge it into the weights that quantizing "
        "BASE gives, which it was trained with; default: into BASE as it is",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that paddle-xc2 wrote at OUT")
    parser.add_argument("--no_compare", action="store_true", help="don't compare logits before and after")
    parser.add_argument("--disable_tqdm", action="store_true", help="no progress bar")


def run(args: Namespace) -> int:
    # Imported here: --help answers without them.
    from paddle_xc2.files.local_path import local_path
    from paddle_xc2.merge_check import check_merged
    from paddle_xc2.messages import sized, writing
    from paddle_xc2.weights.convert import convert
    from paddle_xc2.weights.sources import MergedAdapter

    source, output = MergedAdapter.of(args.adapter, args.base, args.dequantize), local_path(args.output)
    with writing(output):
        report = convert(
            source,
            output,
            args.to,
            args.dtype,
            args.max_shard_size,
            overwrite=args.overwrite,
            progress=not args.disable_tqdm,
            say=lambda line: print(line, file=sys.stderr),
        )
    print(
        f"{source.adapter} and {source.directory} -> {output} ({report.to}): {report.num_tensors} tensors, "
        f"{sized(report.num_bytes)}, every one read back and compared, in {report.seconds:.1f} s"
    )
    if source.adapter.origin.quantization and not args.dequantize:
        print(
            "the adapter was trained on the base in four bits and is now in the base as it is, which is nearer to the "
            "original model; --dequantize merges it into the very weights that it was trained with"
        )
    if not args.no_compare:
        check_merged(source, output, say=print)
    return 0

"""`paddle-xc2 merge`: an adapter into the model that it was trained on."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace

HELP = "merge a LoRA adapter into its base, tensor by tensor, and compare the answers before and after"
# By how much of the largest logit the merged model may differ, by what its weights are stored in; else float32's.
_ROUNDING = {"bfloat16": 0.1, "float16": 0.0125}
_POSITIONS = 32  # of the prompt's end, where logits are compared
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
    from paddle_xc2.checkpoint.names import layout_of
    from paddle_xc2.checkpoint.shards import read_checkpoint
    from paddle_xc2.files.local_path import local_path
    from paddle_xc2.hub.directory import open_model
    from paddle_xc2.messages import writing
    from paddle_xc2.weights.convert import convert

    adapter, args.output = open_model(args.adapter, args.base), local_path(args.output)
    if not adapter.is_adapter:
        raise ValueError(
            f"{adapter}: is no adapter, it has no adapter_config.json (PEFT) or lora_config.json (PaddleNLP)"
        )
    base = adapter.base
    to = args.to or ("hf" if layout_of(read_checkpoint(base)) == "hf" else "paddle")
    with writing(args.output):
        report = convert(
            adapter,
            args.output,
            to,
            args.dtype,
            args.max_shard_size,
            overwrite=args.overwrite,
            progress=not args.disable_tqdm,
            say=lambda line: print(line, file=sys.stderr),
            dequantize=args.dequantize,
        )
    print(
        f"{adapter} and {base} -> {args.output} ({to}): {report.num_tensors} tensors, {report.num_bytes / 1e9:.3g} GB, "
        f"every one read back and compared, in {report.seconds:.1f} s"
    )
    if adapter.origin.quantization and not args.dequantize:
        print(
            "the adapter was trained on the base in four bits and is now in the base as it is, which is nearer to the "
            "original model; --dequantize merges it into the very weights that it was trained with"
        )
    if not args.no_compare:
        compare(adapter, args.output, "nf4" if args.dequantize else None)
    return 0


def compare(adapter, merged, quantize: str | None = None) -> None:
    """Asks the base, the base with the adapter, and the merged model the same, and prints how the logits differ.

    All three compute in float32, so that they differ by how the merged weights were rounded, and by nothing else.

    Args:
        quantize: how the base was quantized before merging.
    Raises: ValueError if the merged model's logits are not those with the adapter, or are not finite.
    """
    import numpy as np
    import paddle

    from paddle_xc2 import runtime
    from paddle_xc2.checkpoint.shards import read_checkpoint
    from paddle_xc2.data.processor import XComposer2Processor
    from paddle_xc2.hub.directory import open_model
    from paddle_xc2.model import XComposer2ForCausalLM
    from paddle_xc2.models.not_finite import describe_not_finite

    runtime.prepare()
    merged = open_model(merged)
    stored = read_checkpoint(merged).values()
    needed = 5 * sum(math.prod(tensor.shape) for tensor in stored)  # in float32, with what is in between
    if needed > runtime.device_memory():
        print(
            f"logits before and after are not compared: that takes about {needed / 1e9:.0f} GB, and there are "
            f"{runtime.device_memory() / 1e9:.0f} GB here"
        )
        return
    processor = XComposer2Processor.from_pretrained(merged, hd_num=None)
    batch = processor.collate([processor.encode_chat("What is in the picture?", images=[_picture()])])
    del batch["labels"]

    def logits(model):
        """Of the question alone: at the picture's places, the head would take longer than the rest."""
        with paddle.no_grad():
            return model.output(model(**batch).hidden_states[:, -_POSITIONS:]).astype("float32").numpy()

    model = XComposer2ForCausalLM.from_pretrained(adapter, "float32", quantize=quantize)
    on, change = logits(model), model.provenance.adapter_report
    if not np.isfinite(on).all():
        told = describe_not_finite(model, **batch)
        raise ValueError(f"{adapter.base} with {adapter}: {told}; {merged} is no better, delete it")
    model.unload_adapter()
    off = logits(model)
    del model
    written = XComposer2ForCausalLM.from_pretrained(merged, "float32")
    after = logits(written)
    size, difference = float(np.abs(on).max()), float(np.abs(after - on).max())
    print(f"adapter: {change}")
    print(
        f"logits of a question about a picture, up to {size:.3g}: the adapter changes them by up to "
        f"{float(np.abs(on - off).max()):.3g}; merged, they differ from that by up to {difference:.2g}"
    )
    if not difference <= max(_ROUNDING.get(tensor.dtype, 1e-3) for tensor in stored) * size:
        raise ValueError(
            f"{merged}: its logits are not those of the base with the adapter; don't use it, and report this"
        )


def _picture():
    """A picture of all colours."""
    import numpy as np
    from PIL import Image

    row, column = np.mgrid[0:64, 0:96]
    return Image.fromarray(np.stack([row * 4, column * 2, 255 - row * 4], axis=-1).astype(np.uint8))

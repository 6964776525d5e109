"""What the commands that ask a model have in common: which model, and how its tokens are chosen."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace

from paddle_xc2.generation.sampling_settings import CHAT_SAMPLING, MAX_NEW_TOKENS, SamplingSettings

RELEASED = "internlm/internlm-xcomposer2-7b"  # what is proposed where no model is named
SIZE = "about 17 GB"
# The settings of sampling that are numbers, and what their help says of how to turn them off.
_NUMBERS = {"temperature": "", "top_p": "", "top_k": "; 0 is off", "repetition_penalty": "; 1 is off"}


def add_model_arguments(parser: ArgumentParser, required: bool = False) -> None:
    """Which model is asked, in which layout and dtype."""
    parser.add_argument(
        "--from_pretrained",
        "--model_name_or_path",
        dest="path",
        required=required,
        help=f"checkpoint directory, or a released name such as {RELEASED}, which is fetched ({SIZE})",
    )
    parser.add_argument("--base", metavar="DIR", help="of an adapter, if it is not where the adapter remembers it")
    parser.add_argument(
        "--chat_layout", choices=["official", "as_trained"], help="prompt layout; the checkpoint's own by default"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: what the device computes best"
    )


def add_sampling_arguments(parser: ArgumentParser) -> None:
    """How long answers become, and how their tokens are chosen; and the system turn."""
    parser.add_argument(
        "--max_new_tokens", type=int, default=MAX_NEW_TOKENS, help="longest answer, in tokens (default: %(default)s)"
    )
    parser.add_argument("--greedy", action="store_true", help="always take the likeliest token, do not sample")
    for name, off in _NUMBERS.items():
        default = getattr(CHAT_SAMPLING, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: %(default)s{off}")
    parser.add_argument("--meta_instruction", help='system turn; the checkpoint\'s own by default, "" for none')
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")


def sampling_of(args: Namespace) -> SamplingSettings:
    """How tokens are chosen, of `add_sampling_arguments`. Raises: ValueError for a value out of range."""
    return SamplingSettings(do_sample=not args.greedy, **{name: getattr(args, name) for name in _NUMBERS})


def load_model(path: str, args: Namespace) -> tuple:
    """(model, tokenizer), said to be loaded. args: of `add_model_arguments`. Raises: ValueError, FileNotFoundError."""
    from paddle_xc2 import model as front_door
    from paddle_xc2 import runtime
    from paddle_xc2.hub.directory import open_model
    from paddle_xc2.text.load_tokenizer import load_tokenizer

    start = time.perf_counter()
    precisions = runtime.prepare().precisions
    if args.dtype not in (None, *precisions):
        raise ValueError(
            f"dtype {args.dtype} can't be computed in here, only {', '.join(precisions)}; leave --dtype out"
        )
    directory = open_model(path, args.base)
    tokenizer = load_tokenizer(directory)
    model = front_door.load_model(directory, dtype=args.dtype)
    model.eval()
    if args.chat_layout:
        model.config.chat_layout = args.chat_layout
    size = sum(parameter.size for parameter in model.parameters()) / 1e6
    dtype = str(model.output.weight.dtype).removeprefix("paddle.")
    print(
        f"{model.config.family.name} from {directory}: {size:,.1f} M parameters, {dtype}, "
        f"loaded in {time.perf_counter() - start:.1f} s",
        file=sys.stderr,
    )
    if model.provenance.adapter_report:
        print(f"adapter on {model.provenance.directory}: {model.provenance.adapter_report}", file=sys.stderr)
    return model, tokenizer

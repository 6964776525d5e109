"""`paddle-xc2 finetune`: supervised fine-tuning from a JSON argument file."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, Namespace

HELP = "fine-tune a checkpoint as a JSON argument file says"
EXAMPLE = "paddle-xc2 finetune config/sft_tiny.json --learning_rate 1e-4"


def add_arguments(parser: ArgumentParser) -> None:
    from paddle_xc2.training.arguments import describe_keys

    parser.usage = "paddle-xc2 finetune CONFIG.json [--key value ...]"
    parser.add_argument(
        "config", metavar="CONFIG.json", help="the argument file; `paddle-xc2 configs` lists some to start from"
    )
    parser.add_argument(
        "overrides", metavar="--key value", nargs=REMAINDER, help="keys of the argument file, which they override"
    )
    parser.epilog = f"{parser.epilog}\n\n{describe_keys()}"


def run(args: Namespace) -> int:
    # Imported here: --help answers without Paddle, and a bad key is told before it is loaded.
    from paddle_xc2.training.arguments import load_arguments

    load_arguments(args.config, args.overrides)
    from paddle_xc2.training.finetune import finetune

    return finetune(args.config, args.overrides)

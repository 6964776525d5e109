"""`paddle-xc2 finetune`: supervised fine-tuning from a JSON argument file."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, Namespace

from paddle_xc2.commands.configs import config_directory
from paddle_xc2.files.local_path import local_path

HELP = "fine-tune a checkpoint as a JSON argument file says"
EXAMPLE = "paddle-xc2 finetune config/sft_tiny.json --learning_rate 1e-4"


def add_arguments(parser: ArgumentParser) -> None:
    from paddle_xc2.training.arguments import describe_keys

    parser.usage = "paddle-xc2 finetune CONFIG.json [--plan] [--key value ...]"
    parser.add_argument(
        "--plan", action="store_true", help="say what the run would do and need, show its first sample, and stop"
    )
    parser.add_argument(
        "config", metavar="CONFIG.json", help="the argument file; `paddle-xc2 configs` lists some to start from"
    )
    parser.add_argument(
        "overrides", metavar="--key value", nargs=REMAINDER, help="keys of the argument file, which they override"
    ).required = False  # else a missing CONFIG.json is told as if these were missing too
    parser.epilog = f"{parser.epilog}\n\n{describe_keys()}"


def run(args: Namespace) -> int:
    # Imported here: --help answers without Paddle, and what is wrong with the arguments is told before it is loaded.
    from paddle_xc2.training.arguments import load_arguments

    check_argument_file(args.config)
    overrides = [word for word in args.overrides if word != "--plan"]  # argparse leaves it among them
    arguments = load_arguments(args.config, overrides)
    check_files(arguments, args.config)
    from paddle_xc2.training.finetune import finetune

    return finetune(args.config, overrides, args.plan or len(overrides) < len(args.overrides))


def check_argument_file(path: str) -> None:
    """Raises: FileNotFoundError saying where to take it from, if there is none."""
    if local_path(path).exists():
        return
    name = local_path(path).stem
    shipped = (config_directory() / f"{name}.json").is_file()
    hint = f"paddle-xc2 configs --copy {name} . brings it here" if shipped else "paddle-xc2 configs lists some to copy"
    raise FileNotFoundError(f"{path}: there is no such file; {hint}")


def check_files(arguments, config_path: str) -> None:
    """Raises: FileNotFoundError naming, together, the model and the data files that are nowhere."""
    from paddle_xc2.hub.find import check_model_name
    from paddle_xc2.training.arguments import dataset_specs

    wrong = []
    try:
        check_model_name(arguments.model_name_or_path)
    except FileNotFoundError as error:
        wrong.append(f"{config_path}: model_name_or_path {error}")
    for part in ("train", "eval"):
        try:
            dataset_specs(arguments, part, config_path)
        except FileNotFoundError as error:
            wrong.append(str(error))
    if wrong:
        raise FileNotFoundError("\n".join(wrong))

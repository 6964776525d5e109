"""`paddle-xc2 configs`: the argument files that ship with the package."""

from __future__ import annotations

import json
import shutil
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import paddle_xc2
from paddle_xc2.files.local_path import local_path
from paddle_xc2.messages import did_you_mean, shown

HELP = "list the argument files that ship with the package, show one, or copy one to start from"
EXAMPLE = "paddle-xc2 configs --copy sft_argument ."


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--show", metavar="NAME", help="print the argument file NAME")
    parser.add_argument(
        "--copy", nargs=2, metavar=("NAME", "DIR"), help="copy the argument file NAME into the folder DIR"
    )


def run(args: Namespace) -> int:
    files = {path.stem: path for path in sorted(config_directory().glob("*.json"))}
    if args.show:
        print(files[known(files, args.show)].read_text(encoding="utf-8"), end="")
        return 0
    if args.copy:
        name, folder = args.copy
        copy = copy_config(files, name, local_path(folder))
        print(
            f"set model_name_or_path, dataset and output_dir in {copy}, then (--plan says what it would do):",
            file=sys.stderr,
        )
        print(f"paddle-xc2 finetune {copy}")
        return 0
    width = max(map(len, files), default=0)
    for name, path in files.items():
        print(f"{name:{width}}  {summary(json.loads(path.read_text(encoding='utf-8')))}")
    return 0


def config_directory() -> Path:
    """Where the argument files are: in the installed package, or beside it in a checkout.

    Raises: FileNotFoundError if they are in neither place.
    """
    package = Path(paddle_xc2.__file__).resolve().parent
    for folder in (package / "config", package.parent / "config"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{package}: the argument files are missing; install paddle_xc2 again")


def known(files: dict[str, Path], name: str) -> str:
    """The key of `files` that is meant by `name`, with or without .json. Raises: ValueError if there is none."""
    stem = name.removesuffix(".json")
    if stem not in files:
        hint = did_you_mean(stem, files, cutoff=0.6) or f"; there are: {', '.join(files)}"
        raise ValueError(f'there is no argument file "{shown(name)}"{hint}')
    return stem


def copy_config(files: dict[str, Path], name: str, folder: Path) -> Path:
    """Copies the argument file `name` (with or without .json) into `folder`, which is made where it is missing.

    Returns: the copy's path.
    Raises: ValueError if there is no such file, or `folder` has one of that name, or is no folder.
    """
    stem = known(files, name)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --copy takes the folder to copy into")
    target = folder / files[stem].name
    if target.exists():
        raise ValueError(f"{target} exists; remove it, or copy into another folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(files[stem], target)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return target


def summary(arguments: dict) -> str:
    """What an argument file trains, in a line: method, precision, model."""
    if arguments.get("lora") or arguments.get("use_lora"):
        method = "QLoRA" if arguments.get("quantization") or arguments.get("load_in_4bit") else "LoRA"
    else:
        method = "parts of the model" if arguments.get("freeze_include") else "full fine-tuning"
    precision = "bf16" if arguments.get("bf16") else "fp16" if arguments.get("fp16") else "float32"
    return f"{method}, {precision}, {arguments.get('model_name_or_path', 'model to be named')}"

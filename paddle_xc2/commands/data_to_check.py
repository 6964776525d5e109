"""Which data `paddle-xc2 check-data` checks, with the settings of which model."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from paddle_xc2.commands.convert_data import columns_of
from paddle_xc2.files.local_path import local_path

# Keys that a fine-tuning run has and a record hasn't.
_ARGUMENT_KEYS = ("dataset", "data_path", "model_name_or_path", "output_dir")


@dataclass
class DataToCheck:
    """What is to be checked, with which settings of a run; None is the model's default."""

    files: list[tuple]  # (path, where relative image paths start or None[, columns of a table]), as of `open_sources`
    model: str | None = None
    max_length: int | None = None
    hd_num: int | None = None
    img_size: int | None = None
    truncation: str | None = None
    adapter: str | None = None
    new_tokens: list[str] | None = None
    exif: bool | None = None
    background: str | None = None
    pad_image_to_square: bool | None = None


def data_to_check(args: Namespace) -> DataToCheck:
    """The files that the paths stand for; options of the command line win over an argument file's.

    Raises: FileNotFoundError, ValueError.
    """
    from paddle_xc2.data.data_list import read_data_list

    wanted = DataToCheck([])
    folder = None if args.image_folder is None else local_path(args.image_folder)
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"--image_folder {folder}: there is no such folder")
    for path in args.paths:
        if is_argument_file(local_path(path)):
            if len(args.paths) > 1:
                raise ValueError(f"{path} is the argument file of a run; check it alone, or give its data files")
            wanted = data_of_run(path)
        elif path.lower().endswith(".txt"):
            # What its numbers mean decides how often a record is drawn, not what is in it.
            wanted.files += files_of(read_data_list(local_path(path), given_num=False))
        else:
            wanted.files.append((local_path(path), None))
    if folder is not None:
        wanted.files = [(path, folder, *columns) for path, _, *columns in wanted.files]
    if columns := columns_of(args, [file for file, *_ in wanted.files]):
        wanted.files = [(path, folder, columns) for path, folder, *_ in wanted.files]
    wanted.model = args.model_name_or_path or wanted.model
    wanted.truncation = args.truncation or wanted.truncation
    for name in ("max_length", "hd_num"):
        if getattr(args, name) is not None:
            setattr(wanted, name, getattr(args, name))
        if wanted.model is None and getattr(wanted, name) is not None:
            raise ValueError(f"--{name} is in tokens of a model; name it by --model_name_or_path")
    return wanted


def is_argument_file(path: Path) -> bool:
    """Whether a JSON file holds the arguments of a fine-tuning run, not records."""
    if path.suffix.lower() != ".json" or not path.is_file() or path.stat().st_size > 2**20:
        return False
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # the second for brackets without end
        return False
    return isinstance(values, dict) and any(key in values for key in _ARGUMENT_KEYS) and "conversations" not in values


def data_of_run(path: str) -> DataToCheck:
    """The data of a run, for training and evaluation, and the settings that decide what becomes of it."""
    from paddle_xc2.training.arguments import dataset_specs, load_arguments

    arguments = load_arguments(path)
    specs = [spec for part in ("train", "eval") for spec in dataset_specs(arguments, part, path)]
    return DataToCheck(
        files_of(specs),
        arguments.model_name_or_path,
        arguments.max_length,
        arguments.hd_num,
        arguments.img_size,
        arguments.truncation,
        arguments.lora_path,
        arguments.new_tokens,
        arguments.exif,
        arguments.background,
        arguments.pad_image_to_square,
    )


def files_of(specs: list) -> list[tuple]:
    """(file, image folder, columns) of DatasetSpecs."""
    return [(file, spec.image_folder, spec.columns) for spec in specs for file in spec.files]


def processor_for(wanted: DataToCheck):
    """The processor of the model that is to be trained, with the tokens that the run adds; None without a model."""
    if wanted.model is None:
        return None
    from paddle_xc2.hub.directory import open_model
    from paddle_xc2.training.run_processor import run_processor

    adapter = None if wanted.adapter is None else open_model(wanted.adapter)
    processor, _ = run_processor(wanted, wanted.model, adapter)
    return processor

"""The data files of a run: `dataset` and `data_path` of the argument file."""

from __future__ import annotations

import os
import types
from dataclasses import replace
from pathlib import Path

from paddle_xc2.data.data_list import read_data_list
from paddle_xc2.data.mixture import DatasetSpec
from paddle_xc2.data.records.tables import SUFFIXES as TABLES
from paddle_xc2.data.records.tables import parse_columns
from paddle_xc2.files.local_path import find_path, local_path
from paddle_xc2.messages import did_you_mean, in_json, shown
from paddle_xc2.training.arguments.finetune_arguments import FinetuneArguments
from paddle_xc2.training.arguments.other_names import NEUTRAL
from paddle_xc2.training.arguments.values import SPOKEN, is_of_type

_ENTRY_KEYS = {
    "name": (str,),
    "data_files": (str, list[str]),
    "image_folder": (str, types.NoneType),
    "num_samples": (int, types.NoneType),
    "ratio": (float, types.NoneType),
    "columns": (str, dict, types.NoneType),
}
_WITHOUT_EVALUATION = 'to train without evaluation, set "evaluation_strategy": "no" (--evaluation_strategy no)'
_MOST = 10**8  # samples that an entry gives to an epoch, or times that it gives its records
_ENTRY_NEUTRAL = {"chat_template": NEUTRAL["chat_template"]}


def dataset_specs(arguments: FinetuneArguments, part: str, config_path: str | Path) -> list[DatasetSpec]:
    """The data files of "train" or "eval", found from the current folder or from the argument file's.

    A run that evaluates nothing needs none for "eval": there are none then where one of them is missing.

    Raises: FileNotFoundError naming every file that is nowhere; DataError if a data.txt can't be used.
    """
    if arguments.data_path is not None and part == "train":
        if arguments.data_path.endswith(".txt"):
            folder = arguments.image_folder
            specs = read_data_list(
                find_file(arguments.data_path, config_path),
                arguments.given_num,
                None if folder is None else local_path(folder),
            )
            return [replace(spec, columns=parse_columns(arguments.columns)) for spec in specs]
        entries = [{"data_files": arguments.data_path}]
    else:
        entries = (arguments.dataset or {}).get(part) or []
    specs, missing = [], []
    for entry in entries:
        names = entry["data_files"]
        found = []
        for name in [names] if isinstance(names, str) else names:
            found.append(find_file(name, config_path))
            if not found[-1].is_file():
                missing.append(str(name))
        folder = entry.get("image_folder", arguments.image_folder)
        specs.append(
            DatasetSpec(
                entry.get("name", part),
                tuple(found),
                None if folder is None else local_path(folder),
                None if entry.get("num_samples") is None else int(entry["num_samples"]),
                1.0 if entry.get("ratio") is None else float(entry["ratio"]),
                parse_columns(entry.get("columns", arguments.columns)),
            )
        )
    if missing and part == "eval" and not arguments.evaluates:
        return []
    if missing:
        key = "data_path" if part == "train" and arguments.data_path is not None else f"dataset.{part}"
        folders = str(Path.cwd()), str(local_path(config_path).resolve().parent)
        raise FileNotFoundError(
            f"{config_path}: data files of {key} are missing: {', '.join(missing)} "
            f"(looked for from {' and '.join(dict.fromkeys(folders))})"
            + (f"; {_WITHOUT_EVALUATION}" if part == "eval" and not arguments.do_eval else "")
        )
    return specs


def find_file(name: str, config_path: str | Path) -> Path:
    """A file that an argument file names, from the current folder or else from the argument file's."""
    folders = Path(), local_path(config_path).parent
    return find_path(name, folders, os.path.exists) or local_path(name)


def sample_images(arguments: FinetuneArguments) -> list[str]:
    images = arguments.evaluation_images or []
    return [images] if isinstance(images, str) else images


def check_dataset(arguments: FinetuneArguments, wrong: list[str]) -> None:
    if arguments.data_path is not None:
        if arguments.dataset and arguments.dataset.get("train"):
            wrong.append('"data_path" and "dataset.train" both name training data; keep one of them')
    for part, entries in (arguments.dataset or {}).items():
        if part not in ("train", "eval"):
            wrong.append(f'"dataset" has a part "{shown(part)}"; it may have train and eval')
        elif not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            wrong.append(
                f'"dataset.{part}" must be a list of objects like {{"name": "mine", "data_files": "{part}.json"}}'
            )
        else:
            for index, entry in enumerate(entries):
                _check_dataset_entry(f"dataset.{part}[{index}]", entry, wrong)
    files = [*([arguments.data_path] if arguments.data_path else []), *_all_files(arguments.dataset or {})]
    _check_columns("columns", arguments.columns, files, wrong)
    has = {part: bool((arguments.dataset or {}).get(part)) for part in ("train", "eval")}
    if arguments.do_train and not has["train"] and arguments.data_path is None:
        wrong.append(
            'training data is missing: set "dataset": {"train": [{"name": ..., "data_files": ...}]} or "data_path"'
        )
    if not has["eval"] and arguments.evaluates:
        key = "do_eval" if arguments.do_eval else "evaluation_strategy"
        wrong.append(
            f'"{key}" asks for evaluation, but "dataset" has no eval; add it, or set evaluation_strategy to no'
        )


def _check_dataset_entry(place: str, entry: dict, wrong: list[str]) -> None:
    for name, value in entry.items():
        if name in _ENTRY_NEUTRAL:
            if value not in (None, *_ENTRY_NEUTRAL[name].values):
                wrong.append(f'"{place}.{name}": {in_json(value)}: {_ENTRY_NEUTRAL[name].otherwise}')
        elif name not in _ENTRY_KEYS:
            known = f"; it may have {', '.join(_ENTRY_KEYS)}"
            wrong.append(f'unknown key "{shown(name)}" in {place}{did_you_mean(name, _ENTRY_KEYS) or known}')
        elif not any(is_of_type(value, kind) for kind in _ENTRY_KEYS[name]):
            expected = " or ".join(SPOKEN[kind] for kind in _ENTRY_KEYS[name])
            wrong.append(f'"{place}.{name}" is {in_json(value)}, expected {expected}')
    if not entry.get("data_files"):
        wrong.append(f'"{place}.data_files" is missing: the JSON file or files')
    _check_columns(f"{place}.columns", entry.get("columns"), entry.get("data_files"), wrong)
    _check_quota(place, entry, wrong)


def _all_files(dataset: dict) -> list[str]:
    """Every data file that is named by something that can be read."""
    entries = [entry for part in dataset.values() if isinstance(part, list) for entry in part]
    names = [entry.get("data_files") for entry in entries if isinstance(entry, dict)]
    lists = [[name] if isinstance(name, str) else name for name in names]
    return [name for one in lists if isinstance(one, list) and is_of_type(one, list[str]) for name in one]


def _check_columns(place: str, columns, files, wrong: list[str]) -> None:
    if not isinstance(columns, str | dict):
        return
    try:
        parse_columns(columns)
    except ValueError as error:
        wrong.append(f'"{place}": {error}')
    names = [files] if isinstance(files, str) else files
    if is_of_type(names, list[str]) and not any(name.lower().endswith((*TABLES, ".txt")) for name in names):
        wrong.append(f'"{place}" is set, but none of the data files is a table ({" or ".join(TABLES)}); leave it out')


def _check_quota(place: str, entry: dict, wrong: list[str]) -> None:
    given = [name for name in ("num_samples", "ratio") if entry.get(name) is not None]
    if len(given) == 2:
        wrong.append(f'"{place}" has both num_samples and ratio; keep one of them')
    for name in given:
        if any(is_of_type(entry[name], kind) for kind in _ENTRY_KEYS[name]) and not 0 < entry[name] <= _MOST:
            wrong.append(f'"{place}.{name}" is {in_json(entry[name])}, but must be above 0 and at most {_MOST}')
    if given and place.startswith("dataset.eval"):
        wrong.append(
            f'"{place}.{given[0]}": all of the evaluation data is evaluated; leave it out, or set max_evaluate_steps'
        )

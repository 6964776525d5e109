"""Reads an argument file and the command line over it: names, types and bounds of every value."""

from __future__ import annotations

import json
import types
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from paddle_xc2.files.json_file import read_json
from paddle_xc2.files.local_path import local_path
from paddle_xc2.messages import and_more, did_you_mean, in_json, shown
from paddle_xc2.training.arguments.finetune_arguments import DECLARED, KEYS, SYNONYMS, TYPES, FinetuneArguments
from paddle_xc2.training.arguments.other_names import (
    NEUTRAL,
    SWITCHES,
    USE_INSTEAD,
    WITHOUT_EFFECT,
    paddlenlp_defaults,
)
from paddle_xc2.training.arguments.together import check_together
from paddle_xc2.training.arguments.values import SPOKEN, is_of_type

_MAX_BYTES = 2**20  # of an argument file
_MAX_KEYS = 1000  # and of the names in it: each unknown one is compared with all that are known
_NUM_WRONG = 50  # that a message lists
_OF_ENTRIES_TOO = ("image_folder", "columns")  # keys that entries of dataset may have, which win over the file's


def load_arguments(path: str | Path, overrides: Sequence[str] = ()) -> FinetuneArguments:
    """Reads an argument file.

    Args:
        path: JSON file.
        overrides: command-line words `--key value`; they win over the file.
    Returns: the arguments, every value of its type.
    Raises: FileNotFoundError; ValueError that names every key and value that is wrong.
    """
    in_file: list[str] = []
    on_command_line: list[str] = []
    content = read_json(local_path(path), _MAX_BYTES)
    if len(content) > _MAX_KEYS:
        raise ValueError(f"{path}: has {len(content):,} keys; this is not an argument file of fine-tuning")
    values = _accept_all(content, in_file)
    over = _accept_all(_parse_overrides(list(overrides), on_command_line), on_command_line)
    values = _without_overridden_data(values, over) | over
    arguments = FinetuneArguments(**values)
    if not in_file and not on_command_line:
        check_together(arguments, in_file)
    wrong = [f"{path}: {line}" for line in in_file] + [f"command line: {line}" for line in on_command_line]
    if wrong:
        raise ValueError("\n".join([*wrong[:_NUM_WRONG], *and_more(len(wrong), _NUM_WRONG)]))
    return arguments


def _accept_all(values: dict, wrong: list[str]) -> dict:
    """The values of KEYS, each of its type; what can't be taken is noted in `wrong`."""
    accepted = {name: _accept(name, value, wrong) for name, value in _rename(values, wrong).items()}
    return {name: value for name, value in accepted.items() if name in KEYS and value is not MISSING}


def _without_overridden_data(values: dict, over: dict) -> dict:
    """The file's values without what the command line replaces under another key: its training data, where other data
    are named, and what entries of its data say for themselves.
    """
    values = _without_own_settings(values, [name for name in _OF_ENTRIES_TOO if name in over])
    dataset = values.get("dataset")
    if over.get("data_path") is not None and "dataset" not in over and isinstance(dataset, dict):
        return values | {"dataset": {part: files for part, files in dataset.items() if part != "train"} or None}
    if isinstance(over.get("dataset"), dict) and "train" in over["dataset"]:
        return {name: value for name, value in values.items() if name != "data_path"}
    return values


def _without_own_settings(values: dict, names: list[str]) -> dict:
    """Without the keys `names` in the entries of dataset."""
    dataset = values.get("dataset")
    if not names or not isinstance(dataset, dict):
        return values
    parts = {
        part: [
            {name: value for name, value in entry.items() if name not in names} if isinstance(entry, dict) else entry
            for entry in entries
        ]
        if isinstance(entries, list)
        else entries
        for part, entries in dataset.items()
    }
    return values | {"dataset": parts}


def _rename(values: dict, wrong: list[str]) -> dict:
    """Synonyms become their key. Two names with different values are noted in `wrong`."""
    renamed: dict[str, Any] = {}
    said_as: dict[str, str] = {}
    for name, value in values.items():
        target, said = SYNONYMS.get(name, name), f'"{shown(name)}" is {in_json(value)}'
        if name in SWITCHES and isinstance(value, bool):
            target, switched_on = SWITCHES[name]
            value = switched_on if value else None
        if target in renamed and renamed[target] != value:
            wrong.append(f"{said_as[target]} and {said}, but they are two names for one thing; keep one of them")
        renamed[target], said_as[target] = value, said
    return renamed


def _parse_overrides(words: list[str], wrong: list[str]) -> dict:
    """`--key value`, `--key=value`, `--flag`, `--list a b` -> values; text that is no JSON stays text."""
    values: dict[str, Any] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            values[name] = [value] if equals else []
        elif name is None:
            wrong.append(f'"{shown(word)}" stands before any --key on the command line')
        else:
            values[name].append(word)
    return {name: _parse_words(SYNONYMS.get(name, name), words) for name, words in values.items()}


def _parse_words(name: str, words: list[str]) -> Any:
    kind = TYPES.get(name)
    if kind is not None and list in (get_origin(option) for option in (kind, *get_args(kind))):
        if len(words) != 1 or not words[0].startswith("["):
            return None if words == ["null"] else words
    if not words:
        return True
    text = " ".join(words)
    if text.lower() in ("true", "false") or (
        kind in (bool, bool | None) and text.lower() in ("1", "0", "yes", "no", "on", "off")
    ):
        return text.lower() in ("true", "1", "yes", "on")
    if kind in (str, str | None) and text != "null":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        try:
            return float(text)  # 1e-5 is JSON, 1.e-5 and .1 are not
        except ValueError:
            return None if text.lower() == "none" and kind is not None else text


def _accept(name: str, value: Any, wrong: list[str]) -> Any:
    """The value in the type of its key; MISSING, and a line in `wrong`, if it can't be taken."""
    if name in WITHOUT_EFFECT:
        return value
    if name in NEUTRAL:
        neutral, otherwise = NEUTRAL[name]
        if value not in neutral:
            wrong.append(f'"{name}": {in_json(value)}: {otherwise}')
        return value
    if name not in KEYS:
        return _accept_unknown(name, value, wrong)
    kind = TYPES[name]
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for option in options:
        if is_of_type(value, option):
            if complaint := DECLARED[name].complaint(value):
                wrong.append(f'"{name}" is {in_json(value)}, but must be {complaint}')
                return MISSING
            return option(value) if option in (int, float) else value
    wrong.append(f'"{name}" is {in_json(value)}, expected {" or ".join(SPOKEN[option] for option in options)}')
    return MISSING


def _accept_unknown(name: str, value: Any, wrong: list[str]) -> Any:
    """The value of a key that PaddleNLP has and that asks for nothing; else MISSING, and what to use instead."""
    defaults = paddlenlp_defaults()
    if name in defaults and value == defaults[name]:
        return value
    if name.lower() in USE_INSTEAD:
        wrong.append(f'unknown argument "{name}"; {USE_INSTEAD[name.lower()]}')
    elif name in defaults:
        wrong.append(f'"{name}": {in_json(value)}: PaddleNLP has this key, but it is not used here; leave it out')
    else:
        known = [*KEYS, *SYNONYMS, *SWITCHES, *NEUTRAL, *WITHOUT_EFFECT]
        all_keys = "; `paddle-xc2 finetune --help` lists the keys"
        wrong.append(f'unknown argument "{shown(name)}"{did_you_mean(name, known) or all_keys}')
    return MISSING

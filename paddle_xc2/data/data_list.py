"""A data.txt, upstream's list of files (`data_mix.py` of XComposer2 and 2.5) -> what is taken of each of them."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.mixture import DatasetSpec
from paddle_xc2.files.local_path import find_path, local_path
from paddle_xc2.messages import counted, listed_lines

_MOST_BYTES = 2**20  # more is no list of files


def read_data_list(path, given_num: bool, image_folder: Path | None = None) -> list[DatasetSpec]:
    """The files of a data.txt, each once, in the order in which they first stand there.

    A line is `path` or `path number`, in shell quotes if the path holds spaces; empty lines and what follows a # don't
    count. A path starts from the list's folder, or else from the working directory. A file without a number is taken
    whole; what several lines ask of one file is summed.

    Args:
        given_num: numbers are thousands of samples, cut to whole ones as upstream's int(float(number) * 1000); else
            they are the share of the file.
    Raises: FileNotFoundError that names every file that is nowhere; DataError that lists the lines that can't be used.
    """
    path = local_path(path)
    specs: dict[Path, DatasetSpec] = {}
    wrong: list[str] = []
    missing: list[str] = []
    for number, line in enumerate(_lines_of(path), start=1):
        try:
            name, quota = _parse_line(line)
            if name is None:
                continue
            file = _find(name, line, path.parent)
            if file is None:
                missing.append(f"{name} (line {number})")
                continue
            spec = _spec(name, file, quota, given_num, image_folder)
            known = specs.get(file.resolve())
            specs[file.resolve()] = spec if known is None else _summed(known, spec)
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        raise DataError(listed_lines(f"{path}: {counted(len(wrong), 'line')} can't be used:", wrong))
    if missing:
        raise FileNotFoundError(
            f"{path}: files are missing: {', '.join(missing)} (looked for from "
            f"{path.parent.resolve()} and {Path.cwd()})"
        )
    if not specs:
        raise DataError(f"{path}: the list names no file; write lines like `train.json 10`")
    return _named_shortly(list(specs.values()))


def _lines_of(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such data list; correct the path")
    raw = path.read_bytes()
    if len(raw) > _MOST_BYTES:
        raise DataError(f"{path}: {len(raw):,} bytes are too many for a list of files; a JSON file ends in .json")
    try:
        return raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file in UTF-8") from error


def _find(name: str, line: str, folder: Path) -> Path | None:
    folders = folder, Path()
    file = find_path(name, folders)
    if file is None and "\\" in line:  # Windows', which end a folder and escape nothing
        file = find_path(_parse_line(line, escape="")[0], folders)
    return file


def _spec(name: str, file: Path, quota: float | None, given_num: bool, image_folder: Path | None) -> DatasetSpec:
    spec = DatasetSpec(name, (file,), image_folder)
    if quota is None:
        return spec
    return replace(spec, num_samples=int(quota * 1000)) if given_num else replace(spec, ratio=quota)


def _summed(known: DatasetSpec, added: DatasetSpec) -> DatasetSpec:
    """What two lines ask of one file. Raises: ValueError if one has a number of samples and one has none."""
    if (known.num_samples is None) != (added.num_samples is None):
        raise ValueError(f"{added.name} stands both with and without a number; write one of them")
    if known.num_samples is None:
        return replace(known, ratio=known.ratio + added.ratio)
    return replace(known, num_samples=known.num_samples + added.num_samples)


def _parse_line(line: str, escape: str = "\\") -> tuple[str | None, float | None]:
    """(path, number) of a line of a data.txt; None where there is none. Raises: ValueError that says what is wrong."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.escape = True, escape
    words = list(lexer)  # its errors are ValueErrors: "No closing quotation"
    if not words:
        return None, None
    if len(words) > 2:
        raise ValueError(f'"{line.strip()}" has {len(words)} words; write `path number`, quotes around spaces')
    if len(words) == 1:
        return words[0], None
    try:
        quota = float(words[1])
    except ValueError:
        raise ValueError(f'"{words[1]}" is no number; write `path number`, quotes around spaces') from None
    if not (math.isfinite(quota) and quota > 0):
        raise ValueError(f"the number {words[1]} must be above 0; put a # before a file to leave out")
    return words[0], quota


def _named_shortly(specs: list[DatasetSpec]) -> list[DatasetSpec]:
    """Named by the file alone, where that tells them apart."""
    stems = [spec.files[0].stem for spec in specs]
    return [
        spec if stems.count(stem) > 1 else replace(spec, name=stem) for spec, stem in zip(specs, stems, strict=True)
    ]

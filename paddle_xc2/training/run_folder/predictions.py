"""predictions-{step}.jsonl: the generated answers of an evaluation, in a run's folder.

A table beside them lists those that we wrote: no other is ever replaced or deleted.
"""

from __future__ import annotations

import json
from pathlib import Path

from paddle_xc2.checkpoint.companions import PREDICTIONS
from paddle_xc2.files.durable import is_as_written, is_file_table, replace_file, table_entry
from paddle_xc2.files.json_file import read_json
from paddle_xc2.messages import listed

TABLE_FILE = ".predictions_sha256.json"


def write_predictions(output_dir: Path, step: int, records: list[dict]) -> None:
    """Writes the answers after `step`. records: as `Answer.record()`; their "index" is left out."""
    lines = [{name: value for name, value in record.items() if name != "index"} for record in records]
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    path = output_dir / f"{PREDICTIONS}{step}.jsonl"
    # Listed first: whenever the run is killed, it finds all of its own again.
    _write_table(output_dir, {**_table(output_dir), path.name: table_entry(content)})
    replace_file(path, content)


def delete_predictions(output_dir: Path, after: int) -> None:
    """Deletes those of later steps: of an earlier run, or given up: the run went on from before them."""
    table = _table(output_dir)
    for path in _files(output_dir):
        if _step_of(path) > after and is_as_written(path, table.get(path.name)):
            path.unlink()
    gone = [name for name in table if not (output_dir / name).exists()]
    if gone:
        _write_table(output_dir, {name: entry for name, entry in table.items() if name not in gone})


def check_none_in_the_way(output_dir: Path, first: int, last: int) -> None:
    """Raises: ValueError if answers after the steps `first` to `last` would take the place of what is not ours."""
    table = _table(output_dir)
    foreign = [
        path.name
        for path in sorted(_files(output_dir), key=_step_of)
        if first <= _step_of(path) <= last and not is_as_written(path, table.get(path.name))
    ]
    if foreign:
        raise ValueError(
            f"{output_dir} holds {listed(foreign)}, not written by paddle-xc2 or changed since, but named as this "
            "run's predictions will be; move that away, or choose another folder"
        )


def _files(output_dir: Path) -> list[Path]:
    found = output_dir.glob(f"{PREDICTIONS}*.jsonl")
    return [path for path in found if path.stem.removeprefix(PREDICTIONS).isdecimal()]


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix(PREDICTIONS))


def _table(output_dir: Path) -> dict[str, dict]:
    """{} where there is none, or none that is sound."""
    try:
        table = read_json(output_dir / TABLE_FILE)
    except (FileNotFoundError, ValueError):
        return {}
    return table if is_file_table(table) else {}


def _write_table(output_dir: Path, table: dict[str, dict]) -> None:
    replace_file(output_dir / TABLE_FILE, (json.dumps(table, indent=2) + "\n").encode())

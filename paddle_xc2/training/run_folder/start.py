"""The folder that a run writes into: whose it is, and where in it a run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paddle_xc2.checkpoint.companions import companions
from paddle_xc2.checkpoint.whole_directory import check_destination, finish_interrupted
from paddle_xc2.data.samples import Samples
from paddle_xc2.files.directory_lock import locked
from paddle_xc2.files.durable import SCRATCH, replace_file
from paddle_xc2.files.json_file import read_json
from paddle_xc2.hub.directory import ADAPTER_CONFIG_FILE, CONFIG_FILE, ModelDirectory
from paddle_xc2.hub.weight_files import WEIGHT_SUFFIXES
from paddle_xc2.training.arguments import KEYS, FinetuneArguments
from paddle_xc2.training.run_folder import checkpoints, predictions
from paddle_xc2.training.run_folder.sample_contents import describe_changes

# Settings that must match on resume since version 0.2: checkpoints without them can be gone on from.
PICTURES, BASE, EVALUATION = "contents of pictures and tokens", "files of the base model", "evaluation data"

RUN_FILE = "run.json"  # makes a folder ours: which arguments made what is in it
_IS_OVER = "model_saved"  # in it, true once nothing of the run is left to do


@dataclass(frozen=True)
class StartingPoint:
    """Where a run begins.

    Attributes:
        checkpoint: the state to go on from, or None.
        step: steps that are done there.
        settings: of the checkpoint's run, which must match (`Plan.resume_settings`); {} without one.
        started: identifies the run, also over interruptions: nanoseconds since 1970 of its beginning.
        is_over: whether the run that wrote the checkpoint came to its end and saved its model.
        notes: what to tell the user about the choice.
    """

    checkpoint: Path | None
    step: int
    settings: dict
    started: int
    notes: tuple[str, ...] = ()
    is_over: bool = False


def choose_start(arguments: FinetuneArguments) -> StartingPoint:
    """Decides whether a run begins or goes on; writes nothing.

    Raises: ValueError if output_dir is somebody else's, or holds a finished run that nothing says to replace, or if the
        checkpoint that is asked for is not whole.
    """
    if not arguments.do_train:
        return StartingPoint(None, 0, {}, time.time_ns())
    output_dir = Path(arguments.output_dir)
    _check_ours(arguments)
    resume = arguments.resume_from_checkpoint
    notes: list[str] = []
    checkpoint = None
    if arguments.names_a_checkpoint:
        checkpoint = Path(resume)
        checkpoints.check_whole(checkpoint)
    elif resume == "auto" or resume is None and not arguments.overwrite_output_dir:
        checkpoint, passed_over = checkpoints.newest_whole(output_dir)
        notes += [f"passed over: {reason}" for reason in passed_over]
        if checkpoint is None and resume is None and _holds_model(output_dir):
            raise ValueError(
                f"output_dir {output_dir} holds a finished run without a checkpoint to go on from; choose another "
                f'folder, or set "overwrite_output_dir": true to train again and replace it; '
                f"{train_longer(output_dir, arguments.lora)}"
            )
    elif newest := checkpoints.newest_named(output_dir):
        notes.append(
            f"{output_dir} holds {newest.name} of an earlier run, which the first new checkpoint will replace "
            "(to go on from it instead: --resume_from_checkpoint auto)"
        )
    if checkpoint is None:
        return StartingPoint(None, 0, {}, time.time_ns(), tuple(notes))
    marker, record = checkpoints.read_marker(checkpoint), _run_record(output_dir)
    is_over = record.get("started") == marker["started"] and record.get(_IS_OVER) is True and _holds_weights(output_dir)
    settings, started = marker[checkpoints.SETTINGS], marker["started"]
    return StartingPoint(checkpoint, marker["step"], settings, started, tuple(notes), is_over)


def check_ours(output_dir: Path, model_dir: Path, adapter_dir: Path | None = None) -> None:
    """Raises: ValueError if `output_dir` is a file or below one, holds something else than our runs, or what the run
    is to start from: model or adapter.
    """
    for parent in output_dir.parents:
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"output_dir {output_dir} can't be made, {parent} is a file; give another folder")
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir {output_dir} is a file; give a folder")
    for what, path in (("model", model_dir), ("adapter", adapter_dir)):
        if output_dir.exists() and path and path.exists() and output_dir.samefile(path):
            raise ValueError(
                f"output_dir {output_dir} is the folder of the {what} to start from; choose another folder"
            )
    inside = output_dir.iterdir() if output_dir.exists() else ()
    if any(not path.name.startswith(SCRATCH) for path in inside) and not _is_ours(output_dir):
        raise ValueError(
            f"output_dir {output_dir} is not empty, and what it holds was not written by paddle-xc2 finetune "
            f"(it has no {RUN_FILE}); choose another folder, or empty it"
        )


@contextmanager
def held(arguments: FinetuneArguments) -> Iterator[None]:
    """Keeps other writers out of output_dir, and brings to its end what a killed run left in the midst of a rename.

    Raises: ValueError as `check_ours`, or if another process writes into it; NotOurs as `replace_files`.
    """
    if not arguments.output_dir or not arguments.do_train and not arguments.save_generation_output:
        yield
        return
    output_dir = Path(arguments.output_dir)
    if arguments.do_train:
        _check_ours(arguments)
    with locked(output_dir, whole_run=True):
        if arguments.do_train and output_dir.exists():
            checkpoints.finish_interrupted(output_dir)
            finish_interrupted(output_dir)
        yield


def _check_ours(arguments: FinetuneArguments) -> None:
    adapter_dir = Path(arguments.lora_path) if arguments.lora_path else None
    check_ours(Path(arguments.output_dir), Path(arguments.model_name_or_path), adapter_dir)


def check_none_in_the_way(
    arguments: FinetuneArguments, start: StartingPoint, num_steps: int, model: ModelDirectory
) -> None:
    """Args:
        num_steps: of the whole run.
        model: that is trained, whose other files come along.
    Raises: ValueError if what the run is going to write would take the place of what is not ours.
    """
    if not arguments.output_dir or not Path(arguments.output_dir).exists():
        return
    output_dir = Path(arguments.output_dir)
    if arguments.save_generation_output:
        predictions.check_none_in_the_way(output_dir, start.step, num_steps)
    if arguments.do_train:
        checkpoints.check_none_in_the_way(output_dir, start.step + 1, num_steps)
        if not arguments.benchmark:
            brings = [] if arguments.lora else companions(model)
            check_destination(output_dir.resolve(), True, brings)


def _is_ours(output_dir: Path) -> bool:
    return "paddle_xc2" in _run_record(output_dir)


def _run_record(output_dir: Path) -> dict:
    """What RUN_FILE holds; {} where there is none, or none that is sound."""
    try:
        return read_json(output_dir / RUN_FILE)
    except (FileNotFoundError, ValueError):
        return {}


def _write_run_record(output_dir: Path, record: dict) -> None:
    replace_file(output_dir / RUN_FILE, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def _holds_model(output_dir: Path) -> bool:
    return any((output_dir / name).exists() for name in (CONFIG_FILE, ADAPTER_CONFIG_FILE))


def _holds_weights(output_dir: Path) -> bool:
    return any(path.suffix in WEIGHT_SUFFIXES for path in output_dir.glob("*"))


def check_settings_match(start: StartingPoint, settings: dict, samples: Samples | None = None) -> None:
    """Args:
        settings: `Plan.resume_settings` of the run that is about to begin.
        samples: that it trains on, to name those whose contents are not as they were.
    Raises: ValueError naming everything that is not as it was when the checkpoint was written.
    """
    if start.checkpoint is None:
        return
    then = {name: _setting_then(start, name, value) for name, value in settings.items()}
    changed = {
        name: f"{name} was {then[name]} and is {value}" for name, value in settings.items() if then[name] != value
    }
    if changed:
        if PICTURES in changed and samples is not None and (which := describe_changes(start.checkpoint, samples)):
            changed[PICTURES] += f" ({which})"
        output_dir = start.checkpoint.parent
        over = "the run is over" if start.step == start.settings.get("steps") else None
        if _holds_model(output_dir):  # it may have ended between two checkpoints
            over = over or f"{output_dir} holds a trained model"
        longer = f"; {over}: {train_longer(output_dir, bool(start.settings.get('lora')))}" if over else ""
        raise ValueError(
            f"{start.checkpoint}: training can't go on from here as it would have: {'; '.join(changed.values())}; "
            'set that back, or start again with "resume_from_checkpoint": false or "overwrite_output_dir": true'
            + longer
        )


def _setting_then(start: StartingPoint, name: str, now):
    """A setting of the checkpoint's run. What its version did not compare yet: a key was as its default is, of what is
    in files nothing is known.
    """
    if name in start.settings or name not in KEYS:
        return start.settings.get(name, now if name in (PICTURES, BASE, EVALUATION) else None)
    return KEYS[name].default


def begin_run_folder(output_dir: Path, record: dict) -> None:
    """Makes the folder ours, and clears away what interrupted runs left half-written.

    Args:
        record: what RUN_FILE holds of the run: JSON values, "paddle_xc2" (the version) among them.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    _write_run_record(output_dir, record)
    checkpoints.delete_unfinished(output_dir)


def note_end(output_dir: Path) -> None:
    """Notes that the run is over and its model saved: given again, nothing of it is left to do."""
    _write_run_record(output_dir, _run_record(output_dir) | {_IS_OVER: True})


def train_longer(output_dir: Path, is_adapter: bool) -> str:
    """How a model whose run is over is trained on."""
    key = "lora_path" if is_adapter else "model_name_or_path"
    return f'to train its model longer, begin a new run with "{key}": "{output_dir}" and another output_dir'

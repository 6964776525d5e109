"""The files beside a checkpoint's weights, which come along when it is written anew; links to elsewhere don't.

A hub's cache consists of links into the blobs of the same model. Any other link out of the checkpoint could be one to
any file of this machine, which would then be in a checkpoint that is given away.
"""

from __future__ import annotations

from pathlib import Path

from paddle_xc2.checkpoint.manifest import MANIFEST_FILE
from paddle_xc2.files.json_file import read_bytes
from paddle_xc2.hub.directory import CONFIG_FILE, ModelDirectory, opened
from paddle_xc2.hub.weight_files import WEIGHT_SUFFIXES
from paddle_xc2.messages import listed
from paddle_xc2.text.tokenizer import MAX_MODEL_BYTES, MODEL_FILE, XComposer2Tokenizer

METRICS_FILE, SAMPLE_ANSWERS_FILE = "metrics.jsonl", "evaluation_samples.jsonl"
# Every file of the source comes along, upstream's code as data that is never run, but for weights in any format, files
# that are written anew, and what a training run left beside its model.
_LEFT_OUT = (*WEIGHT_SUFFIXES, ".pdopt", ".pdstates", ".index.json", ".gguf")
_RUN_FILES = (
    "run.json",
    "trainer_state.json",
    "optimizer.json",
    "checkpoint.json",
    METRICS_FILE,
    "loss.png",
    SAMPLE_ANSWERS_FILE,
    "evaluation_samples.md",
    "sample_contents.npy",
)
PREDICTIONS = "predictions-"  # what names of files with generated answers begin with
_OTHERS = (CONFIG_FILE, MANIFEST_FILE, *_RUN_FILES)


def companions(source: str | Path | ModelDirectory) -> list[Path]:
    """The files of a checkpoint that are copied as they are; of PaddleMIX's, none.

    Raises: ValueError naming every one that is a link out of the checkpoint, but for the model of a tokenizer, which
        can be seen to be one; and if that is none.
    """
    source = opened(source)
    if source.is_paddlemix:
        return []
    files = _other_files(source)
    outward = [path for path in files if not _is_inside(path)]
    refused = [f"{path.name} -> {path.resolve()}" for path in outward if path.name != MODEL_FILE]
    if refused:
        raise ValueError(
            f"{source}: {listed(refused)}: links out of the checkpoint could be any file of this machine, and are not "
            "copied; put the files themselves there (cp -L), or remove the links"
        )
    for path in outward:
        XComposer2Tokenizer({MODEL_FILE: read_bytes(path, MAX_MODEL_BYTES)}, str(path.parent))
    return files


def _is_inside(path: Path) -> bool:
    """Whether a file lies where it stands: in its folder, or, of a hub's cache, among the blobs of the same model."""
    if not path.is_symlink():
        return True
    folder = path.parent.resolve()
    blobs = [parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots"]
    return any(path.resolve().is_relative_to(root) for root in (folder, *blobs))


def _other_files(source: ModelDirectory) -> list[Path]:
    folder = source.llm if source.is_in_parts else source
    return [
        path
        for path in sorted(folder.path.iterdir())
        if path.is_file()
        and path.name not in _OTHERS
        and not path.name.startswith((PREDICTIONS, "."))
        and not path.name.endswith(_LEFT_OUT)
    ]

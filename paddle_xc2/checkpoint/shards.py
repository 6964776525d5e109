"""Reads the tensors of a checkpoint, whatever kind of files hold them.

These are `model*.safetensors`, `pytorch_model*.bin` or `model_state*.pdparams`, with or without an index: the headers
are read and held against each other at once, the tensors when they are used.
"""

from __future__ import annotations

from pathlib import Path

from paddle_xc2.checkpoint.deepspeed import is_deepspeed
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.checkpoint.paddle_files import read_paddle_file
from paddle_xc2.checkpoint.safetensors_file import read_safetensors
from paddle_xc2.checkpoint.torch_files import read_torch_file
from paddle_xc2.checkpoint.xtuner import join_parts
from paddle_xc2.hub.directory import CONFIG_FILE, ModelDirectory, opened
from paddle_xc2.hub.weight_files import INDEXES_AND_SHARDS, WEIGHTS, find_shards
from paddle_xc2.messages import listed


def read_checkpoint(directory: str | Path | ModelDirectory, dtype: str | None = None) -> dict[str, LazyTensor]:
    """Every tensor of a checkpoint by name, in the order in which the files hold them; reads headers only.

    Args:
        dtype: that the tensors are to be used in: those which XTuner's adapters change are merged in it.
    Raises: ValueError or FileNotFoundError naming the file, if the directory holds no checkpoint, a shard is missing,
        cut off or damaged, or the index and the shards do not tell the same.
    """
    directory = opened(directory)
    check_is_checkpoint(directory)
    return join_parts(directory, _read_folder, read_shard, dtype) if directory.is_in_parts else _read_folder(directory)


def _read_folder(directory: ModelDirectory) -> dict[str, LazyTensor]:
    for index, pattern in INDEXES_AND_SHARDS:
        if directory.has(index):
            return _read_indexed(directory, index)
        shards = sorted(directory.path.glob(pattern))
        if shards:
            return _join({shard: read_shard(shard) for shard in shards})
    raise FileNotFoundError(f"{directory}: there are no weights ({WEIGHTS})")


def check_is_checkpoint(directory: ModelDirectory) -> None:
    """Raises: FileNotFoundError saying what is missing and what is there instead."""
    if not directory.path.is_dir():
        raise FileNotFoundError(f"{directory} is no checkpoint: there is no such directory")
    missing = []
    weights = directory.llm if directory.is_in_parts else directory
    if not weights.has(CONFIG_FILE):
        missing.append(f"no {CONFIG_FILE}")
    if not find_shards(weights.path) and not any(weights.has(index) for index, _ in INDEXES_AND_SHARDS):
        missing.append(f"no weights ({WEIGHTS})")
    if missing and is_deepspeed(directory.path):
        raise FileNotFoundError(
            f"{directory} is no checkpoint of a model, but DeepSpeed's state of a training; give the folder above it, "
            f"if that has {CONFIG_FILE} and weights; else put the weights together with DeepSpeed's script: "
            f"python zero_to_fp32.py {directory.path.parent} OUT -t {directory.path.name}"
        )
    if missing:
        found = sorted(path.name + "/" * path.is_dir() for path in directory.path.iterdir())
        raise FileNotFoundError(
            f"{directory} is no checkpoint: it has {' and '.join(missing)}; "
            f"files found: {listed(found, limit=10) or 'none'}"
        )


def read_shard(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one file. Raises: ValueError naming the file, if it is damaged."""
    if not path.is_file():  # opening a pipe waits for ever
        raise ValueError(f"{path}: is no file, but a directory, a pipe or a device; copy the file itself there")
    with open(path, "rb") as file:
        if file.read(32).startswith(b"version https://git-lfs"):
            raise ValueError(f"{path}: is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return read_paddle_file(path) if path.suffix == ".pdparams" else read_torch_file(path)


def _join(shards: dict[Path, dict[str, LazyTensor]]) -> dict[str, LazyTensor]:
    tensors, home = {}, {}
    for shard, held in shards.items():
        for name, tensor in held.items():
            if name in tensors:
                raise ValueError(f"{shard}: holds {name}, which {home[name].name} holds too; keep one of the files")
            tensors[name], home[name] = tensor, shard
    return tensors


def _read_indexed(directory: ModelDirectory, name: str) -> dict[str, LazyTensor]:
    index, weight_map = directory / name, directory.json(name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: has no weight_map; copy or download it again")
    strange = [name for name in weight_map.values() if not isinstance(name, str) or Path(name).name != name]
    if strange:
        raise ValueError(f"{index}: {strange[0]!r} is no name of a file beside it")
    paths = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{index.parent}: {len(missing)} of {len(paths)} shards are missing: {', '.join(missing)}; "
            f"{index.name} names them, copy or download them"
        )
    shards = {path: read_shard(path) for path in paths}
    tensors = _join(shards)
    wrong = []
    for shard, held in shards.items():
        promised = {name for name, file in weight_map.items() if file == shard.name}
        wrong += [f"{shard.name} lacks {name}" for name in sorted(promised - held.keys())]
        wrong += [f"{shard.name} holds {name} against the index" for name in held if name not in promised]
    if wrong:
        raise ValueError(
            f"{index}: the index and the shards do not tell the same: {listed(wrong, separator='; ')}; "
            "take all files from one place"
        )
    return tensors

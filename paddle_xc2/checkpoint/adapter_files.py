"""LoRA adapters as files: what they change, and a checkpoint with the change merged in.

Follows arXiv:2106.09685 and the files of two libraries. PEFT's: adapter_config.json and adapter_model.safetensors (or
.bin). PaddleNLP's: lora_config.json and lora_model_state.pdparams (or peft_model*.safetensors), with Paddle's names and
transposed matrices. Whichever it was, what is read here has upstream's names and PyTorch's layout.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddle_xc2.checkpoint.adapter_settings import by_pattern, check_paddlenlp, check_peft, patterns, positive
from paddle_xc2.checkpoint.deepspeed import are_empty
from paddle_xc2.checkpoint.lazy_tensor import (
    NUMPY_DTYPES,
    STRIP_BYTES,
    LazyTensor,
    cast,
    lies_transposed,
    release_pages,
    row_blocks,
)
from paddle_xc2.checkpoint.manifest import check_unchanged
from paddle_xc2.checkpoint.name_table import NameTable
from paddle_xc2.checkpoint.names import names_of_tensors
from paddle_xc2.hub.directory import ADAPTER_CONFIG_FILE, PADDLENLP_ADAPTER_CONFIG_FILE, ModelDirectory, opened
from paddle_xc2.hub.weight_files import ADAPTER_FILES, PADDLENLP_ADAPTER_FILES

# PEFT writes ".default" into names of a model in memory, which XTuner's checkpoints keep.
_LORA_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_MAGNITUDE_NAME = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?")
_PEFT_PREFIX = "base_model.model."
# Rows of new tokens ("trainable tokens"), in the order of trainable_token_indices.
_ROWS_NAME = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?")
# What PEFT puts into names: of modules_to_save, of layers that it wraps, and of a model in memory.
_PEFT_INNER = re.compile(r"\.(?:modules_to_save|base_layer|default)(?=\.|$)")


class LowRank(NamedTuple):
    """An update of a weight: `scale` * b @ a, and with a magnitude (DoRA) every row brought to that norm.

    Attributes:
        a: float [rank, in].
        b: float [out, rank].
        scale: alpha / rank, or alpha / sqrt(rank).
        magnitude: float [out], or None.
    """

    a: LazyTensor
    b: LazyTensor
    scale: float
    magnitude: LazyTensor | None = None


class TokenRows(NamedTuple):
    """Some rows of a table over the vocabulary, which replace those of the base.

    Attributes:
        token_ids: which.
        rows: float [tokens, hidden].
    """

    token_ids: tuple[int, ...]
    rows: LazyTensor


@dataclass
class Adapter:
    """What training changed of a base.

    Attributes:
        updates: low-rank updates by the name of the weight.
        replaced: whole tensors by name.
        rows: replaced rows by the name of the weight.
        base: what the adapter says it was trained on: a name or a path; "" if it doesn't say.
        dropout: of the training.
        rslora: whether scales are alpha / sqrt(rank).
    """

    updates: dict[str, LowRank] = field(default_factory=dict)
    replaced: dict[str, LazyTensor] = field(default_factory=dict)
    rows: dict[str, TokenRows] = field(default_factory=dict)
    base: str = ""
    dropout: float = 0.0
    rslora: bool = False


def read_adapter(directory: str | Path | ModelDirectory, read_shard) -> Adapter:
    """An adapter directory of PEFT's or PaddleNLP's.

    Args:
        read_shard: file -> {name: LazyTensor}.
    Raises: FileNotFoundError, or ValueError for settings that are not understood, tensors that belong to nothing, and
        files that changed since we wrote them.
    """
    directory = opened(directory)
    if directory.is_peft:
        return _read_peft(directory, read_shard)
    if directory.has(PADDLENLP_ADAPTER_CONFIG_FILE):
        return _read_paddlenlp(directory, read_shard)
    raise FileNotFoundError(
        f"{directory}: is no adapter: it has no {ADAPTER_CONFIG_FILE} (PEFT) and no {PADDLENLP_ADAPTER_CONFIG_FILE} "
        "(PaddleNLP); give the directory that holds it"
    )


def _read_peft(directory: ModelDirectory, read_shard) -> Adapter:
    path = next((directory / name for name in ADAPTER_FILES if directory.has(name)), None)
    if path is None:
        raise FileNotFoundError(f"{directory}: there is no {' or '.join(ADAPTER_FILES)}; copy the whole adapter")
    config_path, config = directory / ADAPTER_CONFIG_FILE, directory.json(ADAPTER_CONFIG_FILE)
    check_peft(config_path, config)
    check_unchanged(directory)
    ranks, alphas = (patterns(config_path, config, key) for key in ("rank_pattern", "alpha_pattern"))
    rank_of_all, alpha_of_all = (positive(config_path, config, key) for key in ("r", "lora_alpha"))
    rslora = bool(config.get("use_rslora"))

    def scale_of(module: str, rank: int) -> float:
        promised = by_pattern(ranks, module, rank_of_all)
        if rank != promised:
            raise ValueError(
                f"{path}: the matrices of {module} have rank {rank}, but {config_path.name} says {promised:g}; "
                "the two files are not of one adapter"
            )
        return by_pattern(alphas, module, alpha_of_all) / (math.sqrt(rank) if rslora else rank)

    tensors = {}
    for name, tensor in read_shard(path).items():
        _put_once(tensors, _PEFT_INNER.sub("", name.removeprefix(_PEFT_PREFIX)), tensor, path)
    _check_saved(tensors, config.get("modules_to_save"), config_path)
    rows = _take_rows(tensors, config.get("trainable_token_indices"), config_path)
    adapter = split_updates(tensors, scale_of, path)
    adapter.rows = rows
    if config.get("use_dora"):
        lacking = [name for name, update in adapter.updates.items() if update.magnitude is None]
        if lacking:
            raise ValueError(f"{path}: {lacking[0]} has no lora_magnitude_vector, but {config_path.name} says use_dora")
    adapter.base = config.get("base_model_name_or_path") or ""
    adapter.dropout, adapter.rslora = float(config.get("lora_dropout") or 0.0), rslora
    return adapter


def _put_once(tensors: dict[str, LazyTensor], name: str, tensor: LazyTensor, path: Path) -> None:
    """Raises: ValueError for a second tensor of one meaning: which of them acts is anybody's guess."""
    if name in tensors:
        raise ValueError(f"{path}: holds {name} twice, under two spellings of its name; keep one of them")
    tensors[name] = tensor


def _check_saved(tensors: dict[str, LazyTensor], modules, config_path: Path) -> None:
    """Raises: ValueError if a part of our models learned whole (PEFT's modules_to_save) and no tensor of it is there.

    Names of other models stand there, too, of which PEFT trains nothing.
    """
    ends = [str(module).split(".")[-1] for module in modules if module] if isinstance(modules, list) else []
    weights = (f"{found['module']}.weight" if (found := _LORA_NAME.fullmatch(name)) else name for name in tensors)
    table, _ = names_of_tensors(weights)
    lacking = [end for end in ends if end in table.parts and not any(end in name.split(".") for name in tensors)]
    if lacking:
        raise ValueError(
            f"{config_path}: modules_to_save names {', '.join(lacking)}, but the adapter holds no tensor of it; the "
            "adapter's files are not of one adapter, copy it again"
        )


def _take_rows(tensors: dict[str, LazyTensor], indices, config_path: Path) -> dict[str, TokenRows]:
    """Takes the rows of new tokens out of `tensors`.

    Args:
        indices: PEFT's trainable_token_indices: token ids by the end of a module's name, or a list for the embedding.
    Raises: ValueError if the ids and the rows are not of one adapter.
    """
    found = {match["module"]: name for name in tensors if (match := _ROWS_NAME.fullmatch(name))}
    rows, ends = {}, set()
    for module, name in found.items():
        tensor = tensors.pop(name)
        ids = indices
        if isinstance(indices, dict):
            end = next((end for end in indices if f".{module}".endswith(f".{end}")), None)
            ids = indices.get(end)
            ends.add(end)
        whole = isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids) and 0 < len(ids) == len(set(ids))
        if not whole or len(tensor.shape) != 2 or tensor.shape[0] != len(ids):
            raise ValueError(
                f"{config_path}: trainable_token_indices doesn't say which tokens the {list(tensor.shape)} rows of "
                f"{module} belong to; the adapter's files are not of one adapter, copy it again"
            )
        rows[f"{module}.weight"] = TokenRows(tuple(ids), tensor)
    named = indices if isinstance(indices, dict) else {"the embedding": [] if rows else indices}
    lacking = [end for end, ids in named.items() if ids and end not in ends]
    if lacking:
        raise ValueError(
            f"{config_path}: trainable_token_indices names tokens of {', '.join(lacking)}, but the adapter holds no "
            "rows of them; the adapter's files are not of one adapter, copy it again"
        )
    return rows


def _read_paddlenlp(directory: ModelDirectory, read_shard) -> Adapter:
    paths = next((found for kind in PADDLENLP_ADAPTER_FILES if (found := sorted(directory.path.glob(kind)))), None)
    if not paths:
        raise FileNotFoundError(
            f"{directory}: there is no {' or '.join(PADDLENLP_ADAPTER_FILES)}; copy the whole adapter"
        )
    config_path = directory / PADDLENLP_ADAPTER_CONFIG_FILE
    config = directory.json(PADDLENLP_ADAPTER_CONFIG_FILE)
    check_paddlenlp(config_path, config)
    check_unchanged(directory)
    rank_of_all, alpha = (positive(config_path, config, key) for key in ("r", "lora_alpha"))
    rslora = bool(config.get("rslora"))
    tensors, unknown = {}, []
    stored = [(path, read_shard(path)) for path in paths]
    table, layout = names_of_tensors(_updated_weight(name) for _, shard in stored for name in shard)
    for path, shard in stored:
        for name, tensor in shard.items():
            target = _from_paddlenlp(name, table, layout)
            if target is None:
                unknown.append(name)
            else:
                _put_once(tensors, target[0], tensor.transposed() if target[1] else tensor, path)
    if unknown:
        raise ValueError(f"{paths[0]}: holds {len(unknown)} tensors of no part of the model, first {unknown[0]}")

    def scale_of(module: str, rank: int) -> float:
        if rank != rank_of_all:
            raise ValueError(
                f"{paths[0]}: the matrices of {module} have rank {rank}, but {config_path.name} says {rank_of_all:g}; "
                "the two files are not of one adapter"
            )
        return alpha / (math.sqrt(rank) if rslora else rank)

    adapter = split_updates(tensors, scale_of, paths[0])
    adapter.base = config.get("base_model_name_or_path") or ""
    adapter.dropout, adapter.rslora = float(config.get("lora_dropout") or 0.0), rslora
    return adapter


_PADDLENLP_LORA_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])")


def _updated_weight(name: str) -> str:
    """The weight that a tensor of PaddleNLP's adapter updates, or replaces."""
    found = _PADDLENLP_LORA_NAME.fullmatch(name)
    return f"{found['module']}.weight" if found else name


def _from_paddlenlp(name: str, table: NameTable, layout: str) -> tuple[str, bool] | None:
    """(PEFT's name without prefix, transpose) of a tensor of PaddleNLP's adapter; of our model or PaddleMIX's."""
    found = _PADDLENLP_LORA_NAME.fullmatch(name)
    ours = table.to_paddle(_updated_weight(name), layout)
    if ours is None:
        return None
    upstream, transpose = table.to_hf(ours[0])
    if found is None:
        return upstream, transpose
    return f"{upstream.removesuffix('.weight')}.lora_{found['side']}.weight", True


def split_updates(tensors: dict[str, LazyTensor], scale_of, where: Path) -> Adapter:
    """Pairs lora_A with lora_B; everything else replaces a tensor of its name.

    Args:
        tensors: by names without PEFT's prefix.
        scale_of: (module's name, rank) -> factor of the update.
        where: the file, for messages.
    Raises: ValueError for half a pair, or a pair that doesn't fit together.
    """
    if told := are_empty(tensors):
        raise ValueError(f"{where}: {told}")
    adapter, halves = Adapter(), {}
    for name, tensor in tensors.items():
        if found := _LORA_NAME.fullmatch(name):
            halves.setdefault(found["module"], {})[found["side"]] = tensor
        elif found := _MAGNITUDE_NAME.fullmatch(name):
            halves.setdefault(found["module"], {})["magnitude"] = tensor
        elif ".lora_" in name:  # of an embedding, say
            raise ValueError(
                f"{where}: {name} is of a kind of LoRA that is not understood; merge the adapter with PEFT"
            )
        else:
            adapter.replaced[name] = tensor
    for module, sides in halves.items():
        name, magnitude = f"{module}.weight", sides.pop("magnitude", None)
        if sides.keys() != {"A", "B"}:
            found = f"lora_{next(iter(sides))}" if sides else "lora_magnitude_vector"
            raise ValueError(f"{where}: {name} has a {found} without its other half; copy it again")
        a, b = sides["A"], sides["B"]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise ValueError(f"{where}: lora_A {list(a.shape)} and lora_B {list(b.shape)} of {name} don't fit together")
        if magnitude is not None and magnitude.shape != b.shape[:1]:
            raise ValueError(
                f"{where}: lora_magnitude_vector {list(magnitude.shape)} and lora_B {list(b.shape)} of {name} don't "
                "fit together"
            )
        adapter.updates[name] = LowRank(a, b, scale_of(module, a.shape[0]), magnitude)
    return adapter


def merge(
    tensors: dict[str, LazyTensor], adapter: Adapter, where: Path, dtype: str | None = None
) -> dict[str, LazyTensor]:
    """The base with the adapter's change in it, computed in float32 when a tensor is read, and rounded once.

    Args:
        dtype: of the tensors that change; None is the base's. What is to be written in another dtype is merged in that:
            rounded to the base's in between, it would have lost what a wider dtype is asked for.
    Raises: ValueError if the adapter changes nothing, a tensor that the base doesn't have, or one of another shape.
    """
    merged = dict(tensors)
    check_fits(adapter, {name: tensor.shape for name, tensor in tensors.items()}, where)
    for name, tensor in adapter.replaced.items():
        merged[name] = tensor.as_dtype(dtype or tensors[name].dtype, name)
    for name, update in adapter.updates.items():
        base = tensors[name]
        merged[name] = LazyTensor(dtype or base.dtype, base.shape, _reader(name, base, update, dtype or base.dtype))
    for name, rows in adapter.rows.items():
        base = merged[name].as_dtype(dtype or tensors[name].dtype, name)
        merged[name] = LazyTensor(base.dtype, base.shape, _row_reader(name, base, rows))
    return merged


def check_fits(adapter: Adapter, base: dict[str, tuple[int, ...]], where: Path) -> None:
    """Args:
        base: shapes of the base's tensors by name.
        where: the adapter, for messages.
    Raises: as `merge`.
    """
    shapes = {name: (update.b.shape[0], update.a.shape[1]) for name, update in adapter.updates.items()}
    shapes |= {name: tuple(tensor.shape) for name, tensor in adapter.replaced.items()}
    shapes |= {name: _fitting_shape(rows, base.get(name)) for name, rows in adapter.rows.items()}
    if not shapes:
        raise ValueError(f"{where}: the adapter holds no tensor, it would change nothing; copy it again")
    wrong = [name for name, shape in shapes.items() if tuple(base.get(name, ())) != shape or name not in base]
    if wrong:
        name = wrong[0]
        found = f"is {list(base[name])} there" if name in base else "is not there"
        raise ValueError(
            f"{where}: {len(wrong)} of its {len(shapes)} tensors don't fit the base model, first {name} "
            f"{list(shapes[name])}, which {found}; was it trained on another base?"
        )


def _fitting_shape(rows: TokenRows, base: tuple[int, ...] | None) -> tuple[int, ...]:
    """The base's shape, if it is one of a table that has these rows; else that of the smallest that does."""
    at_least = (max(rows.token_ids, default=-1) + 1, rows.rows.shape[1])
    fits = base is not None and len(base) == 2 and base[0] >= at_least[0] and base[1] == at_least[1]
    return tuple(base) if fits else at_least


def _row_reader(name: str, base: LazyTensor, rows: TokenRows):
    def read() -> np.ndarray:
        table = base.load(base.dtype, name)
        table[list(rows.token_ids)] = rows.rows.load(base.dtype, name)
        return table

    return read


def _reader(name: str, base: LazyTensor, update: LowRank, dtype: str):
    def read() -> np.ndarray:
        """Some rows at a time, few enough for the cache: larger arrays would get new memory of the system each time.

        In the order of the file, if no row has to be brought to a norm.
        """
        view = base.read()
        left, right = (side.load("float32", name) for side in (update.b, update.a))
        magnitude = None if update.magnitude is None else update.magnitude.load("float32", name)
        turned = magnitude is None and lies_transposed(view)
        if turned:
            view, left, right = view.T, right.T, left.T
        merged = np.empty(view.shape, NUMPY_DTYPES[dtype])
        step = max(1, STRIP_BYTES // (4 * view.shape[1]))
        for block in row_blocks(view.shape, "float32"):
            for start in range(block.start, block.stop, step):
                rows = slice(start, min(start + step, block.stop))
                values = cast(view[rows], base.dtype, "float32", name) + np.float32(update.scale) * (left[rows] @ right)
                if magnitude is not None:
                    values *= (magnitude[rows] / np.linalg.norm(values, axis=1))[:, None]
                merged[rows] = cast(values, "float32", dtype, name)
            release_pages(view)
        return merged.T if turned else merged

    return read

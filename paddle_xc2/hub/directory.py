"""The directory of a model or an adapter: opened once in a command, then handed on.

A model lies in one of several layouts: upstream's, ours, PaddleMIX's, or XTuner's LLaVA with a folder for each of its
parts. An adapter lies in PEFT's or PaddleNLP's, and names its base. Which it is, where its parts and its base are, and
what its JSON files say is asked of one object, which reads a file when it is first asked for, and never again.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import cached_property
from pathlib import Path

from paddle_xc2.families.llava_settings import clip_settings
from paddle_xc2.files.file_identity import content_identity, file_identity
from paddle_xc2.files.json_file import MAX_BYTES, parse_json, read_bytes
from paddle_xc2.files.local_path import local_path
from paddle_xc2.hub.adapter_origin import AdapterOrigin
from paddle_xc2.hub.find import resolve_model_path
from paddle_xc2.hub.weight_files import INDEXES_AND_SHARDS, WEIGHT_SUFFIXES

CONFIG_FILE = "config.json"
# Upstream has none; small reference checkpoints say their ViT's sizes in it.
VISION_CONFIG_FILE = "clip_vision_config.json"
# Folders of XTuner's LLaVA; the language model may also be at the root.
XTUNER_LLM, XTUNER_PROJECTOR, XTUNER_VISION = "llm", "projector", "visual_encoder"
_XTUNER_PARTS = (XTUNER_LLM, XTUNER_PROJECTOR, XTUNER_VISION)
ADAPTER_CONFIG_FILE = "adapter_config.json"  # PEFT's
PADDLENLP_ADAPTER_CONFIG_FILE = "lora_config.json"
ADAPTER_ORIGIN_FILE = "paddle_xc2_adapter.json"  # beside either: what they have no place for
_PADDLEMIX_KEY = "vision_projector"  # upstream's config.json has none; PaddleMIX's port can't be built without
_STATE_NAME = re.compile(r"checkpoint-(?P<step>\d{1,9})")  # what fine-tuning goes on from
# Those that say nothing of what the model computes while it is trained.
_CONFIGS_WITHOUT_MEANING = ("generation_config.json", "tokenizer_config.json", "preprocessor_config.json")
_WEIGHTS_STEP = 2 * 2**20  # bytes from piece to piece: every matrix of a large model has some
_WEIGHTS_WHOLE = 64 * 2**20


class ModelDirectory:
    """What `open_model` gives. Stands for its path wherever one is taken (`os.fspath`, `Path`, in messages).

    Args:
        path: where it is.
        name: the released name that it is known by; "" if there is none.
        base: of an adapter, if it is not where the adapter remembers it.
    Attributes:
        contents: of the files that were read, by name.
    """

    def __init__(self, path: Path, name: str = "", base: str | os.PathLike | None = None):
        self.path = path
        self.name = name
        self.given_base = base
        self.contents: dict[str, bytes] = {}
        self._folders: dict[str, ModelDirectory] = {}

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"ModelDirectory({str(self.path)!r})"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, or path within the directory."""
        return name in self.contents or (self.path / name).is_file()

    def content(self, name: str, max_bytes: int = MAX_BYTES) -> bytes:
        """The bytes of a small file, read once. Raises: as `read_bytes`."""
        folder, _, inside = name.partition("/")
        if inside:
            return self.folder(folder).content(inside, max_bytes)
        if name not in self.contents:
            self.contents[name] = read_bytes(self.path / name, max_bytes)
        return self.contents[name]

    def json(self, name: str) -> dict:
        """The object that a file holds, a copy of one's own. Raises: as `read_json`."""
        return parse_json(self.content(name), str(self.path / name))

    def folder(self, name: str) -> ModelDirectory:
        """A folder in it, which need not exist, opened once."""
        if name not in self._folders:
            self._folders[name] = ModelDirectory(self.path / name)
        return self._folders[name]

    # --- a model ---

    @cached_property
    def is_in_parts(self) -> bool:
        """Whether it holds a LLaVA of XTuner's, in folders."""
        return any((self.path / part).is_dir() for part in (XTUNER_PROJECTOR, XTUNER_VISION))

    def part(self, name: str) -> ModelDirectory | None:
        """A part of XTuner's LLaVA: its folder, or the model that its adapter was trained on; None if there is neither.

        Raises: FileNotFoundError if that model is not to be found.
        """
        if (self.path / name).is_dir():
            return self.folder(name)
        adapter = self.folder(f"{name}_adapter")
        base = adapter.json(ADAPTER_CONFIG_FILE).get("base_model_name_or_path") if adapter.is_peft else None
        if not base:
            return None
        if (self.path / base).is_dir():
            return self.folder(base)
        if base not in self._folders:
            self._folders[base] = open_model(base)
        return self._folders[base]

    @property
    def llm(self) -> ModelDirectory:
        """Where the language model and the tokenizer are."""
        return self if self.has(CONFIG_FILE) else self.part(XTUNER_LLM) or self

    @property
    def config_path(self) -> Path:
        """config.json: at the root, or that of XTuner's language model.

        Raises: FileNotFoundError if there is none.
        """
        if self.llm.has(CONFIG_FILE):
            return self.llm / CONFIG_FILE
        advice = self.newest_state() or f"give the directory that holds {CONFIG_FILE} and the weights"
        raise FileNotFoundError(f"{self}: this is no checkpoint, it has no {CONFIG_FILE}; {advice}")

    def own_config(self) -> dict:
        """What `config_path` holds. Raises: as `config`."""
        self.config_path  # noqa: B018 (raises)
        return self.llm.json(CONFIG_FILE)

    def config(self) -> dict:
        """The same, completed with the sizes of its ViT where they stand in a file of their own.

        Raises: FileNotFoundError if the directory or its config.json is missing; ValueError for broken JSON, or a
            vision encoder that is not supported.
        """
        config = self.own_config()
        if config.get("vision_config") is not None:
            return config
        vision = self.part(XTUNER_VISION)
        if self.has(VISION_CONFIG_FILE):
            config["vision_config"] = self.json(VISION_CONFIG_FILE)
        elif vision is not None and vision.has(CONFIG_FILE):
            config["vision_config"] = clip_settings(vision.json(CONFIG_FILE), str(vision / CONFIG_FILE))
            config["img_size"] = config["vision_config"].pop("image_size")
        return config

    @property
    def is_paddlemix(self) -> bool:
        """Whether its config.json is one of PaddleMIX's port."""
        return self.has(CONFIG_FILE) and _PADDLEMIX_KEY in self.json(CONFIG_FILE)

    def tensor_names(self) -> tuple[str, ...]:
        """Names of the tensors, from the index of the shards; () where there is none.

        Raises: ValueError if the index is broken.
        """
        for index, _ in INDEXES_AND_SHARDS:
            if self.has(index):
                weight_map = self.json(index).get("weight_map")
                return tuple(weight_map) if isinstance(weight_map, dict) else ()
        return ()

    def newest_state(self) -> str:
        """What to do with the folder of a run that has not ended, which holds no model itself; "" if it is none."""
        found = (_STATE_NAME.fullmatch(path.name) for path in self.path.glob("*") if path.is_dir())
        steps = [int(name["step"]) for name in found if name]
        if not steps:
            return ""
        return f"it holds a run that has not ended; give {self.path / f'checkpoint-{max(steps)}'}, its newest state"

    def identity(self) -> str:
        """16 digits that tell its settings and weights from any others (`files/file_identity.py`)."""
        digest = hashlib.sha256()
        # Not in every folder: what is trained may be written into one.
        folders = [self.path, *(self.path / f"{part}{end}" for part in _XTUNER_PARTS for end in ("", "_adapter"))]
        for path in sorted(path for folder in folders for path in folder.glob("*")):
            is_config = path.name.endswith("config.json") and path.name not in _CONFIGS_WITHOUT_MEANING
            if (is_config or path.suffix in WEIGHT_SUFFIXES) and path.is_file():
                name, num_pieces = path.relative_to(self.path).as_posix(), path.stat().st_size // _WEIGHTS_STEP
                digest.update(name.encode() + b"\0")
                digest.update(
                    content_identity(self.content(name))
                    if is_config
                    else file_identity(path, _WEIGHTS_WHOLE, num_pieces)
                )
        return digest.hexdigest()[:16]

    # --- an adapter ---

    @property
    def is_peft(self) -> bool:
        return self.has(ADAPTER_CONFIG_FILE)

    @cached_property
    def is_adapter(self) -> bool:
        """Whether it holds an adapter, and not a whole checkpoint."""
        return any(map(self.has, (ADAPTER_CONFIG_FILE, PADDLENLP_ADAPTER_CONFIG_FILE))) and not any(
            found for _, pattern in INDEXES_AND_SHARDS for found in self.path.glob(pattern)
        )

    @cached_property
    def origin(self) -> AdapterOrigin:
        """What an adapter remembers of its training; nothing of one that another program wrote.

        Raises: ValueError if that file is damaged or of a later format.
        """
        if not self.has(ADAPTER_ORIGIN_FILE):
            return AdapterOrigin()
        return AdapterOrigin.from_json(self.json(ADAPTER_ORIGIN_FILE), str(self.path / ADAPTER_ORIGIN_FILE))

    @property
    def base_name(self) -> str:
        """What the adapter says it was trained on: a released name or a path; "" if it doesn't say."""
        named = self.origin.base_name
        for name in (ADAPTER_CONFIG_FILE, PADDLENLP_ADAPTER_CONFIG_FILE):
            if not named and self.has(name):
                said = self.json(name).get("base_model_name_or_path")
                named = said if isinstance(said, str) else ""
        return named

    @cached_property
    def base(self) -> ModelDirectory:
        """The model that an adapter was trained on, opened.

        Looked for in this order: what was given; the path from the adapter that it remembers; the name that it
        remembers, as a directory or as a released model.

        Raises: FileNotFoundError saying where it was looked for, and how to give it; ValueError if it is an adapter.
        """
        if self.given_base is not None:
            return self._checked_base(self.given_base)
        name, relative = self.base_name, self.origin.relative_path
        paths = [self.path / relative] if relative is not None else []
        paths += [Path(name).expanduser(), self.path / name] if name else []
        for path in paths:
            if path.is_dir() and path.resolve() != self.path.resolve():
                is_path = not name or Path(name).expanduser().is_dir()
                return self._checked_base(ModelDirectory(path.resolve(), "" if is_path else name))
        reason = "it doesn't name its base"
        if name:
            try:
                return self._checked_base(name)
            except FileNotFoundError as error:
                where = ", ".join(str(path) for path in paths)
                reason = f"its base is not to be found (looked for at {where}; {error})"
        raise FileNotFoundError(f"{self}: is an adapter, and {reason}; give the base with --base (base=...)")

    def _checked_base(self, base: str | os.PathLike | ModelDirectory) -> ModelDirectory:
        opened = open_model(base)
        if opened.is_adapter:
            raise ValueError(f"{self}: its base {opened} is an adapter too; merge that first: paddle-xc2 merge")
        return opened


def open_model(
    model: str | os.PathLike | ModelDirectory, base: str | os.PathLike | None = None, weights: bool = True
) -> ModelDirectory:
    """A directory, or a released name (`hub/find.py`), as what is known of it. One that is open stays as it is.

    Args:
        base: of an adapter, if it is not where the adapter remembers it.
        weights: as of `resolve_model_path`.
    Raises: FileNotFoundError if it is not there.
    """
    if isinstance(model, ModelDirectory):
        return model if base is None else ModelDirectory(model.path, model.name, base)
    is_path = local_path(model).is_dir()
    return ModelDirectory(resolve_model_path(os.fspath(model), weights), "" if is_path else os.fspath(model), base)


def opened(directory: str | os.PathLike | ModelDirectory) -> ModelDirectory:
    """A directory of this machine, as `open_model`; no other is looked for where it is not there."""
    return directory if isinstance(directory, ModelDirectory) else ModelDirectory(Path(directory))

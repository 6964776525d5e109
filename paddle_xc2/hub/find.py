"""A model name -> the local directory that holds it: as it is, or from the first hub that gives it.

Each hub's own library fetches into its own cache, shows progress, goes on with what broke off and checks what it knows
of the files, and reads its own environment variables: HF_HOME, HF_ENDPOINT, HF_TOKEN; MODELSCOPE_CACHE;
AISTUDIO_CACHE_HOME, AISTUDIO_ACCESS_TOKEN. HF_HUB_OFFLINE=1 keeps to the caches of all three.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from paddle_xc2.files.local_path import local_path
from paddle_xc2.hub.weight_files import WEIGHT_SUFFIXES

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# What a checkpoint consists of and what is read beside it. Pictures and examples stay where they are.
_CHECKPOINT_FILES = (
    "*.json",
    "*.safetensors",
    "*.bin",
    "*.pdparams",
    "*.model",
    "*.tiktoken",
    "*.py",
    "*.md",
    "*.txt",
    "*.ttf",
)
_MODELSCOPE_OWNERS = {"internlm": "Shanghai_AI_Laboratory"}  # who is who there
_MAX_REASON = 200  # characters of a library's message
# By name, and whether the weights are there: model, tokenizer and processor ask for the same.
_resolved: dict[tuple[str, bool], Path] = {}


class Hub(NamedTuple):
    """A place that models come from.

    Attributes:
        name, package: what to call it, and the library to install.
        fetch: (model name, whether to keep to the cache, names of files to leave out) -> directory; raises whatever the
            library does.
        where: the hub's address, if the user can choose it, and its cache.
    """

    name: str
    package: str
    fetch: Callable[[str, bool, list[str]], str | Path]
    where: Callable[[], str]


def resolve_model_path(name_or_path: str | Path, weights: bool = True) -> Path:
    """A directory as it is; a name such as "internlm/internlm-xcomposer2-7b" from a hub or its cache.

    Asked in this order, as far as their libraries are installed: Hugging Face, ModelScope, AI Studio.

    Args:
        weights: false leaves out weights that are not in the cache yet, where a hub's library can: AI Studio's can't.
    Raises: FileNotFoundError saying what was looked for, where, and how to get it by hand.
    """
    check_model_name(name_or_path)
    path = local_path(name_or_path)
    if path.is_dir():
        return path
    name = os.fspath(name_or_path)
    for key in ((name, True), (name, weights)):
        if key in _resolved and _resolved[key].is_dir():
            return _resolved[key]
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    reasons = []
    for hub in HUBS:
        try:
            without = [] if weights else [f"*{suffix}" for suffix in WEIGHT_SUFFIXES]
            _resolved[name, weights] = Path(hub.fetch(name, offline, without))
            return _resolved[name, weights]
        except ImportError:
            reasons.append(f"{hub.name}: {hub.package} is not installed")
        except Exception as error:  # the libraries' and the network's errors have no common base
            reasons.append(f"{hub.name} ({hub.where()}): {_reason(error)}")
    raise FileNotFoundError(_not_found(name, offline, reasons))


def check_model_name(name_or_path: str | Path) -> None:
    """Raises: FileNotFoundError for what is neither a directory nor the name that a hub's model can have."""
    name = os.fspath(name_or_path)
    if not local_path(name).is_dir() and (not _HUB_NAME.fullmatch(name) or name.startswith(".")):
        raise FileNotFoundError(f"{name}: there is no such directory, nor a released model (owner/model) of that name")


def _reason(error: BaseException) -> str:
    """The first sentence of the error at the bottom; those around it repeat it, or guess."""
    while below := error.__cause__ or error.__context__:
        error = below
    lines = str(error).strip().splitlines() or [""]
    return lines[0].split(". ")[0][:_MAX_REASON].rstrip(" .") or type(error).__name__


def _not_found(name: str, offline: bool, reasons: list[str]) -> str:
    folder = name.split("/")[1]
    return (
        f"{name}: not found: there is no such directory under {Path.cwd()}; "
        + ("HF_HUB_OFFLINE is set, so only caches were looked at; " if offline else "")
        + "; ".join(reasons)
        + f". To get it by hand, run on a machine with a network: huggingface-cli download {name} --local-dir {folder} "
        f"(or: modelscope download --model {_modelscope_name(name)} --local_dir {folder}), copy that directory here "
        "and give its path"
    )


def _from_huggingface(name: str, offline: bool, without: list[str]) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(
        name, allow_patterns=list(_CHECKPOINT_FILES), local_files_only=offline, **_ignoring(without)
    )


def _at_huggingface() -> str:
    from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE

    return f"{ENDPOINT}, cache {HF_HUB_CACHE}"


def _from_modelscope(name: str, offline: bool, without: list[str]) -> str:
    from modelscope.hub.snapshot_download import snapshot_download

    return snapshot_download(_modelscope_name(name), local_files_only=offline, **_ignoring(without))


def _ignoring(patterns: list[str]) -> dict:
    """As both libraries take it; earlier versions of ModelScope's don't."""
    return {"ignore_patterns": patterns} if patterns else {}


def _modelscope_name(name: str) -> str:
    owner, model = name.split("/")
    return f"{_MODELSCOPE_OWNERS.get(owner, owner)}/{model}"


def _at_modelscope() -> str:
    return f"cache {os.environ.get('MODELSCOPE_CACHE') or Path.home() / '.cache' / 'modelscope'}"


def _from_aistudio(name: str, offline: bool, without: list[str]) -> Path:
    """File by file: this library knows no whole models, and none is left out, for what is there is taken for whole.

    Raises: OSError with what it says.
    """
    from aistudio_sdk import config
    from aistudio_sdk.hub import download
    from aistudio_sdk.requests.hub import request_aistudio_git_file_info

    owner, model = name.split("/")
    blobs = _aistudio_cache() / model / "blobs"
    directory = _aistudio_cache() / model / "snapshots" / "paddle_xc2"  # of links to the blobs
    if (directory / "config.json").exists():
        return directory
    if offline:
        raise OSError("it is not in the cache")
    host = os.environ.get("STUDIO_GIT_HOST") or config.STUDIO_GIT_HOST_DEFAULT
    token = os.environ.get("AISTUDIO_ACCESS_TOKEN", "")
    with contextlib.redirect_stdout(sys.stderr):
        listed = request_aistudio_git_file_info(host, owner, model, "", "master", token)
        if not isinstance(listed, list):
            raise OSError(f"it has no such model, or not for you (HTTP {listed.get('biz_code')})")
        names = [entry["name"] for entry in listed if any(fnmatch(entry["name"], kind) for kind in _CHECKPOINT_FILES)]
        # config.json comes last: where it is, everything is.
        for file in sorted(names, key=lambda file: file == "config.json"):
            before = set(blobs.glob("*"))
            answer = {}
            try:
                answer = download(repo_id=name, filename=file, cache_dir=str(directory))
            finally:
                if "path" not in answer:
                    for blob in set(blobs.glob("*")) - before:
                        blob.unlink()  # the library takes any file that is there for whole the next time
            if "path" not in answer:
                raise OSError(f"{file} can't be fetched (HTTP {answer.get('biz_code')})")
    return directory


def _aistudio_cache() -> Path:
    return Path(os.environ.get("AISTUDIO_CACHE_HOME") or Path.home()) / ".cache" / "aistudio" / "models"


def _at_aistudio() -> str:
    return f"cache {_aistudio_cache()}"


HUBS = (
    Hub("Hugging Face", "huggingface_hub", _from_huggingface, _at_huggingface),
    Hub("ModelScope", "modelscope", _from_modelscope, _at_modelscope),
    Hub("AI Studio", "aistudio-sdk", _from_aistudio, _at_aistudio),
)

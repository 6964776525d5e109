"""A model name -> the local directory that holds it."""

from __future__ import annotations

import os
import re
from pathlib import Path

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# All that a checkpoint consists of; pictures and documents stay where they are.
_CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.bin", "*.model", "*.py"]


def resolve_model_path(name_or_path: str | Path) -> Path:
    """A directory as it is; a name such as "internlm/internlm-xcomposer2-7b" from the Hugging Face hub or its cache.

    A download shows a progress bar and continues where an earlier one stopped. HF_HUB_OFFLINE=1 keeps to the cache.

    Raises: FileNotFoundError saying what was looked for, where, and how to get it by hand.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    name = os.fspath(name_or_path)
    if not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise FileNotFoundError(f"{name}: there is no such directory, nor a released model (owner/model) of that name")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise FileNotFoundError(_by_hand(name, "huggingface_hub is not installed")) from None
    try:
        return Path(snapshot_download(name, allow_patterns=_CHECKPOINT_FILES))
    except Exception as error:  # the hub's and the network's errors have no common base, and all mean the same here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(_by_hand(name, reason)) from error


def _by_hand(name: str, reason: str) -> str:
    return (
        f"{name}: not found: there is no such directory under {Path.cwd()}, and the Hugging Face hub did not give it "
        f"({reason}); to get it by hand, run on a machine with a network: huggingface-cli download {name} "
        f"--local-dir {name.split('/')[1]}, copy that directory here and give its path"
    )

"""The manifest of a checkpoint that we wrote: size and SHA-256 of each of its files.

It is what finds a flipped byte: a tensor with another value in it is as well-formed as before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from paddle_xc2.json_file import read_json, write_json

MANIFEST_FILE = "paddle_xc2_manifest.json"
FORMAT_VERSION = 1
_BLOCK_BYTES = 16 * 2**20


def write_manifest(directory: Path, layout: str, source: str, digests: dict[str, str]) -> None:
    """Writes the manifest of all files in `directory`.

    Args:
        layout: "paddle" or "hf".
        source: name of the model or directory that the weights come from.
        digests: SHA-256 of the files for which it is known already, by path within `directory`.
    """
    files = {
        name: {"bytes": path.stat().st_size, "sha256": digests.get(name) or sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and (name := path.relative_to(directory).as_posix())
    }
    content = {"format_version": FORMAT_VERSION, "layout": layout, "source": source, "files": files}
    write_json(directory / MANIFEST_FILE, content)


def manifest_files(directory: Path) -> dict[str, dict]:
    """{path within the directory: {"bytes", "sha256"}} of the manifest in `directory`; {} if it has none.

    Raises: ValueError if the manifest is damaged or of a later format.
    """
    path = directory / MANIFEST_FILE
    if not path.is_file():
        return {}
    content = read_json(path)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {version!r}, expected {FORMAT_VERSION}; install a newer paddle_xc2"
        )
    match content.get("files"):
        case dict(files) if all(_is_entry(name, entry) for name, entry in files.items()):
            return files
    raise ValueError(f"{path}: its list of files is damaged; convert the checkpoint again")


def _is_entry(name: str, entry) -> bool:
    match entry:
        case {"bytes": int(), "sha256": str()}:
            return not Path(name).is_absolute() and ".." not in Path(name).parts
    return False


def verify_manifest(directory: Path, on_bytes: Callable[[int], object] = lambda count: None) -> int:
    """Holds every file against the manifest, reading all of them.

    Returns: number of bytes that were verified.
    Raises: FileNotFoundError if there is no manifest; ValueError naming every file that is missing, cut off or changed.
    """
    files = manifest_files(directory)
    if not files:
        raise FileNotFoundError(
            f"{directory}: its values can't be verified: it has no {MANIFEST_FILE}, which only checkpoints written by "
            "paddle_xc2 have; names, shapes and sizes are checked without it. Compare the `sha256sum` of its files "
            "with what their publisher states"
        )
    wrong = []
    for name, entry in files.items():
        path = directory / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            wrong.append(f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}")
        elif sha256(path, on_bytes) != entry["sha256"]:
            wrong.append(f"{name} has changed (its SHA-256 is another)")
    if wrong:
        raise ValueError(f"{directory}: not as it was written: {'; '.join(wrong)}; copy or convert it again")
    return sum(entry["bytes"] for entry in files.values())


def check_unchanged(directory: Path) -> None:
    """Holds an adapter against its manifest: it is small. One that another program wrote has none, and passes.

    Raises: ValueError as `verify_manifest`.
    """
    try:
        if manifest_files(directory):
            verify_manifest(directory)
    except ValueError as error:
        raise ValueError(f"{error}; if that was done on purpose, delete {MANIFEST_FILE} there") from None


def sha256(path: Path, on_bytes: Callable[[int], object] = lambda count: None) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()

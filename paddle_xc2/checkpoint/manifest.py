"""The manifest of a checkpoint that we wrote: size and SHA-256 of each of its files.

It is what finds a flipped byte: a tensor with another value in it is as well-formed as before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paddle_xc2.files.durable import differences, file_table, is_file_table
from paddle_xc2.files.json_file import write_json
from paddle_xc2.hub.directory import ModelDirectory, opened

MANIFEST_FILE = "paddle_xc2_manifest.json"
FORMAT_VERSION = 1


def write_manifest(
    directory: Path, layout: str, source: str, digests: dict[str, str], attempt: str | None = None
) -> None:
    """Writes the manifest of all files in `directory`.

    Args:
        layout: "paddle" or "hf".
        source: name of the model or directory that the weights come from.
        digests: SHA-256 of the files for which it is known already, by path within `directory`.
        attempt: identifies the conversion that wrote it.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "layout": layout,
        "source": source,
        **({} if attempt is None else {"attempt": attempt}),
        "files": file_table(directory, digests),
    }
    write_json(directory / MANIFEST_FILE, content)


def manifest_files(directory: Path | ModelDirectory) -> dict[str, dict]:
    """{path within the directory: {"bytes", "sha256"}} of the manifest in `directory`; {} if it has none.

    Raises: ValueError if the manifest is damaged or of a later format.
    """
    return _read(opened(directory)).get("files", {})


def _read(directory: ModelDirectory) -> dict:
    """The manifest; {} if there is none. Raises: as `manifest_files`."""
    if not directory.has(MANIFEST_FILE):
        return {}
    path, content = directory / MANIFEST_FILE, directory.json(MANIFEST_FILE)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {version!r}, expected {FORMAT_VERSION}; install a newer paddle_xc2"
        )
    if is_file_table(content.get("files")):
        return content
    raise ValueError(f"{path}: its list of files is damaged; convert the checkpoint again")


def is_written_by(directory: Path, attempt: str) -> bool:
    """Whether `directory` holds, whole, what the conversion `attempt` writes."""
    manifest = _read(opened(directory))
    return manifest.get("attempt") == attempt and not any(differences(directory, manifest["files"]))


def verify_manifest(directory: Path | ModelDirectory, on_bytes: Callable[[int], object] = lambda count: None) -> int:
    """Holds every file against the manifest, reading all of them but those that `directory` has read already.

    Returns: number of bytes that were verified.
    Raises: FileNotFoundError if there is no manifest; ValueError naming every file that is missing, cut off or changed.
    """
    directory = opened(directory)
    files = manifest_files(directory)
    if not files:
        raise FileNotFoundError(
            f"{directory}: its values can't be verified: it has no {MANIFEST_FILE}, which only checkpoints written by "
            "paddle_xc2 have; names, shapes and sizes are checked without it. Compare the `sha256sum` of its files "
            "with what their publisher states"
        )
    wrong = list(differences(directory.path, files, directory.contents, on_bytes))
    if wrong:
        raise ValueError(f"{directory}: not as it was written: {'; '.join(wrong)}; copy or convert it again")
    return sum(entry["bytes"] for entry in files.values())


def check_unchanged(directory: ModelDirectory) -> None:
    """Holds an adapter against its manifest: it is small. One that another program wrote has none, and passes.

    Raises: ValueError as `verify_manifest`.
    """
    try:
        if files := manifest_files(directory):
            for name in files:
                if name.endswith(".json") and directory.has(name):
                    directory.content(name)  # which is what is used later: it isn't read from the disk again
            verify_manifest(directory)
    except ValueError as error:
        raise ValueError(f"{error}; if that was done on purpose, delete {MANIFEST_FILE} there") from None

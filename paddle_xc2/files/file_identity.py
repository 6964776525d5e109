"""Which file it is, told by its content in a moment: all of a small one, pieces from all over a large one.

Unlike a time of change, that is the same for a copy, and another one for a file that was replaced. A change that
spares every piece of a large file goes unnoticed: a compressed picture has none, nor has a model that was trained on.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_PIECE_BYTES = 4096
_PICTURE_PIECES = 16
_WEIGHTS_STEP = 2 * 2**20  # bytes from piece to piece: every matrix of a large model has some
_WEIGHTS_WHOLE = 64 * 2**20
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".pdparams")
_PARTS = ("llm", "projector", "visual_encoder", "llm_adapter", "visual_encoder_adapter")  # folders of XTuner's layout
# Those that say nothing of what the model computes while it is trained.
_OTHER_CONFIGS = ("generation_config.json", "tokenizer_config.json", "preprocessor_config.json")


def picture_identity(path: Path) -> bytes:
    """32 bytes that tell a picture, or a video, from any other. It takes some ten microseconds."""
    return _identity(path, _PICTURE_PIECES * _PIECE_BYTES, _PICTURE_PIECES)


def model_identity(directory: Path) -> str:
    """16 digits that tell the settings and weights in a checkpoint's directory from any others."""
    digest = hashlib.sha256()
    # Not in every folder: what is trained may be written into one.
    for path in sorted([*directory.glob("*"), *(path for part in _PARTS for path in (directory / part).glob("*"))]):
        is_config = path.name.endswith("config.json") and path.name not in _OTHER_CONFIGS
        if (is_config or path.suffix in _WEIGHT_SUFFIXES) and path.is_file():
            digest.update(path.relative_to(directory).as_posix().encode() + b"\0")
            digest.update(_identity(path, _WEIGHTS_WHOLE, path.stat().st_size // _WEIGHTS_STEP))
    return digest.hexdigest()[:16]


def _identity(path: Path, whole: int, num_pieces: int) -> bytes:
    """SHA-256 of a file's size and of its bytes, or of pieces at even distances, the last of which ends it.

    Args:
        whole: bytes up to which a file is read whole.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        pieces = [(0, size)]
        if size > whole:
            pieces = [((size - _PIECE_BYTES) * n // (num_pieces - 1), _PIECE_BYTES) for n in range(num_pieces)]
        for offset, length in pieces:
            digest.update(os.pread(descriptor, length, offset))
    finally:
        os.close(descriptor)
    return digest.digest()

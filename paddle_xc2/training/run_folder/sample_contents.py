"""sample_contents.npy: what tells each sample of a run from any other; in a checkpoint, to name what has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddle_xc2.data.samples import Samples
from paddle_xc2.messages import listed

CONTENTS_FILE = "sample_contents.npy"


def write_sample_contents(directory: Path, samples: Samples) -> None:
    np.save(directory / CONTENTS_FILE, samples.content_of)


def describe_changes(directory: Path, samples: Samples) -> str:
    """Which of the samples have other pictures, or other tokens, than when the checkpoint `directory` was written.

    Returns: text; "" where nothing is known: a checkpoint of an earlier version, or other samples altogether.
    """
    if not (directory / CONTENTS_FILE).is_file():
        return ""
    then = np.load(directory / CONTENTS_FILE, allow_pickle=False)
    if then.shape != samples.content_of.shape:
        return ""
    pictures, tokens = ((then != samples.content_of)[:, part].nonzero()[0] for part in (0, 1))
    changed = []
    if len(pictures):
        changed.append(f"other pictures in {listed([_with_pictures(samples, index) for index in pictures])}")
    if len(tokens):
        changed.append(f"other tokens in {listed([samples.conversations[int(index)].source for index in tokens])}")
    return ", ".join(changed)


def _with_pictures(samples: Samples, index: int) -> str:
    """ "train.json[3] (photos/1.png)"."""
    conversation = samples.conversations[int(index)]
    return f"{conversation.source} ({listed([image.name for image in conversation.images])})"

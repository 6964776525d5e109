"""What every test gets: one thread, no hub, a fixed seed, and the reference material where it is present."""

import os

# Set before any library reads them. One thread: tests are small, and several test processes may share a machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import json
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddle_xc2 import runtime

runtime.prepare_environment()  # before any test imports Paddle, so that the 1 above counts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun by a script in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that the programs that tests start hear of Ctrl-C

ROOT = Path(__file__).resolve().parent.parent
SEED = 1234


@pytest.fixture(scope="session")
def root():
    """Path of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared():
    """Path of the reference material (goldens, real tokenizer, upstream's sample files); skips where it is absent."""
    path = Path(os.environ.get("PADDLE_XC2_SHARED") or ROOT.parent / "shared")
    if not (path / "goldens").is_dir():
        pytest.skip(f"no reference material at {path}; PADDLE_XC2_SHARED names another place")
    return path


@pytest.fixture(autouse=True)
def fixed_seed():
    """Starts each test from the same random state, whichever tests ran before it. Paddle only where it is in use."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "paddle" in sys.modules:
        sys.modules["paddle"].seed(SEED)


def _record(index, folder, random):
    """A record with index % 3 images."""
    paths = [f"{index}_{place}.png" for place in range(index % 3)]
    for path in paths:
        Image.fromarray(random.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / path)
    question = "<ImageHere>" * len(paths) + f"Which digit is {index}?"
    answer = f"The digit {index * 7 % 10}." * (1 + index % 2)
    turns = [{"from": "user", "value": question}, {"from": "assistant", "value": answer}]
    return {"id": str(index), "image": paths, "conversations": turns}


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A folder with model/, train.json (13 records of 0 to 2 images) and eval.json (5)."""
    from tests.tiny import tiny_checkpoint  # imports Paddle

    folder = tmp_path_factory.mktemp("workspace")
    tiny_checkpoint(folder / "model")
    random = np.random.default_rng(0)
    for name, indexes in (("train", range(13)), ("eval", range(100, 105))):
        (folder / f"{name}.json").write_text(json.dumps([_record(index, folder, random) for index in indexes]))
    return folder

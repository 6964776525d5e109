"""Reads the reference values of this folder, and full sets in the same layout; README.md says where they come from."""

import json
import shutil
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent


class Golden:
    """Inputs and outputs of upstream's code for one tiny checkpoint of a family.

    Attributes:
        directory: `tests/golden/<family>`, or `goldens/<family>` of the full set.
        facts: the content of golden.json.
        images: the folder with its pictures.
    """

    def __init__(self, directory: Path = HERE / "xc2_7b"):
        self.directory = Path(directory)
        self.facts = json.loads((self.directory / "golden.json").read_text(encoding="utf-8"))
        self.images = self.directory / "images"

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        whole = self.directory / "golden.safetensors"
        return load_file(whole) if whole.is_file() else dict(np.load(self.directory / "golden.npz"))

    def names(self, prefix: str) -> list[str]:
        """What follows `prefix` in the names of the arrays that start with it."""
        return [name.removeprefix(prefix) for name in self.arrays if name.startswith(prefix)]

    def array(self, name: str) -> np.ndarray:
        """An array that is stored whole."""
        assert self.facts["arrays"][name]["stride"] == 1, f"{name} is stored in part"
        return self.arrays[name].reshape(self.facts["arrays"][name]["shape"])

    def difference(self, got, name: str, where=True) -> float:
        """Largest absolute difference between an array and the golden one, over the values that are stored.

        Args:
            where: bool, broadcast to the array: the values that count.
        """
        entry = self.facts["arrays"][name]
        got = np.asarray(got)
        assert list(got.shape) == entry["shape"], f"{name}: shape {list(got.shape)}, golden {entry['shape']}"
        counts = np.broadcast_to(where, got.shape).reshape(-1)[:: entry["stride"]]
        difference = np.abs(got.reshape(-1)[:: entry["stride"]].astype("float64") - self.arrays[name].reshape(-1))
        return float(difference[counts].max())

    def checkpoint(self, directory: Path) -> Path:
        """A directory with the checkpoint in upstream's layout: the set's own, or one written into `directory`."""
        weights = self.directory / "weights.npz"
        if not weights.is_file():
            return self.directory / "ckpt"
        shutil.copytree(self.directory / "ckpt", directory, dirs_exist_ok=True)
        save_file(dict(np.load(weights)), Path(directory) / "model.safetensors", metadata={"format": "pt"})
        return Path(directory)

    def record(self, name: str) -> dict:
        """A training sample as it stands in a user's file."""
        sample = self.facts["train_samples"][name]
        images = {"image": sample["images"]} if sample["images"] else {}
        return {"id": name, "conversations": sample["conversations"], **images}


def rope_tables() -> dict[str, np.ndarray]:
    """Rotary tables [positions, 12] of upstream's code: base 1e6, max_position_embeddings 32, head_dim 12."""
    return dict(np.load(HERE / "rope.npz"))

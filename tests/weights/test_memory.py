"""A checkpoint that is larger than what converting and loading it may take: 172 MB, with a table of 47 MB.

tests/benchmarks/conversion.py measures the same on the released models' size.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_xc2.checkpoint import lazy_tensor
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.model import load_model
from paddle_xc2.weights.convert import convert
from tests.benchmarks.synthetic_checkpoint import write_synthetic
from tests.conftest import ROOT

MB = 2**20


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("memory") / "original"
    write_synthetic(directory, "small", max_shard_size="60MB")
    return directory


class PeakMemory:
    """Most memory that this process holds within a block, above what it held before, in MB."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._before = self._read("VmRSS")
        return self

    def __exit__(self, *error):
        self.mb = self._read("VmHWM") - self._before

    @staticmethod
    def _read(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def test_there_and_back(original, tmp_path, monkeypatch):
    """Bit-exact, and in the memory of some blocks."""
    monkeypatch.setattr(lazy_tensor, "BLOCK_BYTES", 4 * MB)
    monkeypatch.setattr(lazy_tensor, "WIDE_BLOCK_BYTES", 12 * MB)
    with PeakMemory() as peak:
        there = convert(original, tmp_path / "ours", max_shard_size="60MB")
        convert(tmp_path / "ours", tmp_path / "back", to="hf", max_shard_size="60MB")
    assert there.num_bytes > 170 * 10**6
    assert peak.mb < 110  # measured: 58 to 72
    before, after = read_checkpoint(original), read_checkpoint(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(before[name].read().tobytes() == after[name].read().tobytes() for name in before)
    for path in original.glob("*.safetensors"):
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_loading(original):
    """The weights, and little else: no tensor is held twice, nor as it lies in the file.

    In a process of its own: this one would put the weights where others were before.
    """
    script = (
        "import sys\n"
        "from paddle_xc2.model import load_model\n"
        "from tests.weights.test_memory import PeakMemory\n"
        "with PeakMemory() as peak:\n"
        "    model = load_model(sys.argv[1], 'float32')\n"
        "print(peak.mb, sum(parameter.size for parameter in model.parameters()) * 4 / 2**20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, original], cwd=ROOT, capture_output=True, text=True, check=True
    )
    peak_mb, weights_mb = map(float, done.stdout.split())
    assert weights_mb > 320
    assert peak_mb < weights_mb + 40  # measured: 4 more


def test_loading_quantized(original):
    """What is quantized is never in memory as it was: what stays dense, four bits of the rest, and one piece."""
    script = (
        "import sys\n"
        "from paddle_xc2.model import load_model\n"
        "from tests.weights.test_memory import PeakMemory\n"
        "with PeakMemory() as peak:\n"
        "    model = load_model(sys.argv[1], 'bfloat16', quantize='nf4')\n"
        "tensors = [*model.parameters(), *model.buffers()]\n"
        "print(peak.mb, sum(tensor.size * tensor.element_size() for tensor in tensors) / 2**20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, original], cwd=ROOT, capture_output=True, text=True, check=True
    )
    peak_mb, weights_mb = map(float, done.stdout.split())
    assert weights_mb < 140  # 164 as they are
    assert peak_mb < weights_mb + 60  # measured: 22 more


def test_parameters_are_ordinary_ones(original):
    """They train and can be set, though they were given their memory from outside."""
    model = load_model(original)
    parameter = model.vision_proj[0].weight
    before = parameter.numpy()
    optimizer = paddle.optimizer.SGD(1.0, parameters=[parameter])
    (parameter * 2).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(parameter.numpy(), before - 2)
    parameter.set_value(before)
    np.testing.assert_array_equal(model.state_dict()["vision_proj.0.weight"].numpy(), before)

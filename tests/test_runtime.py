import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddle_xc2 import runtime
from paddle_xc2.runtime import Choice
from tests.conftest import ROOT

AVX512, AVX2, OLD = frozenset({"avx2", "avx512f"}), frozenset({"avx2"}), frozenset({"sse4_2"})


@pytest.mark.parametrize(
    "vendor, flags, wanted, expected",
    [
        ("AuthenticAMD", AVX512, None, "7"),
        ("AuthenticAMD", AVX2, None, "5"),
        ("AuthenticAMD", OLD, None, "unset"),
        ("HygonGenuine", AVX2, None, "5"),
        ("GenuineIntel", AVX512, None, "unset"),
        ("", frozenset(), None, "unset"),
        ("AuthenticAMD", AVX512, "5", "5"),
        ("GenuineIntel", AVX512, "4", "4"),
    ],
)
def test_mkl_cpu_type(vendor, flags, wanted, expected):
    choice = runtime.choose_mkl_cpu_type(vendor, flags, wanted)
    assert choice.value == expected
    assert (choice.reason == runtime.USER) == (wanted is not None)


def test_inherited_choice_of_ours_is_not_taken_for_the_users():
    assert runtime.choose_mkl_cpu_type("AuthenticAMD", AVX512, "7").reason == "AVX-512 on AuthenticAMD"


@pytest.mark.parametrize(
    "vendor, mkl, wanted, cpus, processes, expected",
    [
        ("AuthenticAMD", "7", None, 8, 1, "8"),
        ("AuthenticAMD", "7", None, 8, 2, "4"),
        ("AuthenticAMD", "7", None, 2, 8, "1"),
        ("AuthenticAMD", "unset", None, 8, 1, "1"),
        ("GenuineIntel", "unset", None, 8, 1, "8"),
        ("", "unset", None, 8, 1, "1"),
        ("AuthenticAMD", "7", "3", 8, 2, "3"),
        ("AuthenticAMD", "7", "many", 8, 1, "8"),
    ],
)
def test_num_threads(vendor, mkl, wanted, cpus, processes, expected):
    assert runtime.choose_num_threads(vendor, Choice(mkl, ""), wanted, cpus, processes).value == expected


@pytest.mark.parametrize("quota, expected", [("max 100000", 4), ("150000 100000", 2), ("900000 100000", 4), (None, 4)])
def test_usable_cpus_respects_a_containers_quota(monkeypatch, tmp_path, quota, expected):
    file = tmp_path / "cpu.max"
    if quota:
        file.write_text(quota)
    monkeypatch.setattr(runtime, "Path", lambda _: file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert runtime.usable_cpus() == expected


def test_processor_reads_cpuinfo(monkeypatch, tmp_path):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(runtime, "Path", lambda _: file)
    assert runtime.processor()[0] == "" and runtime.processor()[2] == frozenset()
    file.write_text("vendor_id\t: AuthenticAMD\nmodel name\t: A\nflags\t\t: fpu avx2\n\nmodel name\t: B\n")
    assert runtime.processor() == ("AuthenticAMD", "A", frozenset({"fpu", "avx2"}))


def run_python(program, **variables):
    """Runs `program` in a new interpreter. Returns: (standard output, standard error)."""
    unset = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "PADDLE_LOCAL_SIZE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**environment, **variables}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


PREPARE = """
import os
{first}
from paddle_xc2 import runtime
record = runtime.prepare()
assert runtime.prepare() is record
print(record.threads.value, record.mkl.value, os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_DEBUG_CPU_TYPE"))
"""


@pytest.mark.parametrize("first", ["", "import paddle"])
def test_prepare_decides_once_says_nothing_and_leaves_other_programs_their_choice(first):
    output, errors = run_python(PREPARE.format(first=first))
    threads, mkl, left_threads, left_mkl = output.split()
    assert errors == "" or first  # whoever imports Paddle first hears what it has to say
    assert int(threads) >= 1
    # Paddle writes OMP_NUM_THREADS=1, which a program started from here would take for the user's word.
    assert left_threads == "None"
    assert left_mkl == (mkl if mkl != "unset" else "None")


@pytest.mark.parametrize("first", ["", "import paddle"])
def test_prepare_respects_the_user(first):
    output, _ = run_python(PREPARE.format(first=first), OMP_NUM_THREADS="1", MKL_DEBUG_CPU_TYPE="4")
    assert output.split() == ["1", "4", "1", "4"]


@pytest.fixture
def devices(monkeypatch):
    """Three devices that need not be there."""
    precisions = {
        "cpu": ("float32",),
        "gpu:0": ("bfloat16", "float16", "float32"),
        "gpu:1": ("float16", "float32"),
    }
    monkeypatch.setattr(runtime, "available_precisions", precisions.get)
    monkeypatch.setattr(runtime, "device_name", {"cpu": "A CPU", "gpu:0": "A100", "gpu:1": "V100"}.get)


@pytest.mark.parametrize(
    "bf16, fp16, device, fallback, expected",
    [
        (False, False, "cpu", False, "float32"),
        (False, False, "gpu:0", False, "float32"),
        (True, False, "gpu:0", False, "bfloat16"),
        (False, True, "gpu:1", False, "float16"),
        (True, False, "cpu", True, "float32"),
        (True, False, "gpu:1", True, "float32"),
        (True, False, "gpu:0", True, "bfloat16"),
    ],
)
def test_precision(devices, bf16, fp16, device, fallback, expected):
    assert runtime.choose_precision(bf16, fp16, device, fallback) == expected


def test_precision_that_the_device_lacks(devices):
    with pytest.raises(ValueError) as error:
        runtime.choose_precision(True, False, "cpu")
    assert str(error.value) == (
        'bf16 is true, but cpu (A CPU) computes in float32 only; set "bf16": false, or pass --allow_precision_fallback '
        "to compute in float32"
    )
    with pytest.raises(ValueError, match='fp16 is true, but cpu .* set "fp16": false'):
        runtime.choose_precision(False, True, "cpu")
    with pytest.raises(ValueError, match='bf16 is true, but gpu:1 .V100. .* set "bf16": false and "fp16": true'):
        runtime.choose_precision(True, False, "gpu:1")


@pytest.mark.parametrize(
    "stored, device, expected",
    [
        ("bfloat16", "gpu:0", "bfloat16"),
        ("bfloat16", "gpu:1", "float16"),
        ("float16", "gpu:1", "float16"),
        ("float32", "gpu:1", "float32"),
        ("bfloat16", "cpu", "float32"),
        ("float16", "cpu", "float32"),
    ],
)
def test_dtype_of_the_weights(devices, recwarn, stored, device, expected):
    assert runtime.choose_weight_dtype(stored, device=device) == expected
    told = [str(warning.message) for warning in recwarn]
    where = "the weights are stored in bfloat16, which gpu:1 (V100) can't compute in; they are loaded as float16"
    assert told == ([where] if (stored, device) == ("bfloat16", "gpu:1") else [])


def test_dtype_that_is_asked_for_by_name(devices):
    assert runtime.choose_weight_dtype("bfloat16", "float32", "gpu:1") == "float32"
    assert runtime.choose_weight_dtype("float32", "bfloat16", "cpu") == "bfloat16"  # to be written, say
    with pytest.raises(ValueError) as error:
        runtime.choose_weight_dtype("bfloat16", "bfloat16", "gpu:1")
    assert str(error.value) == (
        "dtype bfloat16 is asked for, but gpu:1 (V100) computes in float16, float32 only; leave dtype out, or take one "
        "of these"
    )


def test_both_precisions():
    with pytest.raises(ValueError, match="bf16 and fp16 are both true; set one of them"):
        runtime.choose_precision(True, True, "gpu:0", allow_fallback=True)


def test_precision_of_this_device():
    device = runtime.prepare().device
    assert runtime.choose_precision(False, False) == "float32"
    assert runtime.available_precisions("cpu") == ("float32",)
    assert runtime.device_name(device)


def test_one_seed_for_everything():
    import paddle

    def numbers():
        return [random.random(), np.random.rand(), *paddle.rand([3]).tolist()]

    runtime.set_seed(7)
    first = numbers()
    assert numbers() != first
    runtime.set_seed(7)
    assert numbers() == first


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match=f"seed {seed} is out of range; give a number from 0 to 4294967295"):
        runtime.set_seed(seed)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PPNLP_HOME", raising=False)
    monkeypatch.setenv("PPNLP_HOME", "")  # so that it is put back
    del os.environ["PPNLP_HOME"]
    return tmp_path


def test_a_home_that_can_be_written_to_is_paddlenlps(home):
    runtime.give_paddlenlp_a_home()
    assert "PPNLP_HOME" not in os.environ and list(home.iterdir()) == []


def test_paddlenlp_gets_a_temporary_home(home, monkeypatch):
    folders, at_exit = [], []
    monkeypatch.setattr(os, "access", lambda path, mode: folders.append(path))
    monkeypatch.setattr(runtime.atexit, "register", lambda *call: at_exit.append(call))
    runtime.give_paddlenlp_a_home()
    folder = Path(os.environ["PPNLP_HOME"])
    assert folders == [home] and folder.is_dir()
    ((remove, *arguments),) = at_exit
    remove(arguments[0], -1)  # at the end of another process
    assert folder.is_dir()
    remove(*arguments)
    assert not folder.exists()


def test_folders_that_are_there_need_no_permission(home, monkeypatch):
    for name in ("models", "datasets", "packages"):
        (home / ".paddlenlp" / name).mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    runtime.give_paddlenlp_a_home()
    assert "PPNLP_HOME" not in os.environ


def test_the_users_folder_for_paddlenlp_can_not_be_written_to(home, monkeypatch):
    monkeypatch.setenv("PPNLP_HOME", "/dev/null")
    with pytest.raises(ValueError, match="PPNLP_HOME is /dev/null, which can't be written to; set it to a folder that"):
        runtime.give_paddlenlp_a_home()


def test_nothing_can_be_written_to(home, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(runtime.tempfile, "mkdtemp", lambda prefix: (_ for _ in ()).throw(FileNotFoundError("none")))
    with pytest.raises(ValueError, match="nor a folder for temporary files can be written to; set PPNLP_HOME to one"):
        runtime.give_paddlenlp_a_home()


COPIES = """
import resource, sys
from paddle_xc2 import runtime
runtime.prepare()
import paddle
x = paddle.ones([2**24])
x.clone()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):
    x.clone()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("wanted", [None, "33554432"])
def test_memory_of_large_tensors_is_used_again(wanted):
    """Sixteen copies of 64 MB are 262144 pages; what the user has set stays."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    if wanted:
        environment["MALLOC_MMAP_THRESHOLD_"] = wanted
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COPIES], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 131072) == bool(wanted)


def test_peak_memory():
    assert 0.01 < runtime.peak_memory_gb() < runtime.device_memory() / 1e9

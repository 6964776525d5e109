"""Device, precision and thread settings: decided once, before the first product, and kept for `doctor` to show.

`prepare_environment()` sets what has to stand in the environment and needs no Paddle; `prepare()` adds what Paddle
itself must be told. Both respect what the user has set: `MKL_DEBUG_CPU_TYPE`, `OMP_NUM_THREADS`.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import os
import platform
import random
import resource
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder
from pathlib import Path

from paddle_xc2.messages import counted

USER = "set by the user"  # a choice that is never overridden
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MAX_SEED = 2**32 - 1  # NumPy's limit

# Said by imports of Paddle and PaddleNLP about compiling extensions, which nobody here does.
IMPORT_NOISE = ("No ccache found", "Setuptools is replacing distutils", "Reliance on distutils from stdlib")


@dataclass(frozen=True)
class Choice:
    """A setting and why it is so."""

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"


@dataclass(frozen=True)
class Runtime:
    """What `prepare()` found and decided."""

    device: str  # Paddle's name: "cpu", "gpu:0"
    device_name: str  # the model of the processor that computes
    precisions: tuple[str, ...]  # that the device can train in, best first
    threads: Choice  # of a product on the CPU
    mkl: Choice  # MKL_DEBUG_CPU_TYPE

    def lines(self) -> list[str]:
        """The record as text, one fact a line."""
        return [
            f"device: {self.device}, {self.device_name}",
            f"precisions: {', '.join(self.precisions)}",
            f"threads: {self.threads}",
            f"MKL_DEBUG_CPU_TYPE: {self.mkl}",
        ]


@cache
def prepare() -> Runtime:
    """Makes Paddle ready to compute, once. Call it before the first product: MKL reads its settings there."""
    mkl, threads = prepare_environment()
    import paddle

    device = paddle.device.get_device()
    if device == "cpu":
        keep_freed_memory()
    if device != "cpu" and threads.reason != USER:
        threads = Choice("1", f"the products are computed on {device}")
    if threads.reason != USER:
        # Not through OMP_NUM_THREADS: at import, Paddle warns of it at length, and writes a 1 where it is missing,
        # which the programs that this one starts would take for the user's word.
        paddle.base.core.set_num_threads(int(threads.value))
        os.environ.pop("OMP_NUM_THREADS", None)
    return Runtime(device, device_name(device), available_precisions(device), threads, mkl)


class _BeforePaddle(MetaPathFinder):
    """Asked for every module before it is imported: says that it is Paddle's turn, which takes seconds, and leaves."""

    def find_spec(self, name, path, target=None):
        if name == "paddle":
            sys.meta_path.remove(self)
            print("loading Paddle ...", file=sys.stderr, flush=True)
        return None


def tell_before_loading_paddle() -> None:
    """Where a command comes to import Paddle, it says so first, if that isn't done yet."""
    if "paddle" not in sys.modules and not any(isinstance(finder, _BeforePaddle) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforePaddle())


@cache
def prepare_environment() -> tuple[Choice, Choice]:
    """The part of `prepare()` that needs no Paddle, and is best done before it is imported.

    Returns: MKL_DEBUG_CPU_TYPE and the number of threads, each with its reason.
    """
    for message in IMPORT_NOISE:
        warnings.filterwarnings("ignore", message=message)
    give_paddlenlp_a_home()
    vendor, model, flags = processor()
    mkl = choose_mkl_cpu_type(vendor, flags, os.environ.get("MKL_DEBUG_CPU_TYPE"))
    if mkl.value != "unset":
        os.environ["MKL_DEBUG_CPU_TYPE"] = mkl.value
    wanted = os.environ.get("OMP_NUM_THREADS")
    if wanted == "1" and "paddle" in sys.modules and "OMP_NUM_THREADS" not in initial_environment():
        wanted = None  # Paddle's import writes a 1 where nothing was set
    return mkl, choose_num_threads(vendor, mkl, wanted, usable_cpus(), int(os.environ.get("PADDLE_LOCAL_SIZE", 1)))


_PADDLENLP_FOLDERS = ("models", "datasets", "packages")  # that it makes when it is imported


def give_paddlenlp_a_home() -> None:
    """PaddleNLP makes folders in the user's home when it is imported: where it can't, as in a container that is run
    with --user or --read-only, it gets a temporary folder, which is removed at the end.

    Raises: ValueError if nothing at all can be written to.
    """
    wanted = os.environ.get("PPNLP_HOME")
    home = Path(wanted or os.path.expanduser("~/.paddlenlp"))
    if all(_can_be_made(home / folder) for folder in _PADDLENLP_FOLDERS):
        return
    if wanted:
        raise ValueError(f"PPNLP_HOME is {wanted}, which can't be written to; set it to a folder that can be")
    try:
        folder = tempfile.mkdtemp(prefix="paddle_xc2-")
    except OSError:
        raise ValueError(
            f"neither {home.parent} nor a folder for temporary files can be written to; set PPNLP_HOME to one that can"
        ) from None
    os.environ["PPNLP_HOME"] = folder
    atexit.register(_remove_if_ours, folder, os.getpid())


def _can_be_made(folder: Path) -> bool:
    """Whether the folder is there, or the one in which it would be made can be written to."""
    if folder.is_dir():
        return True
    above = next(parent for parent in folder.parents if parent.exists())
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def _remove_if_ours(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # not at the end of a process that was forked
        shutil.rmtree(folder, ignore_errors=True)


def keep_freed_memory() -> None:
    """Has glibc keep the memory of large tensors that are gone for those that come, up to 2 GB at its end.

    Else every tensor above 32 MB is new memory, whose pages the system clears one by one when they are written to: a
    copy of 61 MB takes 64 ms instead of 12. Does nothing with another C library, or where the user has set MALLOC_...
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        libc.mallopt(parameter, 2**31 - 1)


def choose_mkl_cpu_type(vendor: str, flags: frozenset[str], wanted: str | None) -> Choice:
    """Which code path Paddle's MKL takes on the CPU; on other makers' it would take the slowest by itself.

    Args:
        vendor, flags: as `processor()` gives them.
        wanted: what the user has set, or None.
    """
    if not vendor:
        ours = Choice("unset", "no x86 CPU that /proc/cpuinfo describes")
    elif vendor == "GenuineIntel":
        ours = Choice("unset", "MKL chooses well on Intel")
    # A float32 product of 2048^3 on an AMD EPYC with AVX-512, GFLOP/s with one and with two threads on two cores:
    # unset 39 and 13, type 5 105 and 197, type 7 112 and 215.
    elif "avx512f" in flags:
        ours = Choice("7", f"AVX-512 on {vendor}")
    elif "avx2" in flags:
        ours = Choice("5", f"AVX2 on {vendor}")
    else:
        ours = Choice("unset", f"neither AVX-512 nor AVX2 on {vendor}")
    return ours if wanted in (None, ours.value) else Choice(wanted, USER)


def choose_num_threads(vendor: str, mkl: Choice, wanted: str | None, cpus: int, processes: int) -> Choice:
    """How many threads share a product.

    With MKL's fast paths, a second thread on a second core made a training step of hidden size 512 1.4 times as fast,
    of 128 1.15 times, of 64 1.07 times; on cores that other programs keep busy it gains nothing.

    Args:
        vendor: as `processor()` gives it.
        mkl: as `choose_mkl_cpu_type()` gives it.
        wanted: OMP_NUM_THREADS as the user has set it, or None.
        cpus: that this process may use.
        processes: of this run on this machine.
    """
    if wanted is not None and wanted.isdecimal() and int(wanted) > 0:
        return Choice(wanted, USER)
    if not vendor:
        return Choice("1", "Paddle's products have one thread on this processor")
    if vendor != "GenuineIntel" and mkl.value == "unset":
        return Choice("1", "MKL's generic path gets slower with more")
    if processes > 1:
        return Choice(str(max(1, cpus // processes)), f"{counted(cpus, 'CPU')} for {processes} processes")
    return Choice(str(cpus), "CPUs that this process may use")


def processor() -> tuple[str, str, frozenset[str]]:
    """(vendor, model name, feature flags) of an x86 CPU, e.g. ("AuthenticAMD", "AMD EPYC", {"avx2", ...}).

    The vendor is empty and the flags are none where /proc/cpuinfo does not tell: other systems, other processors.
    """
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    model = fields.get("model name") or platform.processor() or platform.machine()
    return fields.get("vendor_id", ""), model, frozenset(fields.get("flags", "").split())


def initial_environment() -> set[str]:
    """Names of the variables that this process was started with; none where the system does not tell."""
    try:
        variables = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return set()
    return {os.fsdecode(variable.partition(b"=")[0]) for variable in variables}


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, cut by a container's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, math.ceil(int(quota) / int(period))))


def device_name(device: str) -> str:
    """The model of the processor behind Paddle's device name."""
    if device.startswith("gpu"):
        import paddle

        return paddle.device.cuda.get_device_name(device)
    return processor()[1] if device == "cpu" else device.partition(":")[0]


def available_precisions(device: str) -> tuple[str, ...]:
    """The dtypes in which `device` (Paddle's name) can train, best first."""
    if device == "cpu":
        # Paddle has no bfloat16 kernels for products and sums there, and its float16 scaler crashes.
        return ("float32",)
    import paddle

    bfloat16 = ("bfloat16",) if paddle.amp.is_bfloat16_supported(device) else ()
    float16 = ("float16",) if paddle.amp.is_float16_supported(device) else ()
    return (*bfloat16, *float16, "float32")


def choose_precision(bf16: bool, fp16: bool, device: str | None = None, allow_fallback: bool = False) -> str:
    """The dtype of a run: "bfloat16", "float16" or "float32".

    Args:
        bf16, fp16: what the run asks for.
        device: Paddle's name; None is the one that computes here.
        allow_fallback: take float32 where the device lacks what is asked for.
    Raises: ValueError if both are asked for, or the device lacks it and `allow_fallback` is false.
    """
    if bf16 and fp16:
        raise ValueError("bf16 and fp16 are both true; set one of them: bf16 on GPUs that have it, fp16 on a V100")
    wanted = "bfloat16" if bf16 else "float16" if fp16 else "float32"
    device = device or prepare().device
    available = available_precisions(device)
    if wanted in available:
        return wanted
    if allow_fallback:
        return "float32"
    key = "bf16" if bf16 else "fp16"
    instead = f'set "{key}": false'
    if bf16 and "float16" in available:
        instead += ' and "fp16": true'
    raise ValueError(
        f"{key} is true, but {device} ({device_name(device)}) computes in {', '.join(available)} only; "
        f"{instead}, or pass --allow_precision_fallback to compute in float32"
    )


def choose_weight_dtype(stored: str, wanted: str | None = None, device: str | None = None) -> str:
    """The dtype that a checkpoint's weights are loaded in, which is the one that is computed in.

    Where the device can't compute in what is stored, that is 16 bits all the same if it has others (bfloat16 needs
    compute capability 8.0, a V100 has 7.0: paddle/amp/auto_cast.py, `_is_gpu_bfloat16_supported`), else float32. A GPU
    on which this happens is told of.

    Args:
        stored: what prevails in the checkpoint.
        wanted: what was asked for by name, or None.
        device: Paddle's name; None is the one that computes here.
    Raises: ValueError if `wanted` can't be computed in on a GPU. A CPU may hold it, to be written or merged.
    """
    device = device or prepare().device
    available = available_precisions(device)
    if wanted is not None:
        if device != "cpu" and wanted not in available:
            raise ValueError(
                f"dtype {wanted} is asked for, but {device} ({device_name(device)}) computes in "
                f"{', '.join(available)} only; leave dtype out, or take one of these"
            )
        return wanted
    if stored in available:
        return stored
    dtype = "float16" if stored == "bfloat16" and "float16" in available else "float32"
    if device != "cpu":
        told = f"the weights are stored in {stored}, which {device} ({device_name(device)}) can't compute in"
        warnings.warn(f"{told}; they are loaded as {dtype}", stacklevel=2)
    return dtype


def free_memory() -> int:
    """Bytes that tensors can still take on the device that computes here."""
    device = prepare().device
    if device.startswith("gpu"):
        import paddle

        total = paddle.device.cuda.get_device_properties(device).total_memory
        return total - paddle.device.cuda.memory_reserved(device)
    import psutil

    return psutil.virtual_memory().available


def set_seed(seed: int) -> None:
    """Starts Python's, NumPy's and Paddle's random numbers from one seed. Raises: ValueError outside 0 .. 2**32 - 1."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed} is out of range; give a number from 0 to {MAX_SEED}")
    import numpy as np
    import paddle

    random.seed(seed)
    np.random.seed(seed)
    paddle.seed(seed)


def peak_memory_gb() -> float:
    """Largest memory so far, in 1e9 bytes: the GPU's if one computes, else this process's."""
    import paddle

    if paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.max_memory_allocated() / 1e9
    # psutil tells no peak but on Windows. Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def device_memory() -> int:
    """Bytes that the device which computes has in all."""
    import paddle

    if paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.get_device_properties().total_memory
    import psutil

    return psutil.virtual_memory().total

"""Errors of the device that computes: no memory left, or a kernel that failed."""

from __future__ import annotations

# What fails in CUDA and its libraries Paddle raises as an External error (paddle/include/paddle/phi/core/enforce.h). To
# Python it comes as an OSError without an errno: no disk has anything to do with it.
_EXTERNAL = ("(External)", "ExternalError:")
# Paddle's own allocator, CUDA, and cuBLAS or cuDNN, which allocate by themselves.
_NO_MEMORY = ("resourceexhausted", "out of memory", "alloc_failed")
_LONGEST_REASON = 300


def is_device_error(error: BaseException) -> bool:
    """Whether CUDA, or a library of it, has failed: for want of memory, or otherwise."""
    return isinstance(error, OSError) and error.errno is None and any(sign in str(error) for sign in _EXTERNAL)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the system, had no memory left."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _NO_MEMORY)


def device_message(error: BaseException) -> str | None:
    """What a device's error, or one of memory, means and what to do; None for any other."""
    if isinstance(error, MemoryError) or is_device_error(error) and is_out_of_memory(error):
        less = "fewer or smaller images, a shorter text, fewer beams, weights in 16 bits"
        return f"the memory does not suffice; free what other programs hold, or compute with {less}; {reason_of(error)}"
    if is_device_error(error):
        what = f"the device that computes has failed: {reason_of(error)}; no disk is at fault"
        return f"{what}. Begin again, a process can't go on after this; `paddle-xc2 doctor` tries the device"
    return None


def reason_of(error: BaseException) -> str:
    """The line of Paddle's message that says what is wrong: before it may stand where it arose, behind it a hint."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(sign in line for sign in (*_EXTERNAL, "Out of memory error"))]
    return (telling or lines or [type(error).__name__])[-1][:_LONGEST_REASON]

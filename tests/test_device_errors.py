import errno

import pytest

from paddle_xc2.device_errors import device_message, is_device_error, is_out_of_memory, reason_of
from paddle_xc2.training.run_folder.interruption import is_disk_error

# As Paddle writes them (paddle/phi/core/enforce.h, paddle/common/errors.h): where it arose only at higher log levels.
NO_MEMORY = OSError(
    "(External) CUDA error(2), out of memory. \n  [Hint: 'cudaErrorMemoryAllocation'. The API call failed because it "
    "was unable to allocate enough memory. ] (at /paddle/phi/backends/gpu/info.cc:275)"
)
NO_CUBLAS_MEMORY = OSError("(External) CUBLAS error(3). \n  [Hint: 'CUBLAS_STATUS_ALLOC_FAILED'. ] (at blas.cc:41)")
BROKEN = OSError(
    "\n\n------------\nError Message Summary:\n------------\nExternalError: CUDA error(700), an illegal "
    "memory access was encountered. \n  [Hint: Please search for the error code(700) on website ...] (at stream.cc:129)"
)
ALLOCATOR = MemoryError(
    "\n\nC++ Traceback\nError Message Summary:\n--------\nResourceExhaustedError: \n\nOut of memory error on GPU 0. "
    "Cannot allocate 1.0GB memory on GPU 0."
)
OF_THE_DISK = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "(External) reads so")]
OTHERS = [OSError("something else"), RuntimeError("(External) but no OSError"), ValueError("out of range")]


@pytest.mark.parametrize("error", [NO_MEMORY, NO_CUBLAS_MEMORY, BROKEN])
def test_what_cuda_says_is_no_disk(error):
    assert is_device_error(error) and not is_disk_error(error)


@pytest.mark.parametrize("error", [*OF_THE_DISK, *OTHERS])
def test_what_is_none_of_the_device(error):
    assert not is_device_error(error) and device_message(error) is None


@pytest.mark.parametrize("error", [NO_MEMORY, NO_CUBLAS_MEMORY, ALLOCATOR, MemoryError()])
def test_no_memory(error):
    assert is_out_of_memory(error)
    told = device_message(error)
    assert told.startswith(
        "the memory does not suffice; free what other programs hold, or compute with fewer or smaller"
    )
    assert "\n" not in told and told.endswith(reason_of(error))


def test_a_kernel_that_failed():
    assert not is_out_of_memory(BROKEN)
    assert device_message(BROKEN) == (
        "the device that computes has failed: ExternalError: CUDA error(700), an illegal memory access was "
        "encountered.; no disk is at fault. Begin again, a process can't go on after this; `paddle-xc2 doctor` tries "
        "the device"
    )


def test_the_telling_line():
    assert reason_of(NO_MEMORY) == "(External) CUDA error(2), out of memory."
    assert reason_of(ALLOCATOR) == "Out of memory error on GPU 0. Cannot allocate 1.0GB memory on GPU 0."
    assert reason_of(MemoryError()) == "MemoryError"

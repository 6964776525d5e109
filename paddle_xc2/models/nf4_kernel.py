"""The CUDA kernel for NF4 that PaddleNLP's QLoRA uses, where a machine has it: `dequant_blockwise` of paddleslim_ops.

It is PaddleSlim's port of bitsandbytes' kernel. Nothing needs it: without it, and where it gives other values than
Paddle's own operations, models/nf4.py computes with these. It was never run here; hence the check before its first use.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable

import numpy as np
import paddle


@functools.cache
def find_kernel(device: str, values: tuple[float, ...], block: int) -> Callable | None:
    """The kernel, or None where the device has none.

    Args:
        device: as paddle.device.get_device() names it.
        values: what the 16 codes stand for.
        block: codes of one scale.
    Returns: (codes uint8 [outputs, inputs / 2], scales float32 [outputs * inputs / block]) -> float32 [outputs, inputs]
        of codes in pairs along the inputs, the first of a pair in the upper half of its byte.
    """
    if not device.startswith("gpu"):
        return None
    try:
        operation = importlib.import_module("paddleslim_ops").dequant_blockwise
    except (ImportError, OSError, AttributeError):
        return None

    def dequantize(codes, scales):
        flat = operation(codes, None, scales, blocksize=block, quant_type="nf4")
        return flat.reshape([codes.shape[0], 2 * codes.shape[1]])

    every_byte = np.arange(256, dtype=np.uint8).reshape([4, 64])
    scales = np.linspace(0.5, 2.0, 512 // block, dtype=np.float32)
    table = np.array(values, np.float32)
    wanted = table[np.stack([every_byte >> 4, every_byte & 15], axis=-1)].reshape([-1, block]) * scales[:, None]
    try:
        got = dequantize(paddle.to_tensor(every_byte), paddle.to_tensor(scales)).numpy()
        trouble = "" if np.array_equal(got, wanted.reshape([4, 128])) else "it gives other values than the published"
    except (RuntimeError, ValueError, TypeError, OSError) as error:  # of CUDA too: see device_errors.py
        trouble = str(error).strip().splitlines()[-1]
    if trouble:
        warnings.warn(f"paddleslim_ops is not used for NF4, Paddle's own operations are: {trouble}", stacklevel=2)
        return None
    return dequantize

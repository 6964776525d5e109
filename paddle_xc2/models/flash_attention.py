"""Paddle's flash attention (arXiv:2307.08691), where it does what models/attention.py does.

Nothing here can run on a CPU. What it relies on stands in the installed library, version 3.3.1:

- paddle/nn/functional/flash_attention.py, `flashmask_attention`: float16 and bfloat16 only; grouped heads are served;
  without bounds it is `_C_ops.flash_attn`; with causality and bounds of one column, int32 [batch, 1, keys, 1], key k is
  hidden from query rows bounds[k] and later. `flash_attention` of the same file is not called: where the kernel is
  missing from a build it takes `memory_efficient_attention` and drops causality in silence.
- paddle/nn/functional/sdpa.py: compute capability 8.0 and more (`init_config`), head_dim a multiple of 8 up to 256
  (`check_head_dim_size_flash`), causality only with as many queries as keys (`check_flash_causal_non_square_seqlens`:
  it is aligned to the top left, ours to the bottom right).
- paddle/nn/attention/sdpa.py: FLAGS_flash_attn_available says whether the build has the kernels.
"""

from __future__ import annotations

import functools

import paddle

from paddle_xc2.models.segments import Segments


def flash_attention_serves(query, key, segments: Segments | None, causal: bool) -> bool:
    """Whether `flash_attention` gives what `attention` is asked for. Several queries onto a cache are not among it."""
    num_queries, num_keys, head_dim = query.shape[1], key.shape[1], query.shape[-1]
    if not query.place.is_gpu_place() or query.dtype not in (paddle.float16, paddle.bfloat16):
        return False
    if head_dim % 8 or head_dim > 256 or not _device_has_it():
        return False
    if num_queries == 1:
        return segments is None
    return num_queries == num_keys and (causal or segments is None)


def flash_attention(query, key, value, segments: Segments | None, causal: bool):
    """`attention`, where `flash_attention_serves`."""
    from paddle.nn.functional.flash_attention import flashmask_attention

    bounds = None if segments is None else segments.row_bounds
    # A single query stands at the last key and sees all of them; the kernel's causality would show it the first alone.
    causal = causal and query.shape[1] > 1
    return flashmask_attention(query, key, value, startend_row_indices=bounds, causal=causal)


@functools.cache
def _device_has_it() -> bool:
    return paddle.device.cuda.get_device_capability() >= (8, 0) and _in_this_build()


def _in_this_build() -> bool:
    # None: a version that knows no such flag, and whose builds all have the kernels.
    return paddle.framework._global_flags().get("FLAGS_flash_attn_available", None) is not False

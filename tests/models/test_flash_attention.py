"""What goes through Paddle's flash attention: stand-ins with the semantics that the library documents, on a CPU."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_xc2.models import attention as attention_module
from paddle_xc2.models import flash_attention as module
from paddle_xc2.models import key_value_cache as cache_module
from paddle_xc2.models.attention import attention
from paddle_xc2.models.flash_attention import flash_attention_serves
from paddle_xc2.models.key_value_cache import KeyValueCache
from paddle_xc2.models.segments import Segments


def flashmask_stand_in(query, key, value, startend_row_indices=None, *, causal=False):
    """`paddle.nn.functional.flashmask_attention` in NumPy: causality aligned to the top left, bounds of one column."""
    query, key, value = (x.numpy().astype(np.float64) for x in (query, key, value))
    (batch, num_queries, heads, size), (_, num_keys, kv_heads, _) = query.shape, key.shape
    assert size % 8 == 0 and size <= 256
    rows, columns = np.arange(num_queries)[:, None], np.arange(num_keys)[None]
    hidden = np.zeros([batch, 1, num_queries, num_keys], bool)
    if causal:
        hidden |= columns > rows
    if startend_row_indices is not None:
        assert causal, "one column of bounds comes with causality"
        assert startend_row_indices.dtype == paddle.int32 and startend_row_indices.shape == [batch, 1, num_keys, 1]
        hidden |= rows >= startend_row_indices.numpy()[:, :, None, :, 0]
    key, value = (np.repeat(x, heads // kv_heads, axis=2) for x in (key, value))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(size)
    weights = np.exp(np.where(hidden, -np.inf, scores - scores.max(axis=-1, keepdims=True)))
    weights /= weights.sum(axis=-1, keepdims=True)
    return paddle.to_tensor(np.einsum("bhqk,bkhd->bqhd", weights, value).astype("float32"))


@pytest.fixture
def gpu(monkeypatch):
    """Flash attention in float32 on a CPU; gives the list of calls. The routes are those of a GPU."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return flashmask_stand_in(*args, **kwargs)

    monkeypatch.setattr(paddle.nn.functional.flash_attention, "flashmask_attention", counted)
    monkeypatch.setattr(
        attention_module, "flash_attention_serves", lambda *args: flash_attention_serves(*as_gpu(*args))
    )
    monkeypatch.setattr(module, "_device_has_it", lambda: True)
    return calls


class OnGPU:
    """The shape of a tensor as it would be on a GPU."""

    class place:
        is_gpu_place = staticmethod(lambda: True)

    def __init__(self, shape, dtype=paddle.float16):
        self.shape, self.dtype = shape, dtype


def as_gpu(query, key, *others):
    return OnGPU(query.shape), OnGPU(key.shape), *others


def draw(batch, num_queries, num_keys, kv_heads=2, group=2, size=8, seed=0):
    paddle.seed(seed)
    shapes = [batch, num_queries, kv_heads * group, size], *[[batch, num_keys, kv_heads, size]] * 2
    return [paddle.randn(shape) for shape in shapes]


def on_cpu(tensors, segments, causal=True):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "flash_attention_serves", lambda *args: False)
        return attention(*tensors, segments, causal).numpy()


# float32 on a CPU against float64: 4e-7 was the largest difference; 5x.
ATOL = 2e-6


@pytest.mark.parametrize(
    ("queries", "keys", "rows", "causal", "through_flash"),
    [
        (6, 6, None, True, True),
        (6, 6, None, False, True),  # the vision encoder
        (6, 6, [[1, 1, 2, 2, 2, 0], [0, 0, 1, 1, 1, 1]], True, True),
        (6, 6, [[1, 1, 2, 2, 2, 0], [0, 0, 1, 1, 1, 1]], False, False),  # bounds of one column come with causality
        (1, 6, None, True, True),
        (1, 6, [[0, 0, 1, 1, 1, 1], [1] * 6], True, False),
        (1, 1, [[1], [1]], True, False),
        (3, 6, None, True, False),  # onto a cache: the kernel's causality would begin at the first key
        (3, 6, [[0, 0, 1, 1, 1, 1], [1] * 6], True, False),
        (3, 6, None, False, False),
    ],
)
def test_whatever_the_route_the_values_are_the_references(gpu, queries, keys, rows, causal, through_flash):
    tensors = draw(2, queries, keys)
    segments = None if rows is None else Segments(paddle.to_tensor(rows))
    got = attention(*tensors, segments, causal)
    assert len(gpu) == through_flash
    np.testing.assert_allclose(got.numpy(), on_cpu(tensors, segments, causal), rtol=0, atol=ATOL)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=1, max_size=3), st.integers(0, 99))
def test_bounds_hide_what_segments_hide(rows, seed):
    """Of sorted rows, and of rows whose padding stands at the end."""
    rows = [sorted(row) if index % 2 else sorted(row, key=lambda x: x or 9) for index, row in enumerate(rows)]
    tensors, segments = draw(len(rows), 9, 9, seed=seed), Segments(paddle.to_tensor(rows, dtype="int64"))
    got = flashmask_stand_in(*tensors, startend_row_indices=segments.row_bounds, causal=True)
    np.testing.assert_allclose(got.numpy(), on_cpu(tensors, segments), rtol=0, atol=ATOL)


def test_bounds_are_made_once():
    segments = Segments(paddle.to_tensor([[1, 1, 2]]))
    assert segments.row_bounds is segments.row_bounds
    assert segments.row_bounds.flatten().tolist() == [2, 2, 3]


@pytest.mark.parametrize(
    ("dtype", "size", "serves"),
    [
        (paddle.float16, 128, True),
        (paddle.bfloat16, 64, True),
        (paddle.bfloat16, 256, True),
        (paddle.float32, 128, False),
        (paddle.float16, 12, False),
        (paddle.float16, 264, False),
    ],
)
def test_what_the_kernel_takes(monkeypatch, dtype, size, serves):
    monkeypatch.setattr(module, "_device_has_it", lambda: True)
    shape = [1, 5, 2, size]
    assert flash_attention_serves(OnGPU(shape, dtype), OnGPU(shape, dtype), None, True) is serves
    assert not flash_attention_serves(*[paddle.zeros(shape)] * 2, None, True)  # on a CPU


@pytest.mark.parametrize(
    ("capability", "flags", "has_it"),
    [
        ((8, 0), {"FLAGS_flash_attn_available": True}, True),
        ((9, 0), {}, True),  # a version without the flag
        ((8, 6), {"FLAGS_flash_attn_available": False}, False),
        ((7, 0), {"FLAGS_flash_attn_available": True}, False),
    ],
)
def test_devices_and_builds(monkeypatch, capability, flags, has_it):
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(paddle.framework, "_global_flags", lambda: flags)
    assert module._device_has_it.__wrapped__() is has_it


def test_chunks_of_a_gpu_are_sized_by_its_memory(monkeypatch):
    """4096 tokens and 32 heads: 16 chunks on a GPU of 32 GB, where those of a CPU's cache would be 128."""
    monkeypatch.setattr(attention_module, "_device_memory", lambda: 32 * 2**30)
    elements = 32 * 4096 * 4096
    assert elements // attention_module._chunk_elements(OnGPU.place) == 16
    assert elements // attention_module._chunk_elements(paddle.CPUPlace()) == 128


@pytest.mark.parametrize("padded", [False, True])
def test_decoding(gpu, monkeypatch, padded):
    """A prompt, a token, two, a token: only the prompt and single tokens without padding go through the kernel."""
    monkeypatch.setattr(cache_module, "flash_attention_serves", attention_module.flash_attention_serves)
    query, key, value = draw(2, 9, 9)
    rows = paddle.to_tensor([[0] * 2 + [1] * 7, [1] * 9])
    cache, got = KeyValueCache(), []
    for start, stop in ((0, 5), (5, 6), (6, 8), (8, 9)):
        segments = Segments(rows[:, :stop]) if padded else None
        got.append(cache.attend(0, *(x[:, start:stop] for x in (query, key, value)), segments))
    assert [call["causal"] for call in gpu] == ([True] if padded else [True, False, False])
    want = on_cpu((query, key, value), Segments(rows) if padded else None)
    np.testing.assert_allclose(paddle.concat(got, axis=1).numpy(), want, rtol=0, atol=ATOL)

"""Chunked attention against the plain formula, values and gradients."""

import itertools

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_xc2.models import attention as module
from paddle_xc2.models.attention import attention
from paddle_xc2.models.segments import Segments

# float32 on a CPU: largest difference over 300 drawn cases was 4.8e-7 in values, 5.4e-7 in gradients of up to 2.7; 5x.
ATOL = 2.5e-6


def plain_attention(query, key, value, segments=None, causal=True):
    """softmax(q k^T / sqrt(d)) v with every key and value head repeated and the whole matrix of scores in memory."""
    num_queries, num_keys, group = query.shape[1], key.shape[1], query.shape[2] // key.shape[2]
    query, key, value = (x.transpose([0, 2, 1, 3]) for x in (query, key, value))
    key, value = (paddle.repeat_interleave(x, group, axis=1) for x in (key, value))
    scores = paddle.matmul(query, key, transpose_y=True) / query.shape[-1] ** 0.5
    allowed = np.ones([1, num_queries, num_keys], bool)
    if causal:
        allowed = np.tril(allowed, k=num_keys - num_queries)
    if segments is not None:
        segments = segments.numpy()
        allowed = allowed & (segments[:, -num_queries:, None] == segments[:, None, :])
    scores = paddle.where(paddle.to_tensor(allowed).unsqueeze(1).expand_as(scores), scores, paddle.full([], -np.inf))
    return paddle.matmul(F.softmax(scores, axis=-1), value).transpose([0, 2, 1, 3])


def attend(query, key, value, segments=None, causal=True):
    """`attention` with segments as a tensor."""
    return attention(query, key, value, None if segments is None else Segments(segments), causal)


def draw(batch, num_queries, num_keys, kv_heads, group, head_dim, seed=0):
    paddle.seed(seed)
    shapes = ([batch, num_queries, kv_heads * group, head_dim], *[[batch, num_keys, kv_heads, head_dim]] * 2)
    tensors = [paddle.randn(shape) for shape in shapes]
    for tensor in tensors:
        tensor.stop_gradient = False
    return tensors


def values_and_gradients(function, tensors, *args):
    out = function(*tensors, *args)
    weight = paddle.cos(paddle.arange(out.size, dtype="float32")).reshape(out.shape)
    return [out, *paddle.grad((out * weight).sum(), tensors)]


def assert_same(tensors, *args):
    want = values_and_gradients(plain_attention, tensors, *args)
    got = values_and_gradients(attend, tensors, *args)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=ATOL)


@st.composite
def cases(draw):
    num_keys = draw(st.integers(1, 13))
    batch = draw(st.integers(1, 2))
    sizes = {
        "batch": batch,
        "num_queries": draw(st.integers(1, num_keys)),
        "num_keys": num_keys,
        "kv_heads": draw(st.integers(1, 2)),
        "group": draw(st.integers(1, 3)),
        "head_dim": draw(st.sampled_from([2, 5])),
        "seed": draw(st.integers(0, 1000)),
    }
    # Rows of samples one after the other, with padding (0) at either end.
    segments = draw(st.none() | st.lists(st.lists(st.integers(0, 3), min_size=num_keys, max_size=num_keys).map(sorted),
                                         min_size=batch, max_size=batch))  # fmt: skip
    if segments is not None and draw(st.booleans()):
        segments = [[x for x in row if x] + [0] * row.count(0) for row in segments]
    return sizes, segments, draw(st.booleans()), draw(st.sampled_from([1, 20, 2**21]))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_chunked_is_plain(case):
    sizes, segments, causal, chunk_elements = case
    tensors = draw(**sizes)
    segments = None if segments is None else paddle.to_tensor(segments, dtype="int64")
    before = module.CHUNK_ELEMENTS
    module.CHUNK_ELEMENTS = chunk_elements  # 1: a chunk is a single query
    try:
        assert_same(tensors, segments, causal)
    finally:
        module.CHUNK_ELEMENTS = before


def test_several_chunks_of_several_queries(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 2 * 4 * 37 * 5)  # 5 queries a chunk; the last one has 2
    segments = paddle.to_tensor([[0] * 7 + [1] * 30, [1] * 11 + [2] * 20 + [0] * 6])
    assert_same(draw(2, 37, 37, 2, 2, 8), segments)
    assert_same(draw(2, 37, 37, 2, 2, 8), None, False)


def test_a_short_causal_sequence_is_computed_in_parts_that_are_kept(monkeypatch):
    """Of the upper half, which is hidden, only what lies in a part is computed; and nothing twice."""
    scores, original = [], module._weight_chunks

    def counted(*args):
        for chunk in original(*args):
            scores.append(chunk[2].size)
            yield chunk

    monkeypatch.setattr(module, "CAUSAL_QUERIES", 10)
    monkeypatch.setattr(module, "_weight_chunks", counted)
    assert_same(draw(2, 37, 37, 2, 2, 8))
    assert sum(scores) == 2 * 4 * (10 * 10 + 10 * 20 + 10 * 30 + 7 * 37)


def test_no_score_matrix_is_kept(monkeypatch):
    """Between forward and backward only query, key and value are held: chunks are computed again."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 64)
    calls = []
    chunks = module._weight_chunks
    monkeypatch.setattr(module, "_weight_chunks", lambda *args: calls.append(1) or chunks(*args))
    tensors = draw(1, 16, 16, 1, 1, 4)
    out = attention(*tensors)
    assert len(calls) == 1
    out.sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("learning", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("segments", [None, [[1, 1, 1, 2, 2]]])
def test_only_what_learns_gets_a_gradient(learning, segments):
    """LoRA on the query and value projections of a first layer leaves the key without a gradient."""
    segments = None if segments is None else paddle.to_tensor(segments)
    want = values_and_gradients(plain_attention, draw(1, 5, 5, 2, 2, 4), segments)[1:]
    tensors = draw(1, 5, 5, 2, 2, 4)
    for tensor, learns in zip(tensors, learning, strict=True):
        tensor.stop_gradient = not learns
    out = attend(*tensors, segments)
    assert out.stop_gradient is not any(learning)
    if any(learning):
        (out * paddle.cos(paddle.arange(out.size, dtype="float32")).reshape(out.shape)).sum().backward()
    for tensor, learns, grad in zip(tensors, learning, want, strict=True):
        assert (tensor.grad is not None) == learns
        if learns:
            np.testing.assert_allclose(tensor.grad.numpy(), grad.numpy(), rtol=0, atol=ATOL)


def test_a_query_at_the_last_key():
    """One query after many keys, as in cached decoding: the same with and without a mask of ones."""
    query, key, value = draw(2, 1, 9, 2, 3, 4)
    with_mask = attend(query, key, value, paddle.ones([2, 9], "int64"))
    np.testing.assert_allclose(attention(query, key, value).numpy(), with_mask.numpy(), rtol=0, atol=ATOL)
    whole = attention(paddle.concat([paddle.zeros([2, 8, 6, 4]), query], axis=1), key, value)
    np.testing.assert_allclose(whole[:, -1:].numpy(), with_mask.numpy(), rtol=0, atol=ATOL)


def test_large_scores_stay_finite():
    query, key, value = draw(1, 6, 6, 1, 1, 4)
    out = attend(query * 1e4, key * 1e4, value, paddle.to_tensor([[0, 0, 1, 1, 1, 1]]))
    assert np.isfinite(out.numpy()).all()


@pytest.mark.gpu
@pytest.mark.skipif(not paddle.is_compiled_with_cuda(), reason="needs a GPU")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("segments", [None, [[0, 0] + [1] * 20 + [2] * 42]])
def test_flash_attention_is_the_reference(causal, segments, monkeypatch):
    if segments is not None and not causal:
        pytest.skip("segments come with causality only")
    segments = None if segments is None else paddle.to_tensor(segments)
    tensors = [tensor.astype("bfloat16").detach() for tensor in draw(1, 64, 64, 2, 2, 64)]
    for tensor in tensors:
        tensor.stop_gradient = False
    got = values_and_gradients(attend, tensors, segments, causal)
    monkeypatch.setattr(module, "flash_attention_serves", lambda *args: False)
    want = values_and_gradients(attend, tensors, segments, causal)
    for ours, theirs in zip(got, want, strict=True):  # bfloat16 keeps 8 bits: 2^-8 of values up to 4
        np.testing.assert_allclose(
            ours.astype("float32").numpy(), theirs.astype("float32").numpy(), rtol=0.02, atol=0.05
        )


def test_keys_of_earlier_samples_are_not_looked_at(monkeypatch):
    """In a row of packed samples, the cost of each stays its own."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 12 * 2)  # 2 queries a chunk
    query, key, _ = (tensor.transpose([0, 2, 1, 3]) for tensor in draw(1, 12, 12, 1, 1, 4))
    segments = paddle.to_tensor([[1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 0]])
    chunks = module._weight_chunks(query, key, Segments(segments), 1, True)
    assert [(seen.start, seen.stop) for _, seen, _ in chunks] == [(0, 2), (0, 4), (4, 6), (6, 8), (6, 10), (6, 12)]

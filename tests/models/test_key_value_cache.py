import numpy as np
import paddle
import pytest

from paddle_xc2.models import key_value_cache as module
from paddle_xc2.models.attention import attention
from paddle_xc2.models.key_value_cache import KeyValueCache
from paddle_xc2.models.segments import Segments
from tests.tiny import tiny_model

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 8
# float32 on a CPU: 2.4e-7 between one query over the whole memory and `attention`; 4x.
ATOL = 1e-6


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)


def drawn(batch, seq):
    """(query, key, value) of `seq` positions."""
    return tuple(paddle.randn([batch, seq, heads, HEAD_DIM]) for heads in (HEADS, KV_HEADS, KV_HEADS))


def joined(parts):
    return tuple(paddle.concat(list(tensors), axis=1) for tensors in zip(*parts, strict=True))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 1, 1, 1, 1, 1), (5, 3, 1, 4, 1), (4, 4, 1)])
@pytest.mark.parametrize("padded", [False, True])
def test_whatever_is_fed_at_once_the_whole_is_attention(sizes, padded):
    """Prompts, one token, several tokens onto a cache: over the borders of blocks."""
    segments = paddle.to_tensor([[0] * (2 if padded else 0) + [1] * (sum(sizes) - 2 * padded), [1] * sum(sizes)])
    cache, parts, got = KeyValueCache(), [], []
    for size in sizes:
        parts.append(drawn(2, size))
        seen = Segments(segments[:, : len(cache) + size]) if padded else None
        got.append(cache.attend(0, *parts[-1], seen))
    assert len(cache) == sum(sizes)
    want = attention(*joined(parts), Segments(segments) if padded else None)
    np.testing.assert_allclose(paddle.concat(got, axis=1).numpy(), want.numpy(), rtol=0, atol=ATOL)


def test_it_gives_what_it_was_given():
    cache, parts = KeyValueCache(), []
    for size in (3, 1, 1, 6):
        parts.append(drawn(2, size))
        cache.append(0, *parts[-1][1:])
    for got, want in zip(cache.keys_and_values(0), joined(parts)[1:], strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_a_token_is_written_into_the_room():
    """Once the room is there, nothing is copied for a token."""
    cache = KeyValueCache()
    cache.append(0, *drawn(1, 5)[1:])
    memory = cache._keys[0].data_ptr()
    for _ in range(3):
        cache.append(0, *drawn(1, 1)[1:])
        assert cache._keys[0].data_ptr() == memory
    cache.append(0, *drawn(1, 1)[1:])
    assert cache._keys[0].shape[2] == 12 and len(cache) == 9


def test_layers_have_their_own():
    cache, parts = KeyValueCache(), [drawn(1, 3), drawn(1, 3)]
    for layer, part in enumerate(parts):
        cache.attend(layer, *part)
    for layer, part in enumerate(parts):
        np.testing.assert_array_equal(cache.keys_and_values(layer)[1].numpy(), part[2].numpy())


def test_rows_are_selected():
    cache, first, second = KeyValueCache(), drawn(3, 2), drawn(3, 1)
    cache.append(0, *first[1:])
    cache.append(0, *second[1:])
    rows = [2, 0, 2, 1]
    cache.select_rows(paddle.to_tensor(rows))
    for got, want in zip(cache.keys_and_values(0), joined([first, second])[1:], strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy()[rows])


def test_positions_that_are_shared_stay():
    cache, prompt, step = KeyValueCache(), drawn(1, 5), drawn(3, 2)
    cache.append(0, *prompt[1:])
    cache.select_rows(paddle.to_tensor([0, 0, 0]))
    cache.append(0, *step[1:])
    memory = cache._keys[0].data_ptr()
    cache.select_rows(paddle.to_tensor([2, 2, 1]), shared=5)
    key = cache.keys_and_values(0)[0].numpy()
    np.testing.assert_array_equal(key[:, :5], prompt[1].numpy().repeat(3, axis=0))
    np.testing.assert_array_equal(key[:, 5:], step[1].numpy()[[2, 2, 1]])
    assert cache._keys[0].data_ptr() == memory


def test_it_keeps_no_gradients():
    cache, part = KeyValueCache(), drawn(1, 3)
    for tensor in part:
        tensor.stop_gradient = False
    out = cache.attend(0, *part)
    assert not out.stop_gradient and all(x.stop_gradient for x in cache.keys_and_values(0))


def test_a_model_fed_in_pieces_is_the_model():
    """Prefill in pieces onto a cache, over several layers, with padding on the left."""
    model = tiny_model()
    ids = paddle.randint(3, 400, [2, 11])
    mask = paddle.to_tensor([[0] * 3 + [1] * 8, [1] * 11])
    with paddle.no_grad():
        want = model(ids, attention_mask=mask).last_hidden_state.numpy()
        cache, got = None, []
        for start, stop in ((0, 5), (5, 6), (6, 10), (10, 11)):
            out = model(ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            got.append(out.last_hidden_state.numpy())
    got = np.concatenate(got, axis=1)
    np.testing.assert_allclose(got[0, 3:], want[0, 3:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(got[1], want[1], rtol=0, atol=1e-5)

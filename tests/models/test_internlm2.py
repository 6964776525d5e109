"""The decoder: hidden states against upstream, and what must hold without a reference."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_xc2.models.internlm2 import InternLM2Model, count_positions
from paddle_xc2.models.key_value_cache import KeyValueCache
from paddle_xc2.models.segments import Segments
from tests.tiny import tiny_config, tiny_model

# float32 on a CPU, 2 layers, hidden states of up to 4: 2.7e-6 between one batch layout and another; 4x.
ATOL = 1e-5


def test_hidden_states_are_upstreams(golden, golden_model):
    """Text through embedding, each layer and the final norm."""
    stages = []
    hook = golden_model.model.layers[0].register_forward_post_hook(lambda layer, inputs, out: stages.append(out))
    with paddle.no_grad():
        ids = paddle.to_tensor(golden.array("text.input_ids"))
        embeddings = golden_model.model.embed(ids)
        last = golden_model.model(embeddings)
    hook.remove()
    # float32 on a CPU: 0, 5.8e-6 and 5.7e-6, of values of up to 11; 4x.
    assert golden.difference(embeddings.numpy(), "text.hidden0") == 0.0
    assert golden.difference(stages[0].numpy(), "text.hidden1") < 2.5e-5
    assert golden.difference(last.numpy(), "text.last_hidden") < 2.5e-5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 3))
def test_positions_count_within_each_sample(lengths, left_padding, right_padding):
    mask = [0] * left_padding + [i for i, n in enumerate(lengths, 1) for _ in range(n)] + [0] * right_padding
    want = [*range(left_padding), *[i for n in lengths for i in range(n)], *range(right_padding)]
    assert count_positions(paddle.to_tensor([mask], dtype="int64"), len(mask)).tolist() == [want]


def test_positions_without_a_mask():
    assert count_positions(None, 4).tolist() == [[0, 1, 2, 3]]


@pytest.fixture(scope="module")
def decoder():
    return tiny_model().model


def hidden(decoder, embeddings, mask=None, *args, **kwargs):
    with paddle.no_grad():
        return decoder(embeddings, None if mask is None else Segments(mask), *args, **kwargs).numpy()


def test_cached_steps_are_the_full_forward(decoder):
    """A prompt with image tokens, then text: one token, three at once, one more."""
    embeddings = paddle.randn([2, 11, 64])
    image_mask = paddle.to_tensor([[False, True, True, True, False, False]] * 2)
    whole_mask = paddle.concat([image_mask, paddle.zeros([2, 5], "bool")], axis=1)
    want = hidden(decoder, embeddings, image_mask=whole_mask)
    cache, got = KeyValueCache(), []
    for start, stop in ((0, 6), (6, 7), (7, 10), (10, 11)):
        got.append(hidden(decoder, embeddings[:, start:stop], image_mask=None if start else image_mask, cache=cache))
        assert len(cache) == stop
    np.testing.assert_allclose(np.concatenate(got, axis=1), want, rtol=0, atol=ATOL)


def test_cached_steps_with_left_padding(decoder):
    lengths, width = [3, 6], 6
    prompts, steps = [paddle.randn([1, n, 64]) for n in lengths], paddle.randn([2, 4, 64])
    mask = paddle.to_tensor([[0] * (width - n) + [1] * n for n in lengths])
    padded = paddle.concat([paddle.concat([paddle.randn([1, width - x.shape[1], 64]), x], axis=1) for x in prompts])
    cache, got = KeyValueCache(), []
    got.append(hidden(decoder, padded, mask, cache=cache)[:, -1:])
    for step in range(4):
        mask = paddle.concat([mask, paddle.ones([2, 1], "int64")], axis=1)
        got.append(hidden(decoder, steps[:, step : step + 1], mask, cache=cache))
    for row, prompt in enumerate(prompts):
        alone = hidden(decoder, paddle.concat([prompt, steps[row : row + 1]], axis=1))[:, lengths[row] - 1 :]
        np.testing.assert_allclose(np.concatenate(got, axis=1)[row : row + 1], alone, rtol=0, atol=ATOL)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_padded_batch_is_its_samples_one_by_one(decoder, padding_side):
    lengths, width = [2, 7, 5], 9
    samples = [paddle.randn([1, n, 64]) for n in lengths]
    rows, mask = [], []
    for sample, n in zip(samples, lengths, strict=True):
        padding = paddle.randn([1, width - n, 64])
        rows.append(paddle.concat([padding, sample] if padding_side == "left" else [sample, padding], axis=1))
        mask.append([0] * (width - n) + [1] * n if padding_side == "left" else [1] * n + [0] * (width - n))
    got = hidden(decoder, paddle.concat(rows), paddle.to_tensor(mask))
    for row, (sample, n) in enumerate(zip(samples, lengths, strict=True)):
        place = slice(width - n, width) if padding_side == "left" else slice(0, n)
        np.testing.assert_allclose(got[row : row + 1, place], hidden(decoder, sample), rtol=0, atol=ATOL)


def test_packed_samples_are_those_one_by_one(decoder):
    lengths = [4, 1, 6]
    samples = [paddle.randn([1, n, 64]) for n in lengths]
    mask = [number for number, n in enumerate(lengths, 1) for _ in range(n)]
    got = hidden(decoder, paddle.concat(samples, axis=1), paddle.to_tensor([mask]))
    want = np.concatenate([hidden(decoder, sample) for sample in samples], axis=1)
    np.testing.assert_allclose(got, want, rtol=0, atol=ATOL)


def test_given_positions_are_used(decoder):
    embeddings = paddle.randn([1, 5, 64])
    plain = hidden(decoder, embeddings)
    np.testing.assert_array_equal(hidden(decoder, embeddings, None, paddle.arange(5).unsqueeze(0)), plain)
    assert np.abs(hidden(decoder, embeddings, None, paddle.to_tensor([[0, 2, 4, 6, 8]])) - plain).max() > 1e-3


def test_mask_of_another_width(decoder):
    cache = KeyValueCache()
    hidden(decoder, paddle.randn([1, 3, 64]), cache=cache)
    with pytest.raises(ValueError, match=r"attention_mask has 2 columns, but there are 5 tokens \(3 cached, 2 new\)"):
        hidden(decoder, paddle.randn([1, 2, 64]), paddle.ones([1, 2], "int64"), cache=cache)


def test_pad_row_is_read_but_not_trained():
    """`</s>` is the pad token: upstream gives its row and withholds the gradient (goldens/NOTES.md, quirk 11)."""
    decoder = tiny_model().model
    ids = paddle.to_tensor([[5, 2, 7]])
    embeddings = decoder.embed(ids)
    assert embeddings[0, 1].abs().sum() > 0
    embeddings.sum().backward()
    grad = decoder.tok_embeddings.weight.grad
    assert grad[5].sum() == 64 and grad[7].sum() == 64 and (grad[2] == 0).all()


def test_frozen_embeddings_need_no_detour():
    decoder = tiny_model().model
    decoder.tok_embeddings.weight.stop_gradient = True
    assert decoder.embed(paddle.to_tensor([[5, 2]])).stop_gradient


def gradients(decoder, embeddings, attention_mask, image_mask):
    decoder.clear_gradients()
    paddle.seed(7)
    (decoder(embeddings, Segments(attention_mask), image_mask=image_mask) ** 2).sum().backward()
    return {
        name: parameter.grad.numpy() for name, parameter in decoder.named_parameters() if parameter.grad is not None
    }


def test_recompute_gives_the_same_gradients():
    """Bit for bit, dropout of PLoRA included."""
    decoder = InternLM2Model(tiny_config(num_hidden_layers=3, plora_dropout=0.3))
    decoder.train()
    embeddings = paddle.randn([2, 9, 64])
    embeddings.stop_gradient = False
    attention_mask = paddle.to_tensor([[1] * 5 + [2] * 4, [1] * 7 + [0] * 2])
    image_mask = paddle.to_tensor([[False, True, True, False, False, True, True, False, False]] * 2)
    plain = gradients(decoder, embeddings, attention_mask, image_mask)
    decoder.config.use_recompute = True
    calls = []
    decoder.layers[1].register_forward_post_hook(lambda layer, inputs, out: calls.append(1))
    again = gradients(decoder, embeddings, attention_mask, image_mask)
    assert len(calls) == 2  # once forward, once more for the backward pass
    assert plain.keys() == again.keys()
    for name in plain:
        np.testing.assert_array_equal(again[name], plain[name], err_msg=name)

"""Qwen's decoder: as upstream's where the reference material is, and what must hold without it."""

import numpy as np
import paddle
import pytest

from paddle_xc2.models.key_value_cache import KeyValueCache
from paddle_xc2.models.qwen import QwenModel, ntk_steps
from paddle_xc2.models.segments import Segments
from tests.tiny import tiny_qwen_config

# float32 on a CPU: the largest difference over the tests below was 7.2e-6; margin 4x covers other CPUs.
ATOL = 3e-5
SEQ_LENGTH = 16


def decoder(**changes):
    paddle.seed(0)
    model = QwenModel(tiny_qwen_config(seq_length=SEQ_LENGTH, **changes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    model.eval()
    return model


@pytest.fixture(scope="module")
def model():
    return decoder()


def ids(length, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).integers(0, 256, [1, length]))


@paddle.no_grad()
def run(model, input_ids, **others):
    return model(model.embed(input_ids), **others).numpy()


def packed(lengths):
    numbers = np.concatenate([np.full(length, number) for number, length in enumerate(lengths, 1)])
    return Segments(paddle.to_tensor(numbers[None]))


def test_alpha_is_upstreams():
    """`get_ntk_alpha` of upstream's code at seq_length 192: alpha = 2 ** (step + 1) - 1."""
    upstream = {191: 1, 192: 1, 193: 3, 384: 3, 385: 7, 769: 15}
    steps = ntk_steps(paddle.to_tensor(list(upstream)), 769, 192)
    assert [2 ** (step + 1) - 1 for step in steps.tolist()] == list(upstream.values())


@pytest.mark.parametrize("length", [10, SEQ_LENGTH, 40])
def test_packed_and_padded_samples_are_as_alone(model, length):
    """Also beyond seq_length, where upstream goes by the index in the row."""
    first, second = ids(length), ids(7, seed=1)
    want = np.concatenate([run(model, first), run(model, second)], axis=1)
    got = run(model, paddle.concat([first, second], axis=1), segments=packed([length, 7]))
    np.testing.assert_allclose(got, want, rtol=0, atol=ATOL)
    padding = paddle.zeros([1, 9], "int64")
    mask = paddle.to_tensor([[0] * 9 + [1] * length])
    got = run(model, paddle.concat([padding, first], axis=1), segments=Segments(mask))
    np.testing.assert_allclose(got[:, 9:], want[:, :length], rtol=0, atol=ATOL)


@pytest.mark.parametrize("prompt", [5, SEQ_LENGTH + 4])
def test_cached_tokens_go_by_the_base_of_the_prompt(model, prompt):
    text = ids(SEQ_LENGTH + 8)
    cache = KeyValueCache()
    got = [run(model, text[:, :prompt], cache=cache)]
    got += [run(model, text[:, i : i + 1], cache=cache) for i in range(prompt, text.shape[1])]
    whole = run(model, text)
    differs = np.abs(np.concatenate(got, axis=1) - whole).max(axis=(0, 2))
    if prompt > SEQ_LENGTH:
        assert differs.max() < ATOL
    else:  # as upstream's: the keys of the prompt are rotated by the base of a short text
        assert differs[: SEQ_LENGTH - 1].max() > 1e-3  # `whole` is a long text from its first token on
        short = decoder(use_dynamic_ntk=False)
        np.testing.assert_allclose(np.concatenate(got, axis=1), run(short, text), rtol=0, atol=ATOL)


def test_rows_of_a_batch_keep_their_own_base(model):
    long, short = ids(SEQ_LENGTH + 4), ids(6, seed=1)
    width = long.shape[1]
    batch = paddle.concat([long, paddle.concat([paddle.zeros([1, width - 6], "int64"), short], axis=1)])
    mask = paddle.to_tensor([[1] * width, [0] * (width - 6) + [1] * 6])
    cache = KeyValueCache()
    run(model, batch, segments=Segments(mask), cache=cache)
    assert cache.rope_steps.tolist() == [[1], [0]]
    cache.select_rows(paddle.to_tensor([1, 0]))
    mask = paddle.to_tensor([[0] * (width - 6) + [1] * 7, [1] * (width + 1)])
    next_ids = paddle.to_tensor([[5], [5]])
    positions = paddle.to_tensor([[6], [width]])
    got = run(model, next_ids, segments=Segments(mask), cache=cache, position_ids=positions)
    for row, text in enumerate((short, long)):
        alone = KeyValueCache()
        run(model, text, cache=alone)
        np.testing.assert_allclose(got[row], run(model, next_ids[:1], cache=alone)[0], rtol=0, atol=ATOL)


def test_training_knows_no_length(model):
    """Neither dynamic NTK nor log-n scaling, and nothing of an evaluation before it."""
    text, plain = ids(40), decoder(use_dynamic_ntk=False, use_logn_attn=False)
    before = run(model, text)
    model.train()
    try:
        np.testing.assert_array_equal(run(model, text), run(plain, text))
    finally:
        model.eval()
    np.testing.assert_array_equal(run(model, text), before)
    assert np.abs(before - run(plain, text)).max() > 1e-2


def test_each_of_the_two_acts_alone():
    text, results = ids(40), {}
    for ntk in (True, False):
        for logn in (True, False):
            results[ntk, logn] = run(decoder(use_dynamic_ntk=ntk, use_logn_attn=logn), text)
    assert np.abs(results[True, False] - results[False, False]).max() > 1e-2
    logn = np.abs(results[False, True] - results[False, False]).max(axis=(0, 2))
    assert logn[:SEQ_LENGTH].max() == 0 and logn[SEQ_LENGTH:].min() > 0


def test_recompute_gives_the_same_gradients():
    def gradients(recompute):
        model = decoder()
        model.config.use_recompute = recompute
        model.train()
        model(model.embed(ids(12)), segments=packed([5, 7])).square().sum().backward()
        return [parameter.grad.numpy() for parameter in model.parameters()]

    for kept, again in zip(gradients(False), gradients(True), strict=True):
        np.testing.assert_array_equal(kept, again)


def test_a_mask_of_another_length(model):
    with pytest.raises(ValueError, match=r"attention_mask has 4 columns, but there are 5 tokens \(0 cached, 5 new\)"):
        run(model, ids(5), segments=packed([4]))

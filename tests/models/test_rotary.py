"""The rotary embedding: tables against upstream, rotation against the formula."""

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_xc2.models.rotary import RotaryTables, apply_rotary, rotary_tables, split_rotated
from tests.golden import rope_tables
from tests.tiny import tiny_config, tiny_model

SCALINGS = {
    "plain": None,
    "lin4": {"type": "linear", "factor": 4.0},
    "ntk1": {"type": "dynamic", "factor": 1.0},
    "ntk2": {"type": "dynamic", "factor": 2.0},
}


def rope_config(scaling):
    """The configuration that the golden tables belong to: head_dim 12, max_position_embeddings 32, base 1e6."""
    return tiny_config(
        hidden_size=48, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32, rope_theta=1000000.0,
        rope_scaling=SCALINGS[scaling],
    )  # fmt: skip


def assert_rope(tables):
    """Every row of every table but `len97_then_20`: what upstream keeps of a longer sequence, and ours doesn't."""
    compared = 0
    for name, want in tables.items():
        _, family, scaling, length, part = name.split(".")
        if family != "xc2" or "_then_" in length:
            continue
        num_keys = int(length.removeprefix("len"))
        got = rotary_tables(rope_config(scaling), paddle.arange(num_keys).unsqueeze(0), num_keys)[part == "sin"]
        assert got.shape == [1, num_keys, 1, 12] and got.dtype == paddle.float32
        # float32 on a CPU: 9.5e-7 measured; a float32 step of an angle of 96 is 7.6e-6.
        np.testing.assert_allclose(got.numpy()[0, :, 0], want, rtol=0, atol=1e-5, err_msg=name)
        compared += 1
    return compared


def test_rotary_tables_are_upstreams():
    assert assert_rope(rope_tables()) == 8


def test_all_rotary_tables_are_upstreams(shared):
    assert assert_rope(load_file(shared / "goldens" / "rope" / "golden.safetensors")) == 32


def test_dynamic_scaling_keeps_nothing_of_a_longer_sequence():
    """Upstream goes on with the table of the longest sequence it ever saw (goldens/NOTES.md, quirk 10)."""
    model = tiny_model(max_position_embeddings=16, rope_scaling=SCALINGS["ntk2"])
    short, long = paddle.randint(3, 300, [1, 12]), paddle.randint(3, 300, [1, 40])
    with paddle.no_grad():
        before = model(short).logits
        after_long = (model(long), model(short).logits)[1]
    np.testing.assert_array_equal(before.numpy(), after_long.numpy())


def test_rotation_depends_on_distance_alone():
    config = tiny_config()
    query, key = paddle.randn([1, 1, 1, 16]), paddle.randn([1, 1, 1, 16])

    def score(query_position, key_position):
        rotated = [
            apply_rotary(x, *rotary_tables(config, paddle.to_tensor([[position]]), 100))
            for x, position in ((query, query_position), (key, key_position))
        ]
        return float((rotated[0] * rotated[1]).sum())

    assert abs(score(7, 3) - score(54, 50)) < 1e-5  # 1.4e-6 measured, of scores up to 10
    assert abs(score(7, 3) - score(7, 4)) > 1e-2


def test_rotation_and_its_gradient_are_those_of_the_formula():
    cos, sin = rotary_tables(tiny_config(), paddle.arange(5).unsqueeze(0), 5)
    values, weight = paddle.randn([2, 5, 3, 16]), paddle.randn([2, 5, 3, 16])

    def gradient(rotate):
        x = values.clone()
        x.stop_gradient = False
        out = rotate(x)
        (out * weight).sum().backward()
        return out.numpy(), x.grad.numpy()

    def formula(x):
        first, second = x.chunk(2, axis=-1)
        return x * cos + paddle.concat([-second, first], axis=-1) * sin

    for got, want in zip(gradient(lambda x: apply_rotary(x, cos, sin)), gradient(formula), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)  # 2.4e-7 measured


@pytest.mark.parametrize("seq", [1, 5, 300])
@pytest.mark.parametrize("rows", [1, 2])
def test_splitting_and_rotating_at_once_is_what_it_is_one_by_one(seq, rows):
    """And its gradient; for positions that are the same in all rows of the batch, and for others."""
    group, positions = 2, paddle.randint(0, 50, [rows, seq])
    cos, sin = rotary_tables(tiny_config(), positions, 50)
    values = paddle.randn([2, seq, 3, group + 2, 16])

    def one_by_one(qkv):
        query = apply_rotary(qkv[:, :, :, :group].reshape([2, seq, 3 * group, 16]), cos, sin)
        return query, apply_rotary(qkv[:, :, :, group], cos, sin), qkv[:, :, :, group + 1]

    def outcome(split):
        qkv = values.clone().detach()
        qkv.stop_gradient = False
        parts = split(qkv)
        sum((part * part * (index + 1)).sum() for index, part in enumerate(parts)).backward()
        return *parts, qkv.grad

    wanted = outcome(one_by_one)
    for got, want in zip(outcome(lambda qkv: split_rotated(qkv, RotaryTables(cos, sin, group))), wanted, strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=0, atol=1e-5)  # 1.9e-6 measured, up to 25
    with paddle.no_grad():
        for got, want in zip(split_rotated(values, RotaryTables(cos, sin, group)), wanted, strict=False):
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=0, atol=1e-5)

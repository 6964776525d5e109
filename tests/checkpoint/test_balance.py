from pathlib import Path

import numpy as np
import pytest

from paddle_xc2.checkpoint.balance import balance
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.checkpoint.xcomposer2_names import XCOMPOSER2_NAMES as NAMES

WHERE = Path("ckpt")
SHAPES = {"output.weight": [4, 6], "model.norm.weight": [4], "model.layers.0.attention.wo.linear.weight": [4, 4]}
HF = {"output.weight": (6, 4), "model.norm.weight": (4,), "model.layers.0.attention.wo.weight": (4, 4)}
WO = "model.layers.0.attention.wo.weight"


def held(shapes, dtype="float32"):
    return {
        name: LazyTensor(dtype, shape, lambda shape=shape: np.random.randn(*shape)) for name, shape in shapes.items()
    }


def test_fits():
    found = balance(held(HF), NAMES, "hf", SHAPES, WHERE)
    assert {name: list(tensor.shape) for name, tensor in found.parameters.items()} == SHAPES
    assert found.dropped == {}


def test_square_matrices_are_transposed_too():
    values = np.arange(16.0).reshape(4, 4)
    tensors = held(HF) | {WO: LazyTensor("float64", (4, 4), lambda: values)}
    found = balance(tensors, NAMES, "hf", SHAPES, WHERE).parameters["model.layers.0.attention.wo.linear.weight"]
    np.testing.assert_array_equal(found.read(), values.T)


def test_our_layout_is_taken_as_it_is():
    tensors = held({name: tuple(shape) for name, shape in SHAPES.items()})
    assert balance(tensors, NAMES, "paddle", SHAPES, WHERE).parameters == tensors


def test_paddlemix_has_upstreams_names_and_our_shapes():
    tensors = held({WO: (4, 4), "output.weight": (4, 6), "model.norm.weight": (4,)})
    ln_post = "vit.vision_tower.vision_model.ln_post.weight"
    found = balance(tensors | held({ln_post: (2,)}), NAMES, "paddlemix", SHAPES, WHERE)
    assert found.parameters["model.layers.0.attention.wo.linear.weight"] is tensors[WO]
    assert found.dropped[ln_post].startswith("never influences an output")
    del tensors[WO]
    assert complaint(tensors, "paddlemix") == f"1 tensors that the model needs are missing: {WO}"


def test_dropped_with_a_reason():
    inv_freq = "model.layers.0.attention.rotary_emb.inv_freq"
    found = balance(held(HF) | held({inv_freq: (2,)}), NAMES, "hf", SHAPES, WHERE)
    assert found.dropped == {inv_freq: "recomputed from rope_theta"}
    with pytest.raises(ValueError, match=inv_freq):  # our own checkpoints have no such thing
        balance(
            held({name: tuple(shape) for name, shape in SHAPES.items()} | {inv_freq: (2,)}),
            NAMES,
            "paddle",
            SHAPES,
            WHERE,
        )


def complaint(tensors, layout="hf"):
    with pytest.raises(ValueError) as caught:
        balance(tensors, NAMES, layout, SHAPES, WHERE)
    start = "ckpt: the weights don't fit the model of its config.json: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


def test_a_renamed_tensor():
    tensors = held(HF)
    tensors["model.layers.0.attention.wo_weight"] = tensors.pop(WO)
    assert complaint(tensors) == (
        "1 tensors that the model has no parameter for: model.layers.0.attention.wo_weight; "
        f"1 tensors that the model needs are missing: {WO}; "
        f"is model.layers.0.attention.wo_weight meant to be {WO}?"
    )


def test_a_layer_too_many():
    """A name of the table, but not of this model."""
    assert complaint(held(HF) | held({"model.layers.7.ffn_norm.weight": (4,)})) == (
        "1 tensors that the model has no parameter for: model.layers.7.ffn_norm.weight"
    )


def test_many_missing_are_counted():
    shapes = {f"model.layers.{layer}.ffn_norm.weight": [4] for layer in range(9)}
    with pytest.raises(ValueError, match="9 tensors that the model needs are missing: .*4.ffn_norm.weight and 4 more$"):
        balance({}, NAMES, "hf", shapes, WHERE)


def test_shapes():
    transposed = held(HF | {"output.weight": (4, 6)})
    assert complaint(transposed) == (
        "output.weight: checkpoint shape [4, 6], model expects [6, 4] "
        "(transposed: set transpose in the family's table of names, or take a file of the right layout)"
    )
    assert complaint(held(HF | {"model.norm.weight": (5,)})) == (
        "model.norm.weight: checkpoint shape [5], model expects [4] (config.json, or the shard, is of another model)"
    )


def test_dtypes():
    tensors = held(HF) | held({"model.norm.weight": (4,)}, "int64")
    expected = "model.norm.weight: checkpoint dtype int64, expected one of float64, float32, float16, bfloat16"
    assert complaint(tensors) == expected


def test_everything_at_once():
    message = complaint(held({"x": (1,), "output.weight": (1, 1)}))
    assert "for: x;" in message and "2 tensors that the model needs" in message and "shape [1, 1]" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.norm.weight": (0,)}, r"1 tensors are empty \(shape \[0\]\), first model.norm.weight: .*zero_to_"),
        ({"model.layers.0.attention.wo.qweight": (8, 64)}, r"the weights are quantized \(GPTQ or AWQ\), which"),
        ({"output.weight.absmax": (9,)}, r"the weights are quantized \(bitsandbytes, 4 bits\), which can't be read"),
    ],
)  # fmt: skip
def test_weights_that_are_no_numbers_of_the_model_are_named(changes, message):
    shapes = {"model.norm.weight": [64], "output.weight": [64, 400]}
    tensors = {"model.norm.weight": (64,), **changes}
    lazy = {name: LazyTensor("float32", shape, lambda: None) for name, shape in tensors.items()}
    with pytest.raises(ValueError, match=message) as caught:
        balance(lazy, NAMES, "hf", shapes, Path("here"))
    assert "missing" not in str(caught.value)  # it would only hide what is the matter

"""Loading in four bits: which layers, their values, what it computes, and saving it again."""

import numpy as np
import paddle
import pytest

from paddle_xc2 import XComposer2ForCausalLM
from paddle_xc2.checkpoint.safetensors_file import read_safetensors
from paddle_xc2.checkpoint.shard_writer import write_shards
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.checkpoint.xcomposer2_names import XCOMPOSER2_NAMES
from paddle_xc2.model import load_model
from paddle_xc2.models.lora import LoRALinear, is_lora, layer_at, merge_lora, replace_layer
from paddle_xc2.models.nf4 import NF4Linear
from paddle_xc2.weights import quantize as quantized
from paddle_xc2.weights.convert import convert
from tests.tiny import tiny_checkpoint

LINEARS = {"attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("quantized") / "original")


@pytest.fixture(scope="module")
def dense(original):
    return load_model(original)


@pytest.fixture(scope="module")
def model(original):
    return load_model(original, quantize="nf4")


def dequantized_by_hand(dense):
    """The dense model's linear layers quantized and dequantized one by one."""
    values = {}
    for name, layer in quantized.quantizable_layers(dense).items():
        nf4 = NF4Linear(*layer.weight.shape)
        nf4.quantize([layer.weight])
        values[name] = nf4.dequantize().numpy()
    return values


def test_the_decoders_linear_layers_alone(dense, model):
    found = {name for name, layer in model.named_sublayers() if isinstance(layer, NF4Linear)}
    assert found == {f"model.layers.{layer}.{name}.linear" for layer in range(2) for name in LINEARS}
    kept = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    assert kept.keys() == {name for name, _ in dense.named_parameters()} - {f"{name}.weight" for name in found}
    for name, parameter in dense.named_parameters():
        if name in kept:
            np.testing.assert_array_equal(kept[name], parameter.numpy(), err_msg=name)
    assert (model.provenance.quantization, dense.provenance.quantization) == ("nf4", None)


@pytest.mark.parametrize("layout", ["hf", "paddle"])
def test_values(original, dense, layout, tmp_path, monkeypatch):
    """However the checkpoint lies on the disk, and however small the pieces are that it is read in."""
    if layout == "paddle":
        convert(original, tmp_path / "paddle")
    monkeypatch.setattr(quantized, "BLOCK_BYTES", 1)
    model = load_model(tmp_path / "paddle" if layout == "paddle" else original, quantize="nf4")
    layers = quantized.quantizable_layers(model)
    for name, expected in dequantized_by_hand(dense).items():
        np.testing.assert_array_equal(layers[name].dequantize().numpy(), expected, err_msg=name)


def test_it_computes_and_saves_the_dequantized_weights(model, tmp_path):
    model.save_pretrained(tmp_path / "dense")
    dense = XComposer2ForCausalLM.from_pretrained(tmp_path / "dense")
    input_ids, mask = paddle.randint(3, 100, [1, 9]), paddle.to_tensor([[False] * 2 + [True] * 4 + [False] * 3])
    pixels = [paddle.randn([3, 28, 28])]
    with paddle.no_grad():
        batch = {"input_ids": input_ids, "image_mask": mask, "pixel_values": pixels}
        np.testing.assert_array_equal(model(**batch).logits.numpy(), dense(**batch).logits.numpy())
    assert "quant" not in (tmp_path / "dense" / "config.json").read_text()


def test_quantized_from_the_checkpoint_not_from_the_precision_of_the_run(original, model):
    half = load_model(original, dtype="bfloat16", quantize="nf4")
    for one, other in zip(half.buffers(), model.buffers(), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_unknown_format(original):
    with pytest.raises(ValueError, match='quantize "int3" is not one of nf4'):
        load_model(original, quantize="int3")


def with_lora(model, seed):
    """Wraps every linear layer of the decoder; the updates are random and depend on the seed alone."""
    paddle.seed(seed)
    for name in quantized.quantizable_layers(model):
        path = name.removesuffix(".weight")
        layer = LoRALinear(layer_at(model, path), rank=4, scaling=0.5)
        layer.lora_b.set_value(paddle.randn(layer.lora_b.shape) * 0.1)
        replace_layer(model, path, layer)
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = not is_lora(name)
    return model


@pytest.mark.parametrize("recompute", [False, True])
def test_qlora_has_the_gradients_of_lora_on_the_dequantized_weights(original, model, tmp_path, recompute):
    """To the bit, for every matrix, with image and text tokens; and so are the merged weights."""
    model.save_pretrained(tmp_path / "dense")
    input_ids = paddle.randint(3, 100, [1, 9])
    batch = {
        "input_ids": input_ids,
        "image_mask": paddle.to_tensor([[False] * 2 + [True] * 4 + [False] * 3]),
        "pixel_values": [paddle.randn([3, 28, 28])],
        "labels": input_ids,
    }
    gradients, merged = [], []
    for path, quantize in ((original, "nf4"), (tmp_path / "dense", None)):
        trained = with_lora(load_model(path, quantize=quantize), seed=5)
        if recompute:
            trained.recompute_enable()
        trained.train()
        paddle.seed(1)
        trained(**batch).loss.backward()
        gradients.append({name: p.grad.numpy() for name, p in trained.named_parameters() if is_lora(name)})
        merge_lora(trained)
        merged.append({name: p.numpy() for name, p in trained.named_parameters()})
    for found in (gradients, merged):
        assert found[0].keys() == found[1].keys()
        for name, value in found[0].items():
            assert np.abs(value).max() > 0, name
            np.testing.assert_array_equal(value, found[1][name], err_msg=name)


@pytest.mark.parametrize("layout", ["hf", "paddle"])
def test_a_checkpoint_as_its_quantized_layers_compute(original, model, layout, tmp_path):
    """The same layers, and the same values, without a model."""
    directory = original
    if layout == "paddle":
        directory = tmp_path / "paddle"
        convert(original, directory)
    tensors = read_checkpoint(directory)
    changed = quantized.as_quantized(tensors)
    assert changed.keys() == tensors.keys()
    expected = quantized.dequantized_tensors(model, "float32")
    for name, tensor in tensors.items():
        target, transpose = XCOMPOSER2_NAMES.to_paddle(name, layout)
        wanted = expected[target].read() if target in expected else None
        if wanted is None:
            assert changed[name] is tensor
        else:
            np.testing.assert_array_equal(changed[name].read(), wanted.T if transpose else wanted, err_msg=name)


def test_what_quantizing_makes_of_a_file_is_what_is_written(original, tmp_path):
    """Not the values that the file holds, which a writer could read ahead."""
    name = "model.layers.0.attention.wqkv.weight"
    before = read_checkpoint(original)
    after = quantized.as_quantized(before)
    write_shards(tmp_path, {name: after[name].transposed()}, "pd")
    written = read_safetensors(tmp_path / "model.safetensors")[name].read()
    np.testing.assert_array_equal(written, after[name].read().T)
    assert (written != before[name].read().T).any()

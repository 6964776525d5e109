"""LoRA on top of PLoRA: the layer against its equations, and what wrapping leaves alone."""

import math

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddle_xc2.models.lora import (
    LoRALinear,
    checkpoint_name,
    is_lora,
    lora_layers,
    lora_scaling,
    merge_lora,
    named_parameters,
    remove_lora,
    replace_layer,
)
from paddle_xc2.models.nf4 import NF4Linear
from paddle_xc2.models.plora import ImageTokens
from tests.tiny import TINY_VOCAB_SIZE, tiny_model

TARGETS = ("attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")


def random_layer(dora=False, dropout=0.0, bias=False):
    """A LoRALinear [6 -> 10] of rank 4 whose B, and magnitude, are not what a new one has."""
    base = nn.Linear(6, 10, bias_attr=None if bias else False)
    if bias:
        base.bias.set_value(paddle.randn([10]))
    layer = LoRALinear(base, 4, 0.5, dropout, dora)
    layer.lora_b.set_value(paddle.randn([4, 10]))
    if dora:
        layer.magnitude.set_value(layer.magnitude * (1 + 0.3 * paddle.rand([10])))
    return layer


def wrap(model, **settings):
    """Wraps the five targets of every decoder layer, as upstream's script does."""
    for index in range(model.config.num_hidden_layers):
        for target in TARGETS:
            path = f"model.layers.{index}.{target}.linear"
            owner = model.model.layers[index]
            for part in target.split("."):
                owner = getattr(owner, part)
            replace_layer(model, path, LoRALinear(owner.linear, 4, 2.0, **settings))
    model.eval()
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_low_rank_update(bias):
    layer, x = random_layer(bias=bias), paddle.randn([2, 3, 6])
    want = layer.base(x) + x @ layer.lora_a @ layer.lora_b * 0.5
    np.testing.assert_allclose(layer(x).numpy(), want.numpy(), atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_dora_brings_every_output_to_its_norm(bias):
    layer, x = random_layer(dora=True, bias=bias), paddle.randn([2, 3, 6])
    direction = layer.base.weight + layer.lora_a @ layer.lora_b * 0.5
    weight = direction / direction.square().sum(0).sqrt() * layer.magnitude
    want = x @ weight + (layer.base.bias if bias else 0.0)
    np.testing.assert_allclose(layer(x).numpy(), want.numpy(), atol=2e-6)
    np.testing.assert_allclose(layer.weight.numpy(), weight.numpy(), atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_dropout_of_dora(bias):
    """What enters the update is dropped: in training also of the part of the base's product that the norm changes."""
    layer, x = random_layer(dora=True, dropout=0.4, bias=bias), paddle.randn([2, 3, 6])
    factor = layer.magnitude / (layer.base.weight + layer.lora_a @ layer.lora_b * 0.5).square().sum(0).sqrt()

    def expected(dropped):
        change = dropped @ layer.base.weight * (factor - 1.0) + dropped @ layer.lora_a @ layer.lora_b * 0.5 * factor
        return (layer.base(x) + change).numpy()

    layer.train()
    paddle.seed(1)
    got = layer(x).numpy()
    paddle.seed(1)
    dropped = layer.dropout(x)
    assert (dropped.numpy() == 0).any()
    np.testing.assert_allclose(got, expected(dropped), atol=5e-6)
    layer.eval()
    np.testing.assert_allclose(layer(x).numpy(), expected(x), atol=5e-6)


def test_gradient_of_dora_takes_the_norm_as_a_constant():
    layer, x = random_layer(dora=True), paddle.randn([5, 6])
    norm = (layer.base.weight + layer.lora_a @ layer.lora_b * 0.5).square().sum(0).sqrt().detach()
    target = paddle.randn([5, 10])
    (layer(x) * target).sum().backward()
    got = [parameter.grad.numpy() for parameter in (layer.lora_a, layer.lora_b, layer.magnitude)]
    for parameter in layer.parameters():
        parameter.clear_gradient()
    weight = (layer.base.weight.detach() + layer.lora_a @ layer.lora_b * 0.5) / norm * layer.magnitude
    ((x @ weight) * target).sum().backward()
    for have, parameter in zip(got, (layer.lora_a, layer.lora_b, layer.magnitude), strict=True):
        np.testing.assert_allclose(have, parameter.grad.numpy(), atol=2e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_weight_and_merged_weight_are_what_the_layer_computes_with(dora):
    layer, x = random_layer(dora), paddle.randn([3, 6])
    np.testing.assert_allclose((x @ layer.weight).numpy(), layer(x).numpy(), atol=2e-6)
    np.testing.assert_allclose(layer.merged_weight().numpy(), layer.weight.numpy(), atol=1e-6)
    change = np.linalg.norm(layer.weight.numpy() - layer.base.weight.numpy())
    assert layer.change_norm() == pytest.approx(change, rel=1e-5)


def test_a_new_layer_starts_as_pefts():
    paddle.seed(0)
    layer = LoRALinear(nn.Linear(400, 30), 8, 1.0)
    a = layer.lora_a.numpy()
    assert np.abs(a).max() <= 1 / math.sqrt(400) and a.std() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.05)
    assert not layer.lora_b.numpy().any() and layer.change_norm() == 0.0
    assert lora_scaling(64, 16, rslora=False) == 4.0 and lora_scaling(64, 16, rslora=True) == 16.0


def test_dropout_acts_on_the_update_only():
    layer, x = random_layer(dropout=0.5), paddle.ones([1, 6])
    layer.train()
    outputs = {tuple(layer(x).numpy().ravel().tolist()) for _ in range(20)}
    assert len(outputs) > 5
    layer.lora_b.set_value(paddle.zeros([4, 10]))
    np.testing.assert_array_equal(layer(x).numpy(), layer.base(x).numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x).numpy(), layer.base(x).numpy())


def inputs():
    """ids [1, 12], the first 4 an image of noise."""
    random = np.random.default_rng(0)
    ids = paddle.to_tensor(random.integers(3, TINY_VOCAB_SIZE, [1, 12]))
    mask = paddle.to_tensor(np.arange(12)[None] < 4)
    pixels = [paddle.to_tensor(random.standard_normal([3, 28, 28]).astype("float32"))]
    return {"input_ids": ids, "image_mask": mask, "pixel_values": pixels}


def text():
    return {"input_ids": inputs()["input_ids"][:, 4:]}


@pytest.mark.parametrize("dora", [False, True])
def test_zero_b_changes_no_bit_of_image_and_text_logits(dora):
    model = tiny_model()
    with paddle.no_grad():
        before = [model(**batch).logits.numpy() for batch in (inputs(), text())]
        wrap(model, dora=dora)
        after = [model(**batch).logits.numpy() for batch in (inputs(), text())]
    assert len(lora_layers(model)) == 10
    for was, is_now in zip(before, after, strict=True):
        np.testing.assert_array_equal(is_now, was)


def test_plora_stays_and_images_still_matter():
    plain, model = tiny_model(), wrap(tiny_model())
    assert set(plain.state_dict()) <= {checkpoint_name(name) for name in model.state_dict()}
    kept = named_parameters(model)
    for name, parameter in plain.named_parameters():
        np.testing.assert_array_equal(kept[name].numpy(), parameter.numpy())
    assert sum("plora_" in name for name in model.state_dict()) == 20
    assert {name.rpartition(".")[2] for name in kept if is_lora(name)} == {"lora_a", "lora_b"}
    for layer in lora_layers(model).values():
        layer.lora_b.set_value(0.1 * paddle.randn(layer.lora_b.shape))
    wqkv = model.model.layers[0].attention.wqkv
    x, images = paddle.randn([1, 2, 64]), ImageTokens(paddle.to_tensor([[True, False]]), "float32")
    with paddle.no_grad():
        plora = wqkv.plora_b(wqkv.plora_a(x[:, 0]))
        linear = wqkv.linear(x)
        both = wqkv(x, images)
    assert np.abs(plora.numpy()).max() > 0.1
    np.testing.assert_allclose(both[:, 0].numpy(), (linear[:, 0] + plora).numpy(), atol=1e-5)
    np.testing.assert_array_equal(both[:, 1].numpy(), linear[:, 1].numpy())


@pytest.mark.parametrize("dora", [False, True])
def test_merging_and_removing(dora):
    model = wrap(tiny_model(), dora=dora)
    with paddle.no_grad():
        plain = model(**inputs()).logits.numpy()
        for layer in lora_layers(model).values():
            layer.lora_b.set_value(0.1 * paddle.randn(layer.lora_b.shape))
        changed = model(**inputs()).logits.numpy()
        merged = tiny_model()
        for path, layer in lora_layers(model).items():
            replace_layer(merged, path, layer)
        merge_lora(merged)
        assert np.abs(changed - plain).max() > 0.1
        # float32 on a CPU: 6e-6 measured, of logits up to 6
        np.testing.assert_allclose(merged(**inputs()).logits.numpy(), changed, atol=5e-5)
        assert set(merged.state_dict()) == set(tiny_model().state_dict())
    fresh = wrap(tiny_model())
    remove_lora(fresh)
    with paddle.no_grad():
        np.testing.assert_array_equal(fresh(**inputs()).logits.numpy(), plain)


def test_a_quantized_base_is_merged_into_a_dense_layer():
    base = NF4Linear(64, 6)
    base.quantize([paddle.randn([64, 6])])
    layer = LoRALinear(base, 4, 0.5)
    layer.lora_b.set_value(paddle.randn([4, 6]))
    x = paddle.randn([3, 64])
    with paddle.no_grad():
        want = layer(x).numpy()
        np.testing.assert_allclose(
            want, (x @ (base.dequantize() + layer.lora_a @ layer.lora_b * 0.5)).numpy(), atol=1e-5
        )
        model = nn.Sequential(layer)
        merge_lora(model)
        assert type(model[0]) is nn.Linear and model[0].bias is None
        np.testing.assert_allclose(model(x).numpy(), want, atol=1e-5)
    model[0].weight.stop_gradient = False


def test_gradients_reach_the_update_through_recomputation():
    model = wrap(tiny_model())
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = not is_lora(name)
    for layer in lora_layers(model).values():
        layer.lora_b.set_value(0.1 * paddle.randn(layer.lora_b.shape))
    gradients = []
    for enable in (model.recompute_disable, model.recompute_enable):
        enable()
        model.train()
        paddle.seed(1)
        model.clear_gradients()
        model(**inputs(), labels=inputs()["input_ids"]).loss.backward()
        gradients.append({n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and all(is_lora(name) for name in gradients[0])
    for name in gradients[0]:
        np.testing.assert_allclose(gradients[1][name], gradients[0][name], rtol=1e-4, atol=1e-6)


def head_batch():
    ids = inputs()["input_ids"]
    labels = ids.clone()
    labels[:, :5] = -100
    return {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize("dora", [False, True])
def test_the_loss_of_an_output_head_with_lora_is_that_of_its_logits(dora):
    model = tiny_model()
    head = LoRALinear(model.output, 4, 2.0, dora=dora)
    head.lora_b.set_value(0.2 * paddle.randn(head.lora_b.shape))
    head.base.weight.stop_gradient = True
    replace_layer(model, "output", head)
    model.eval()
    batch, gradients = head_batch(), []
    for chunked in (True, False):
        out = model(**batch)
        loss = out.loss
        if not chunked:
            targets = batch["labels"][:, 1:].flatten()
            loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), targets, reduction="sum") / (targets >= 0).sum()
        loss.backward()
        learned = [head.lora_a, head.lora_b, model.model.norm.weight] + ([head.magnitude] if dora else [])
        gradients.append([float(loss), *(parameter.grad.numpy() for parameter in learned)])
        assert head.base.weight.grad is None
        for parameter in model.parameters():
            parameter.clear_gradient()
    for got, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6)
        assert np.abs(expected).max() > 1e-3


def test_dropout_acts_on_the_update_of_the_output_head_in_the_loss():
    model = tiny_model()
    head = LoRALinear(model.output, 4, 2.0, dropout=0.5)
    head.lora_b.set_value(0.2 * paddle.randn(head.lora_b.shape))
    replace_layer(model, "output", head)
    with paddle.no_grad():
        model.eval()
        assert len({float(model(**head_batch()).loss) for _ in range(4)}) == 1
        model.train()
        assert len({float(model(**head_batch()).loss) for _ in range(4)}) == 4

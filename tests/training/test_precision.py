"""What learns is float32 in every precision, whatever it is; what is frozen has the dtype that the run computes in.

A CPU has no products of float16. Here float64 takes the place of the dtype to compute in, which shows that every layer
casts its own parameters; and float16 is simulated, by rounding values and gradients where float16 would.
"""

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import load_file

from paddle_xc2.models.layer_norm import LayerNorm
from paddle_xc2.models.lora import LoRALinear, layer_at, replace_layer
from paddle_xc2.models.nf4 import NF4Linear
from paddle_xc2.models.plora import PLoRALinear
from paddle_xc2.models.rms_norm import RMSNorm
from paddle_xc2.models.token_rows import ROW_LAYERS
from paddle_xc2.training import finetune
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.learning.add_lora import add_lora
from paddle_xc2.training.learning.parts import choose_trainable
from paddle_xc2.training.optimizer import (
    GradientsNotFinite,
    NormRecordingClip,
    StepGuard,
    learn_in_float32,
    not_finite,
    read_optimizer,
    write_optimizer,
)
from paddle_xc2.training.plan import Plan
from tests.tiny import tiny_model

ALL_LINEAR = ["language_model", "vit", "projector", "output"]
MODES = {
    "full": {},
    "LoRA": {"lora": True, "lora_target_modules": ALL_LINEAR},
    "DoRA": {"lora": True, "lora_target_modules": ALL_LINEAR, "use_dora": True},
    "QLoRA": {"lora": True, "quantization": "nf4"},
    "rows": {"lora": True},
    "whole beside LoRA": {
        **{"lora": True, "fix_vit": False, "fix_sampler": False},
        **{"train_plora": True, "train_separators": True, "train_embeddings": True},
    },
}


def prepared(mode, dtype, family="xcomposer2-4khd-7b"):
    """A tiny model in which what the mode says learns, computing in `dtype`; its second matrices are not zero."""
    arguments = FinetuneArguments(lora_rank=4, lora_dropout=0.0, **MODES[mode])
    model = tiny_model(xc2_family=family)
    if arguments.quantization:
        quantize(model)
    if arguments.lora:
        add_lora(model, arguments)
    if mode == "rows":
        for path, row_layer in ROW_LAYERS.items():
            replace_layer(model, path, row_layer(layer_at(model, path), [7, 9]))
    choose_trainable(model, arguments)
    paddle.seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(("lora_b", "rows")):
            parameter.set_value(parameter + 0.02 * paddle.randn(parameter.shape))
    if dtype != "float32":
        for parameter in model.parameters():  # as load_model leaves it
            parameter.astype(dtype)._share_buffer_to(parameter)
        model.config.dtype = dtype
        learn_in_float32(model, dtype)
    return model


def quantize(model):
    for layer in list(model.model.sublayers()):
        if isinstance(layer, PLoRALinear):
            dense = layer.linear
            layer.linear = NF4Linear(*dense.weight.shape)
            layer.linear.quantize([dense.weight])


def batch_of(model):
    """A row of text and an image, and one of text alone, as named arguments."""
    paddle.seed(3)
    side = model.config.img_size
    pixels = [paddle.randn([3, side, side])]
    num_slots = model.image_tokens(pixels).shape[0]
    mask = np.zeros((2, num_slots + 6), bool)
    mask[0, 2 : 2 + num_slots] = True
    ids = np.random.default_rng(0).integers(3, 60, mask.shape)
    ids[:, -3:] = 7, 9, 11
    labels = np.where(mask, -100, ids)
    names = ("input_ids", "image_mask", "labels")
    return {"pixel_values": pixels} | dict(zip(names, map(paddle.to_tensor, (ids, mask, labels)), strict=True))


def gradients_of(model):
    loss = model(**batch_of(model)).loss
    loss.backward()
    return float(loss), {name: p.grad for name, p in model.named_parameters() if not p.stop_gradient}


@pytest.mark.parametrize("mode", MODES)
def test_what_learns_is_float32(mode):
    model = prepared(mode, "float16")
    dtypes = {True: set(), False: set()}
    for parameter in model.parameters():
        dtypes[parameter.stop_gradient].add(str(parameter.dtype))
    assert dtypes[False] == {"paddle.float32"}
    assert dtypes[True] == (set() if mode == "full" else {"paddle.float16"})


# Largest difference of a gradient to that of a model in float32 alone: 5.1e-6 of its norm; 20x for other CPUs.
@pytest.mark.parametrize("mode", MODES)
def test_every_layer_computes_in_the_dtype_of_the_run(mode):
    loss, gradients = gradients_of(prepared(mode, "float64"))
    expected_loss, expected = gradients_of(prepared(mode, "float32"))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in gradients.items():
        if expected[name] is None:
            assert gradient is None
            continue
        assert str(gradient.dtype) == "paddle.float32", name
        difference = float((gradient - expected[name]).norm())
        assert difference <= 1e-4 * float(expected[name].norm()) + 1e-9, name


def half(x):
    """`x` and its gradient rounded to float16, computed on in float32: out of range they are infinite there too."""
    return x.astype("float16").astype("float32")


def simulate_half(model):
    """Rounds what every linear layer, norm and LoRA layer gives, forward and backward, as float16 would store it."""
    kinds = (nn.Linear, LoRALinear, RMSNorm, LayerNorm, nn.Embedding)
    for layer in model.sublayers():
        if isinstance(layer, kinds):
            layer.register_forward_post_hook(lambda layer, inputs, output: half(output))


def lora_curve(rounded_base=True, simulated=True, guard=None, factor=1.0, half_gradients=False, num_steps=10):
    """float64 [num_steps]: losses of LoRA on one batch.

    Args:
        rounded_base: whether what is frozen has values of float16.
        simulated: whether it computes as in float16.
        factor: of the loss, so that gradients are small.
        half_gradients: rounds the gradients of what learns too, as if it were float16 itself.
    """
    model = prepared("LoRA", "float32")
    for parameter in model.parameters():
        if rounded_base and parameter.stop_gradient:
            parameter.set_value(half(parameter))
    if simulated:
        simulate_half(model)
    learning = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.AdamW(2e-3, parameters=learning, grad_clip=NormRecordingClip(1.0))
    batch, losses, guard = batch_of(model), [], guard or StepGuard(None)
    for _ in range(num_steps):
        loss = model(**batch).loss * factor
        guard.scale(loss).backward()
        for parameter in learning if half_gradients else ():
            parameter._grad_ivar().set_value(half(parameter.grad))
        losses.append(float(loss) / factor)
        guard.step(optimizer)
        guard.update()
        optimizer.clear_grad(set_to_zero=False)
    return np.array(losses)


def test_lora_in_float16_follows_the_float32_curve():
    """The loss falls from 6.8 to 3.9. Against float32, the rounding of the base alone moves it by at most 1.0e-3, all
    that float16 rounds by 0.7e-3."""
    exact = lora_curve(rounded_base=False, simulated=False)
    explained = np.abs(lora_curve(simulated=False) - exact).max()
    found = np.abs(lora_curve(guard=StepGuard(32768.0)) - exact).max()
    assert exact[0] - exact[-1] > 2.5 and 0 < explained < 5e-3
    assert found < 2 * explained


def test_small_gradients_train_too():
    """A loss a million times smaller: 0.6e-3 beside the curve of float32, and 2.3 if what learns were float16 itself,
    without a scale."""
    exact = lora_curve(simulated=False, factor=1e-6)
    assert np.abs(lora_curve(guard=StepGuard(32768.0), factor=1e-6) - exact).max() < 5e-3
    assert np.abs(lora_curve(factor=1e-6, half_gradients=True) - exact).max() > 1


@pytest.mark.parametrize("limit", [0.0, 1e-6])
def test_gradients_of_rms_1e8_survive(limit):
    """Float16's least number is 6e-8: unscaled in float16, all but the largest would be zero."""
    paddle.seed(0)
    true = paddle.randn([100, 100]) * 1e-8
    clip = NormRecordingClip(limit)
    clip.loss_scale = 65536.0
    ((_, found),) = clip._dygraph_clip([(None, true * 65536.0)])
    norm = float(true.norm())
    assert clip.last_norm == pytest.approx(norm, rel=1e-5) and norm == pytest.approx(1e-6, rel=0.02)
    factor = min(1.0, limit / norm) if limit else 1.0
    np.testing.assert_allclose(found.numpy(), factor * true.numpy(), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_norm_of_large_gradients_is_finite(dtype):
    """As float16, the square of 300 is infinite; a gradient of that dtype is looked at in float32."""
    clip = NormRecordingClip(1.0)
    clip._dygraph_clip([(None, paddle.full([10, 10], 300.0))] if dtype == "float32" else [(None, HalfGradient())])
    assert clip.last_norm == pytest.approx(3000.0)


class HalfGradient:
    """A gradient in float16, of which a CPU has no products: it can be cast, and multiplied in place."""

    dtype = "float16"

    def astype(self, dtype):
        assert dtype == "float32"
        return paddle.full([10, 10], 300.0, "float16").astype(dtype)

    def multiply_(self, factor):
        assert factor.dtype == paddle.float16


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_an_overflowing_step_changes_nothing(bad):
    weight = paddle.create_parameter([3], "float32", default_initializer=nn.initializer.Constant(1.0))
    optimizer = paddle.optimizer.AdamW(0.1, parameters=[weight], grad_clip=NormRecordingClip(0.0))
    guard, states = StepGuard(8.0), []
    for factor in (1.0, bad, bad, 1.0):
        guard.scale((weight * factor).sum()).backward()
        guard.step(optimizer)
        guard.update()
        optimizer.clear_grad(set_to_zero=False)
        moments = [tensor.numpy() for kept in optimizer._accumulators.values() for tensor in kept.values()]
        states.append(np.concatenate([weight.numpy(), *moments]))
        assert guard._cache_found_inf == guard.skipped == (factor != 1.0)
    assert (states[0] == states[1]).all() and (states[1] == states[2]).all() and (states[2] != states[3]).any()
    assert (guard.loss_scale, guard.in_a_row) == (2.0, 0)
    with pytest.raises(GradientsNotFinite):
        optimizer._grad_clip([(weight, paddle.full([3], bad))])


def test_the_scale_grows_again(monkeypatch):
    monkeypatch.setattr("paddle_xc2.training.optimizer.GROW_EVERY", 2)
    guard = StepGuard(8.0)
    for skipped, expected in ((False, 8.0), (True, 4.0), (False, 4.0), (False, 8.0), (False, 8.0), (False, 16.0)):
        guard.skipped = skipped
        guard.update()
        assert guard.loss_scale == expected


def test_files_keep_the_dtype_of_the_run_and_the_exact_values(tmp_path):
    """What a checkpoint of half precision held before: the parameters in it, their float32 values with the moments."""
    model = prepared("LoRA", "float16")
    learning = {name: parameter for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    optimizer = paddle.optimizer.AdamW(paddle.optimizer.lr.NoamDecay(64, 10), parameters=list(learning.values()))
    for parameter in learning.values():
        parameter.set_value(parameter + 1e-5)  # what float16 rounds away
    optimizer._create_accumulators(paddle.base.framework.default_main_program().global_block(), list(learning.values()))
    model.save_pretrained(tmp_path, dtype="float16")
    write_optimizer(tmp_path, model, optimizer, optimizer._learning_rate)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {values.dtype for values in saved.values()} == {np.dtype("float16")}
    kinds = {name.rpartition("/")[2] for name in load_file(tmp_path / "optimizer/model.safetensors")}
    assert kinds == {"master", "moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc"}
    again = prepared("LoRA", "float16")
    learn_in_float32(again, "float16", tmp_path)
    for name, parameter in again.named_parameters():
        if name in learning:
            np.testing.assert_array_equal(parameter.numpy(), learning[name].numpy())
    read_optimizer(tmp_path, again, paddle.optimizer.AdamW(parameters=again.parameters()), optimizer._learning_rate)


def test_what_does_not_fit_into_the_dtype_of_the_files_is_seen():
    model = prepared("LoRA", "float16")
    assert not_finite(model, "float16") == []
    layer = model.model.layers[0].feed_forward.w2.linear
    layer.lora_a.set_value(paddle.full_like(layer.lora_a, 7e4))
    assert not_finite(model, "float16") == ["model.layers.0.feed_forward.w2.linear.lora_a"]
    assert not_finite(model, "float32") == []


def test_nothing_is_decorated(config, monkeypatch):
    """At level O2 PaddleNLP casts the whole model, twice. With weights in float32, for the sake of a CPU."""

    def refuse(*args, **kwargs):
        raise AssertionError("amp.decorate was called")

    monkeypatch.setattr(paddle.amp, "decorate", refuse)
    monkeypatch.setattr(finetune.runtime, "choose_precision", lambda *args: "float16")
    monkeypatch.setattr(Plan, "weight_dtype", "float32")
    assert finetune.finetune(config(fp16=True, fp16_opt_level="O2", max_steps=1)) == 0

"""NF4: the published tables, what is stored, and gradients as those of a dense layer with the same weights."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.distributed.fleet.utils import recompute

from paddle_xc2.models import nf4
from paddle_xc2.models.nf4 import NF4_VALUES, NF4Linear, dynamic_values

TABLE = np.array(NF4_VALUES, np.float32)

# Where bitsandbytes changes from a value to the next, as its kernels have it.
THRESHOLDS = (
    *(-0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, -0.23460740596055984),
    *(-0.13791173323988914, -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668),
    *(0.2920137718319893, 0.3893125355243683, 0.5016634166240692, 0.6427869200706482, 0.8614784181118011),
)


def quantized(weight):
    layer = NF4Linear(*weight.shape)
    layer.quantize([paddle.to_tensor(weight)])
    return layer


def codes_of(layer):
    packed = layer.packed.numpy()
    return np.stack([packed >> 4, packed & 15], axis=-1).reshape([layer.in_features, layer.out_features])


def nearest(x, values):
    """Index of the nearest value by brute force, exactly: differences of float32 in float64."""
    return np.abs(x[..., None].astype(np.float64) - values.astype(np.float64)).argmin(axis=-1)


def by_the_paper(weight):
    """The weight after NF4 and double quantization, float32 [in, out]: output by output, block by block."""
    num_in, num_out = weight.shape
    columns = [weight[start : start + 64, column] for column in range(num_out) for start in range(0, num_in, 64)]
    scales = np.array([np.abs(block).max() for block in columns], np.float32)
    mean = np.float32(scales.astype(np.float64).mean())
    restored = []
    for start in range(0, len(scales), 256):
        centred = scales[start : start + 256] - mean
        largest = np.abs(centred).max()
        restored.append(
            dynamic_values()[nearest(centred / (largest or np.float32(1)), dynamic_values())] * largest + mean
        )
    restored = np.concatenate(restored)
    blocks = [
        TABLE[nearest(block / (scale or np.float32(1)), TABLE)] * again
        for block, scale, again in zip(columns, scales, restored, strict=True)
    ]
    return np.concatenate(blocks).reshape([num_out, num_in]).T


def random_weight(num_in, num_out, seed):
    random = np.random.default_rng(seed)
    sizes = random.lognormal(size=num_out).astype(np.float32)
    return random.standard_normal([num_in, num_out], np.float32) * 0.02 * sizes


@pytest.mark.parametrize(("num_in", "num_out"), [(64, 2), (192, 10), (96, 6), (2, 4), (640, 130)])
def test_quantized_to_the_bit_as_the_paper_says(num_in, num_out):
    weight = random_weight(num_in, num_out, seed=num_in)
    weight[:, 1] = 0
    np.testing.assert_array_equal(quantized(weight).dequantize().numpy(), by_the_paper(weight))


def test_values_of_the_table_stay_what_they_are():
    """One scale for all, so double quantization keeps it: quantizing gives the published table back to the bit."""
    weight = np.tile(TABLE, [2, 4]).reshape([2, 64]).T.copy() * np.float32(0.375)
    layer = quantized(weight)
    np.testing.assert_array_equal(codes_of(layer), np.tile(np.arange(16), 8).reshape([2, 64]).T)
    np.testing.assert_array_equal(layer.dequantize().numpy(), weight)


def test_borders_are_those_of_bitsandbytes():
    borders = np.array(THRESHOLDS, np.float32)
    above = np.nextafter(borders, np.float32(2))
    weight = np.ones([64, 2], np.float32)
    weight[1:16], weight[17:32] = borders[:, None], above[:, None]
    codes = codes_of(quantized(weight))[:, 0]
    np.testing.assert_array_equal(codes[1:16], np.arange(15))
    np.testing.assert_array_equal(codes[17:32], np.arange(1, 16))


def test_dynamic_values():
    values = dynamic_values()
    assert values.dtype == np.float32 and len(values) == len(set(values)) == 256
    assert (np.diff(values) > 0).all()
    assert values[127] == 0 and values[-1] == 1
    np.testing.assert_array_equal(values[:127], -values[128:-1][::-1])
    np.testing.assert_allclose(values[128:131], [5.5e-7, 3.25e-6, 7.75e-6], rtol=1e-6)
    # Some of the published map, of those whose last digit depends on how they are computed too.
    published = {0: -0.992968738079071, 1: -0.9789062738418579, 20: -0.7117187976837158, 25: -0.6414062976837158}
    published |= {36: -0.48671871423721313, 39: -0.44453126192092896, 41: -0.4164062440395355, 47: -0.33203125}
    for index, value in published.items():
        assert values[index] == np.float32(value)


def test_error_and_size():
    """Of normally distributed weights; the paper's 4.127 bits a weight."""
    weight = np.random.default_rng(0).standard_normal([1024, 512], np.float32)
    layer = quantized(weight)
    error = layer.dequantize().numpy() - weight
    assert 0.08 < np.sqrt((error**2).mean()) < 0.1  # measured: 0.092
    assert layer.num_bytes / weight.size == pytest.approx(0.515869, abs=1e-5)
    assert not list(layer.parameters())


def test_pieces_give_what_the_whole_gives(monkeypatch):
    weight = random_weight(300, 24, seed=3)
    whole = quantized(weight)
    pieces = NF4Linear(300, 24)
    pieces.quantize(paddle.to_tensor(weight[start : start + 128]) for start in range(0, 300, 128))
    monkeypatch.setattr(nf4, "CHUNK", 64 * 24)
    for name, buffer in whole.named_buffers():
        np.testing.assert_array_equal(buffer.numpy(), pieces.state_dict()[name].numpy())
    np.testing.assert_array_equal(pieces.dequantize().numpy(), by_the_paper(weight))


def test_half_precision_is_the_rounded_float32():
    layer = quantized(random_weight(128, 6, seed=1))
    for dtype in ("bfloat16", "float16"):
        got = layer.dequantize(dtype)
        assert str(got.dtype) == f"paddle.{dtype}"
        expected = layer.dequantize().astype(dtype).astype("float32").numpy()
        np.testing.assert_array_equal(got.astype("float32").numpy(), expected)


@pytest.mark.parametrize("again", [False, True])
def test_gradients_are_those_of_a_dense_layer_to_the_bit(again):
    layer = quantized(random_weight(192, 40, seed=2))
    dense = layer.dequantize()
    x = paddle.randn([2, 5, 192])
    weight_of_outputs = paddle.randn([2, 5, 40])
    results = []
    for function in (layer, lambda values: F.linear(values, dense)):
        values = x.clone().detach()
        values.stop_gradient = False
        y = recompute(function, values) if again else function(values)
        (y * weight_of_outputs).sum().backward()
        results.append((y.numpy(), values.grad.numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_casting_a_model_leaves_what_is_stored():
    layer = quantized(random_weight(64, 4, seed=4))
    before = layer.dequantize().numpy()
    paddle.nn.Sequential(layer).to(dtype="bfloat16")
    np.testing.assert_array_equal(layer.dequantize().numpy(), before)
    paddle.amp.decorate(paddle.nn.Sequential(layer), level="O2", dtype="bfloat16")
    np.testing.assert_array_equal(layer.dequantize().numpy(), before)


def test_without_gradients_no_graph_is_kept():
    layer = quantized(random_weight(64, 4, seed=4))
    assert layer(paddle.randn([3, 64])).stop_gradient


def test_a_new_layer_is_zero():
    assert (NF4Linear(70, 4)(paddle.randn([3, 70])) == 0).all()


def test_odd_number_of_outputs():
    with pytest.raises(
        ValueError, match="5 outputs can't be stored in NF4: two share a byte; keep this layer as it is"
    ):
        NF4Linear(64, 5)


@pytest.mark.parametrize("shape", [(64, 2), (200, 34), (1, 8), (256, 128)])
def test_the_way_of_a_cpu_and_that_of_other_devices_are_one(shape):
    weight = random_weight(*shape, seed=5)
    weight[:64, 0] = 0.0  # a block without a scale
    weight[: len(THRESHOLDS), 1] = np.array(THRESHOLDS, np.float32)[: shape[0]]  # between two values, of scale 1
    weight[-1, 1] = 1.0
    ways = [function(paddle.to_tensor(weight)) for function in (nf4._quantize_on_cpu, nf4._quantize_blocks)]
    for ours, theirs in zip(*ways, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())

"""Linear layers whose weights are stored in four bits: NF4 with double quantization, in Paddle's own operations.

Follows QLoRA (arXiv:2305.14314) and the formats of bitsandbytes, so that a checkpoint becomes the same weights here as
in training with PyTorch: blocks of 64 weights along the inputs of one output share a scale, their largest magnitude;
256 of these scales, less the mean of all, share a scale of their own and are stored in eight bits.

With both, a weight takes 0.5 + 1 / 64 + 4 / (64 * 256) = 0.5159 bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

# Quantiles of a normal distribution, zero among them, scaled to [-1, 1]: appendix E of the paper.
NF4_VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
BLOCK = 64  # weights of one scale
SCALE_BLOCK = 256  # scales of one scale
NUM_BYTES = 0.5 + 1 / BLOCK + 4 / (BLOCK * SCALE_BLOCK)  # that a weight takes
# Weights that are computed at once: what comes between stays in the cache, and small beside the result. Dequantizing
# 2048 x 2048 takes 22 ms in pieces and 34 ms as a whole.
CHUNK = 2**20
GPU_CHUNK = 2**24  # the same on a GPU, whose memory is what counts there


class NF4Linear(nn.Layer):
    """y = x W + b, W [in_features, out_features] stored in NF4; it doesn't learn, but gradients pass through it.

    Everything but the bias is a buffer and not a parameter. A new layer's weights are zero.

    Args:
        bias: float [out_features], kept as it is; None for a layer without.

    Attributes:
        packed: uint8 [in_features, out_features / 2]: each byte the codes of two neighbouring outputs, the first in
            its upper half.
        scale_codes: uint8 [out_features * blocks]: of one output after the other, as in bitsandbytes. The last block
            of an output is shorter where in_features is no multiple of 64.
        scale_scales: float32 [ceil(out_features * blocks / 256)].
        scale_mean: float32 [1].
    """

    def __init__(self, in_features: int, out_features: int, bias=None):
        """Raises: ValueError for an odd number of outputs."""
        super().__init__()
        if out_features % 2:
            raise ValueError(
                f"{out_features} outputs can't be stored in NF4: two share a byte; keep this layer as it is"
            )
        self.in_features, self.out_features, self.bias = in_features, out_features, bias
        self.num_blocks = -(-in_features // BLOCK)
        num_scales = out_features * self.num_blocks
        zero = NF4_VALUES.index(0.0)
        self.register_buffer("packed", paddle.full([in_features, out_features // 2], zero * 17, "uint8"))
        self.register_buffer("scale_codes", paddle.zeros([num_scales], "uint8"))
        self.register_buffer("scale_scales", paddle.zeros([-(-num_scales // SCALE_BLOCK)], "float32"))
        self.register_buffer("scale_mean", paddle.zeros([1], "float32"))

    @property
    def num_bytes(self) -> int:
        """What the weights take."""
        return sum(buffer.size * buffer.element_size() for buffer in self.buffers())

    @paddle.no_grad()
    def quantize(self, pieces: Iterable) -> None:
        """Takes the nearest weights that NF4 has.

        Args:
            pieces: the weight in order, in pieces of some of its rows: float [rows, out_features], rows a multiple of
                BLOCK but for the last.
        """
        scales, start = [], 0
        for piece in pieces:
            piece = piece.astype("float32")
            packed, scale = (_quantize_on_cpu if piece.place.is_cpu_place() else _quantize_blocks)(piece)
            self.packed._slice(start, start + piece.shape[0]).copy_(packed, True)
            scales.append(scale)
            start += piece.shape[0]
        assert start == self.in_features, (start, self.in_features)
        scales = paddle.concat(scales, axis=0).T.flatten()
        # In float64, so that it does not depend on the order of the sum, hence on the device.
        mean = scales.astype("float64").mean().astype("float32")
        for buffer, value in zip((self.scale_codes, self.scale_scales), _quantize_scales(scales - mean), strict=True):
            buffer.copy_(value, True)
        self.scale_mean.copy_(mean.reshape([1]), True)

    @paddle.no_grad()
    def dequantize(self, dtype: str = "float32"):
        """The weight, float [in_features, out_features]; computed in float32."""
        pairs = _on_device(_pairs, paddle.device.get_device())
        scales = self._scales().T.contiguous()
        weight = paddle.empty([self.in_features, self.out_features], dtype)
        # Copies below don't block: on one device they wait their turn there (paddle/phi/core/tensor_utils.cc, `Copy`).
        chunk = GPU_CHUNK if self.packed.place.is_gpu_place() else CHUNK
        rows = max(1, chunk // (BLOCK * self.out_features)) * BLOCK
        for start in range(0, self.in_features, rows):
            end = min(start + rows, self.in_features)
            # Pairs of outputs from a table of all bytes: half the look-ups, and no halves of bytes to take apart.
            piece = paddle.gather(pairs, self.packed._slice(start, end).flatten().astype("int32"))
            piece = piece.reshape([end - start, self.out_features])
            scale = scales[start // BLOCK : -(-end // BLOCK)].unsqueeze(1)
            if (end - start) % BLOCK:
                piece = piece * scale.expand([-1, BLOCK, -1]).reshape([-1, self.out_features])[: end - start]
            else:
                piece = (piece.reshape([-1, BLOCK, self.out_features]) * scale).reshape([-1, self.out_features])
            weight._slice(start, end).copy_(piece.astype(dtype), False)
        return weight

    def _scales(self):
        """float32 [out_features, blocks]."""
        values = _on_device(dynamic_values, paddle.device.get_device())
        scales = paddle.gather(values, self.scale_codes.astype("int32"))
        scales = _in_blocks(scales, SCALE_BLOCK) * self.scale_scales.unsqueeze(1)
        scales = scales.flatten()[: self.out_features * self.num_blocks] + self.scale_mean
        return scales.reshape([self.out_features, self.num_blocks])

    def forward(self, x):
        """float [.., in_features] -> float [.., out_features] in the precision that a dense layer would compute in."""
        y = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.astype(y.dtype)

    def _apply(self, func, device, dtype, blocking, include_sublayers=True):
        # Called by `Layer.to` and `amp.decorate`: what is stored moves to another device, but a cast would destroy it.
        super()._apply(func, device, None, blocking, include_sublayers)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class _Product(PyLayer):
    """The product with a dequantized weight, which is made anew for the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx, x, layer: NF4Linear):
        ctx.layer, ctx.input_dtype = layer, x.dtype
        y = F.linear(x, layer.dequantize(_name(x.dtype)))
        ctx.dtype = y.dtype  # under autocast another than that of x
        return y

    @staticmethod
    def backward(ctx, gradient):
        weight = ctx.layer.dequantize(_name(ctx.dtype))
        return paddle.matmul(gradient, weight, transpose_y=True).astype(ctx.input_dtype)


def _quantize_blocks(weight):
    """float32 [rows, out] -> (packed uint8 [rows, out / 2], scales float32 [ceil(rows / BLOCK), out])."""
    rows, out = weight.shape
    blocks = _in_blocks(weight, BLOCK)
    scales = blocks.abs().max(axis=1)
    normalized = (blocks / _nonzero(scales).unsqueeze(1)).reshape([-1, out])[:rows]
    codes = _nearest(normalized, np.asarray(NF4_VALUES)).reshape([rows, out // 2, 2])
    return (codes[:, :, 0] * 16 + codes[:, :, 1]).astype("uint8"), scales


def _quantize_on_cpu(weight):
    """`_quantize_blocks` on a CPU, to the same bits in a seventh of the time: NumPy compares many numbers at once."""
    weight, out = weight.numpy(), weight.shape[1]
    packed = np.empty([len(weight), out // 2], np.uint8)
    scales = np.empty([-(-len(weight) // BLOCK), out], np.float32)
    above = np.empty([BLOCK, out], bool)
    for index, scale in enumerate(scales):
        rows = slice(index * BLOCK, (index + 1) * BLOCK)
        block = weight[rows]
        np.abs(block).max(axis=0, out=scale)
        normalized, codes = block / np.where(scale == 0, np.float32(1), scale), np.zeros(block.shape, np.uint8)
        for threshold in _thresholds(np.asarray(NF4_VALUES)):
            np.greater(normalized, threshold, out=above[: len(block)])
            codes += above[: len(block)].view(np.uint8)
        packed[rows] = codes[:, 0::2] * 16 + codes[:, 1::2]
    return paddle.to_tensor(packed), paddle.to_tensor(scales)


def _quantize_scales(scales):
    """float32 [n] around zero -> (codes uint8 [n], scales float32 [ceil(n / SCALE_BLOCK)])."""
    blocks = _in_blocks(scales, SCALE_BLOCK)
    maxima = blocks.abs().max(axis=1)
    normalized = (blocks / _nonzero(maxima).unsqueeze(1)).flatten()[: len(scales)]
    return _nearest(normalized, dynamic_values()).astype("uint8"), maxima


def _in_blocks(x, size: int):
    """[n, ..] -> [ceil(n / size), size, ..], zeros in the end."""
    missing = -len(x) % size
    if missing:
        x = paddle.concat([x, paddle.zeros([missing, *x.shape[1:]], x.dtype)])
    return x.reshape([-1, size, *x.shape[1:]])


def _nonzero(scales):
    """Where all values are zero, anything may divide them."""
    return paddle.where(scales == 0, paddle.ones_like(scales), scales)


def _nearest(x, values: np.ndarray):
    """Index of the nearest of `values`, ascending; of two at the same distance the lower. int32 of the shape of `x`."""
    return paddle.bucketize(x, paddle.to_tensor(_thresholds(values)), out_int32=True)


def _thresholds(values: np.ndarray) -> np.ndarray:
    """Where the nearest of `values`, ascending, is another one: float32 [values - 1]."""
    values = values.astype("float64")
    return ((values[1:] + values[:-1]) / 2).astype("float32")


@functools.cache
def dynamic_values() -> np.ndarray:
    """What eight bits stand for in a scale: bitsandbytes' signed "dynamic" map, float32 [256], ascending.

    Seven powers of ten, each cut evenly into twice as many values as the next smaller one, both signs; zero; one.
    Follows arXiv:1511.04561 and `create_dynamic_map`.
    """
    magnitudes = []
    for exponent in range(7):
        borders = _evenly(2**exponent)
        means = (borders[:-1] + borders[1:]) / np.float32(2)
        magnitudes.append(10.0 ** (exponent - 6) * means.astype(np.float64))
    magnitudes = np.concatenate(magnitudes)
    return np.sort(np.concatenate([-magnitudes, magnitudes, [0.0, 1.0]])).astype(np.float32)


def _evenly(count: int) -> np.ndarray:
    """float32 [count + 1] from 0.1 to 1 with the last digits of PyTorch's linspace: from both ends to the middle."""
    first, last = np.float32(0.1), np.float32(1)
    step = np.float64((last - first) / np.float32(count))
    steps = np.arange(count + 1)
    upwards, downwards = first + step * steps, last - step * (count - steps)
    return np.where(steps < (count + 1) // 2, upwards, downwards).astype(np.float32)


@functools.cache
def _on_device(table, device: str):
    """The table on the device: copied there once, for every copy waits for the device."""
    return paddle.to_tensor(table(), place=device)


@functools.cache
def _pairs() -> np.ndarray:
    """What a byte of `packed` stands for: float32 [256, 2]."""
    values = np.asarray(NF4_VALUES, np.float32)
    byte = np.arange(256)
    return np.stack([values[byte >> 4], values[byte & 15]], axis=1)


def _name(dtype) -> str:
    return str(dtype).removeprefix("paddle.")

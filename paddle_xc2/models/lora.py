"""LoRA: a low-rank update of a linear layer, learned while the layer stays as it is.

Follows arXiv:2106.09685 (LoRA), arXiv:2312.03732 (rsLoRA, in `scaling`) and arXiv:2402.09353 (DoRA), computed as the
`peft` library does. The update acts on every token, on top of PLoRA, which it leaves alone: only the `linear` member
of a PLoRALinear is wrapped, never the layer that knows the image mask.
"""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddle_xc2.models.dropout import Dropout

_BASE = ".base."  # in the name of a parameter: it belongs to a layer that is wrapped


class LoRALinear(nn.Layer):
    """A linear layer with a low-rank update.

        y = x W + scaling * dropout(x) A B
        DoRA: y = x W' with W' = magnitude * V / ||V||, V = W + scaling A B, norms over each output's weights

    A new one changes nothing: B is zero, and the magnitude is the norm of W.

    Args:
        base: the layer to wrap: an nn.Linear, or a layer that stores its weight otherwise and has `in_features`,
            `out_features`, `forward(x)` and `dequantize()` -> dense weight [in, out]. It is kept as it is.
        rank: of A [in, rank] and B [rank, out].
        scaling: factor of the update; `lora_scaling` gives the usual ones.
        dropout: probability, on what enters the update.
        dora: whether to learn the norm of each output's weights too (weight decomposition).
        dtype: of the new parameters.
    """

    def __init__(
        self, base: nn.Layer, rank: int, scaling: float, dropout: float = 0.0, dora: bool = False, dtype="float32"
    ):
        super().__init__()
        in_features, out_features = weight_shape(base)
        self.base = base
        self.rank = rank
        self.scaling = scaling
        self.dropout = Dropout(dropout)
        # As torch's nn.Linear and thereby PEFT: uniform within 1 / sqrt(in).
        bound = 1.0 / math.sqrt(in_features)
        self.lora_a = self.create_parameter(
            [in_features, rank], dtype=dtype, default_initializer=nn.initializer.Uniform(-bound, bound)
        )
        self.lora_b = self.create_parameter(
            [rank, out_features], dtype=dtype, default_initializer=nn.initializer.Constant(0.0)
        )
        self.magnitude = None
        if dora:
            self.magnitude = self.create_parameter([out_features], dtype=dtype)
            with paddle.no_grad():
                norms = _output_norms(dense_weight(base).astype("float32"))
                self.magnitude.set_value(norms.astype(dtype))

    @property
    def weight(self):
        """What the layer computes with, without dropout: float [in, out]; differentiable by what is trained."""
        weight = dense_weight(self.base)
        update = paddle.matmul(self.lora_a, self.lora_b) * self.scaling
        updated = weight + update.astype(weight.dtype)
        if self.magnitude is None:
            return updated
        return updated * self._norm_factor(weight).astype(weight.dtype)

    @property
    def bias(self):
        return getattr(self.base, "bias", None)

    def forward(self, x):
        """float [.., in] -> float [.., out]."""
        y = self.base(x)
        x = self.dropout(x)
        update = paddle.matmul(self._low_rank(x), self.lora_b.astype(x.dtype))
        if self.magnitude is None:
            return y + update
        weight = dense_weight(self.base).astype(y.dtype)
        factor = self._norm_factor(weight).astype(y.dtype)
        if self.dropout.training and self.dropout.p > 0:
            product = F.linear(x, weight)
        else:
            product = y if self.bias is None else y - self.bias.astype(y.dtype)  # nothing is dropped: computed already
        return y + (factor - 1.0) * product + factor * update

    def low_rank(self, x):
        """What `lora_b` is multiplied with: float [.., in] -> float [.., rank], after dropout and scaling."""
        return self._low_rank(self.dropout(x))

    def _low_rank(self, x):
        x = paddle.matmul(x, self.lora_a.astype(x.dtype))
        return x if self.scaling == 1.0 else x * self.scaling

    def _norm_factor(self, weight):
        """DoRA's magnitude / ||V||, [out]; the norm is a constant to the gradient (section 4.3 of the paper)."""
        with paddle.no_grad():
            weight = weight.astype("float32")
            update = paddle.matmul(self.lora_a.astype("float32"), self.lora_b.astype("float32")) * self.scaling
            norms = _output_norms(weight + update)
        return self.magnitude.astype("float32") / norms

    @paddle.no_grad()
    def merged_weight(self):
        """`weight` computed in float32, in the dtype of the update."""
        weight = dense_weight(self.base)
        updated = weight.astype("float32")
        updated = updated + paddle.matmul(self.lora_a.astype("float32"), self.lora_b.astype("float32")) * self.scaling
        if self.magnitude is not None:
            updated = updated * (self.magnitude.astype("float32") / _output_norms(updated))
        return updated.astype(self.lora_a.dtype)

    @paddle.no_grad()
    def change_norm(self) -> float:
        """Frobenius norm of what the layer adds to the base's weight."""
        if self.magnitude is not None:
            change = self.merged_weight().astype("float32") - dense_weight(self.base).astype("float32")
            return float(change.norm())
        # ||A B||^2 = sum of (A^T A) * (B B^T): the product itself is as large as the weight.
        a, b = self.lora_a.astype("float64"), self.lora_b.astype("float64")
        square = (paddle.matmul(a, a, transpose_x=True) * paddle.matmul(b, b, transpose_y=True)).sum()
        square = float(square)
        return abs(self.scaling) * math.sqrt(0.0 if square < 0 else square)  # NaN stays NaN


def weight_shape(layer: nn.Layer) -> tuple[int, int]:
    """(in, out) of a linear layer, however it stores its weight."""
    return tuple(layer.weight.shape) if isinstance(layer, nn.Linear) else (layer.in_features, layer.out_features)


def dense_weight(layer: nn.Layer):
    """The weight of a linear layer, float [in, out]."""
    return layer.weight if isinstance(layer, nn.Linear) else layer.dequantize()


def is_linear(layer) -> bool:
    """Whether LoRA can wrap a layer."""
    return isinstance(layer, nn.Linear) or hasattr(layer, "dequantize")


def lora_scaling(alpha: float, rank: int, rslora: bool) -> float:
    """The factor of an update: alpha / rank, or, rank-stabilized, alpha / sqrt(rank)."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def lora_layers(model) -> dict[str, LoRALinear]:
    """Every LoRALinear of a model by its path."""
    return {path: layer for path, layer in model.named_sublayers() if isinstance(layer, LoRALinear)}


def checkpoint_name(name: str) -> str:
    """The name that a parameter of a model with LoRA has without it, which is the one that checkpoints know."""
    return name.replace(_BASE, ".")


def named_parameters(model) -> dict:
    """Every parameter by the name it has in the model without LoRA; LoRA's own as they are named."""
    return {checkpoint_name(name): parameter for name, parameter in model.named_parameters()}


def is_lora(name: str) -> bool:
    """Whether a parameter is one of LoRA's own. Never asks for "lora" within a name: PLoRA's have it too."""
    return name.rpartition(".")[2] in ("lora_a", "lora_b", "magnitude")


def replace_layer(model, path: str, layer: nn.Layer) -> None:
    """Puts `layer` where the model has another one."""
    parent, _, name = path.rpartition(".")
    owner = model
    for part in parent.split(".") if parent else ():
        owner = owner._sub_layers[part]
    owner._sub_layers[name] = layer


def layer_at(model, path: str) -> nn.Layer | None:
    """The layer at a path; None if there is none."""
    layer = model
    for part in path.split("."):
        layer = layer._sub_layers.get(part)
        if layer is None:
            return None
    return layer


def remove_lora(model) -> None:
    """Puts the wrapped layers back as they were."""
    for path, layer in lora_layers(model).items():
        replace_layer(model, path, layer.base)


@paddle.no_grad()
def merge_lora(model) -> None:
    """Writes every update into the weight that it belongs to, and takes the LoRA layers out.

    A base that doesn't store its dense weight becomes an nn.Linear that does.
    """
    for path, layer in lora_layers(model).items():
        base, merged = layer.base, layer.merged_weight()
        if isinstance(base, nn.Linear):
            base.weight.set_value(merged.astype(base.weight.dtype))
        else:
            base = dense_linear(merged, layer.bias)
        replace_layer(model, path, base)


def dense_linear(weight, bias=None) -> nn.Linear:
    """nn.Linear with the given values. weight: float [in, out]; bias: float [out], or None."""
    layer = nn.Linear(*weight.shape, bias_attr=None if bias is not None else False)
    layer.weight = layer.create_parameter(weight.shape, dtype=weight.dtype)
    layer.weight.set_value(weight)
    if bias is not None:
        layer.bias = layer.create_parameter(bias.shape, dtype=bias.dtype)
        layer.bias.set_value(bias)
    return layer


def _output_norms(weight):
    """Norm of each column: float32 [in, out] -> float32 [out]."""
    return weight.square().sum(axis=0).sqrt()

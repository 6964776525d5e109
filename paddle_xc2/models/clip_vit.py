"""CLIP's vision transformer (arXiv:2103.00020), as transformers' `CLIPVisionModel`, without its post layer norm.

Upstream takes the last hidden state before `post_layernorm`, which therefore has no weights here.
"""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from paddle_xc2.families.settings import VisionConfig
from paddle_xc2.models.attention import attention
from paddle_xc2.models.layer_norm import LayerNorm
from paddle_xc2.models.plora import linear


def resize_grid(table, side: int):
    """A position table of a square grid for another one: bicubic, align_corners False, no antialiasing, in float32.

    Args:
        table: float [n * n, hidden].
        side: of the new grid.
    Returns: float [side * side, hidden], dtype of `table`.
    """
    old_side = math.isqrt(table.shape[0])
    if old_side == side:
        return table
    grid = table.astype("float32").reshape([1, old_side, old_side, -1]).transpose([0, 3, 1, 2])
    grid = F.interpolate(grid, size=[side, side], mode="bicubic", align_corners=False)
    return grid.transpose([0, 2, 3, 1]).reshape([side * side, -1]).astype(table.dtype)


def resize_position_table(table, patches_per_side: int):
    """Position table for another image size; the class token's row is kept, as upstream's `resize_pos`.

    Args:
        table: float [1 + n * n, hidden].
        patches_per_side: of the new image.
    Returns: float [1 + patches_per_side ** 2, hidden], dtype of `table`.
    Raises: ValueError if the table is not one of a square image.
    """
    if math.isqrt(table.shape[0] - 1) ** 2 != table.shape[0] - 1:
        raise ValueError(f"a position table of {table.shape[0]} rows is not one of a square image (1 + n * n rows)")
    if table.shape[0] == 1 + patches_per_side**2:
        return table
    return paddle.concat([table[:1], resize_grid(table[1:], patches_per_side)], axis=0)


def check_image_side(pixel_values, side: int) -> None:
    """Raises: ValueError unless the images, [images, 3, height, width], have `side` x `side` pixels."""
    if pixel_values.shape[2:] != [side, side]:
        raise ValueError(
            f"pixel_values are {pixel_values.shape[2]} x {pixel_values.shape[3]} pixels, the vision encoder takes "
            f"{side} x {side}; use the processor of the same checkpoint"
        )


class ClipAttention(nn.Layer):
    def __init__(self, config: VisionConfig, std: float):
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = linear(size, size, std, bias=True)
        self.k_proj = linear(size, size, std, bias=True)
        self.v_proj = linear(size, size, std, bias=True)
        self.out_proj = linear(size, size, std, bias=True)

    def forward(self, hidden_states):
        batch, seq, size = hidden_states.shape
        heads = [batch, seq, self.num_heads, size // self.num_heads]
        query = self.q_proj(hidden_states).reshape(heads)
        key = self.k_proj(hidden_states).reshape(heads)
        value = self.v_proj(hidden_states).reshape(heads)
        return self.out_proj(attention(query, key, value, causal=False).reshape([batch, seq, size]))


class ClipMLP(nn.Layer):
    def __init__(self, config: VisionConfig, std: float):
        super().__init__()
        self.fc1 = linear(config.hidden_size, config.intermediate_size, std, bias=True)
        self.fc2 = linear(config.intermediate_size, config.hidden_size, std, bias=True)

    def forward(self, hidden_states):
        hidden_states = self.fc1(hidden_states)
        return self.fc2(hidden_states * F.sigmoid(1.702 * hidden_states))  # "quick GELU"


class ClipLayer(nn.Layer):
    def __init__(self, config: VisionConfig, std: float):
        super().__init__()
        self.self_attn = ClipAttention(config, std)
        self.layer_norm1 = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)
        self.mlp = ClipMLP(config, std)
        self.layer_norm2 = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)

    def forward(self, hidden_states):
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states))
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class ClipVisionTransformer(nn.Layer):
    """Args:
    config: sizes.
    patches_per_side: of the square image or tile.
    select_layer: which hidden state is the output: -1 is the last layer's, -2 that of the layer before, whose
        successor then never runs (it keeps its weights, for the way back to the upstream checkpoint).
    std: of the initial weights.

    Attributes:
        compute_dtype: what it computes in; None is its weights' own dtype.
    """

    def __init__(self, config: VisionConfig, patches_per_side: int, select_layer: int = -1, std: float = 0.02):
        super().__init__()
        size = config.hidden_size
        initializer = nn.initializer.Normal(0.0, std)
        self.config = config
        self.patches_per_side = patches_per_side
        self.class_embedding = self.create_parameter([size], default_initializer=initializer)
        self.patch_embedding = nn.Conv2D(
            3, size, config.patch_size, stride=config.patch_size, weight_attr=initializer, bias_attr=False
        )
        self.position_embedding = nn.Embedding(1 + patches_per_side**2, size, weight_attr=initializer)
        self.pre_layrnorm = LayerNorm(size, epsilon=config.layer_norm_eps)  # upstream's spelling
        self.layers = nn.LayerList([ClipLayer(config, std) for _ in range(config.num_hidden_layers)])
        self.num_layers_run = config.num_hidden_layers + 1 + select_layer
        self.use_recompute = False
        self.compute_dtype: str | None = None

    def forward(self, pixel_values):
        """Args:
            pixel_values: float [images, 3, side, side], side = patches_per_side * patch_size.
        Returns: float [images, patches_per_side ** 2, hidden]: the selected hidden state without the class token.
        Raises: ValueError if the images are of another size.
        """
        check_image_side(pixel_values, self.patches_per_side * self.config.patch_size)
        kernel = self.patch_embedding.weight
        kernel = kernel.astype(self.compute_dtype or kernel.dtype)
        patches = F.conv2d(pixel_values.astype(kernel.dtype), kernel, stride=self.config.patch_size)
        patches = patches.flatten(2).transpose([0, 2, 1])
        cls = self.class_embedding.expand([patches.shape[0], 1, patches.shape[2]]).astype(patches.dtype)
        hidden_states = paddle.concat([cls, patches], axis=1) + self.position_embedding.weight.astype(patches.dtype)
        hidden_states = self.pre_layrnorm(hidden_states)
        for layer in self.layers[: self.num_layers_run]:
            if self.use_recompute and self.training and not hidden_states.stop_gradient:
                hidden_states = recompute(layer, hidden_states)
            else:
                hidden_states = layer(hidden_states)
        return hidden_states[:, 1:]

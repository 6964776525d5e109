"""Qwen-VL's vision transformer, and the resampler that makes a fixed number of tokens of its patches.

Follows arXiv:2308.12966 and `visual.py` of the upstream checkpoint: a ViT without a class token, whose position table
of 16 x 16 rows is resized to every image, then cross-attention of learned queries to the patches.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from paddle_xc2.families.qwen_vl_settings import QwenVisionConfig
from paddle_xc2.models.attention import attention
from paddle_xc2.models.clip_vit import check_image_side, resize_grid
from paddle_xc2.models.layer_norm import LayerNorm
from paddle_xc2.models.plora import linear


class QwenVisionAttention(nn.Layer):
    """Self-attention over all patches. Of `in_proj`, each head has its query, key and value side by side."""

    def __init__(self, config: QwenVisionConfig, std: float):
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.in_proj = linear(size, 3 * size, std, bias=True)
        self.out_proj = linear(size, size, std, bias=True)

    def forward(self, hidden_states):
        """float [images, patches, hidden] -> the same shape."""
        images, patches, size = hidden_states.shape
        heads = self.in_proj(hidden_states).reshape([images, patches, self.num_heads, 3, -1])
        out = attention(*heads.unbind(3), causal=False)
        return self.out_proj(out.reshape([images, patches, size]))


class QwenVisionMLP(nn.Layer):
    def __init__(self, config: QwenVisionConfig, std: float):
        super().__init__()
        self.c_fc = linear(config.hidden_size, config.intermediate_size, std, bias=True)
        self.c_proj = linear(config.intermediate_size, config.hidden_size, std, bias=True)

    def forward(self, hidden_states):
        return self.c_proj(F.gelu(self.c_fc(hidden_states)))


class QwenVisionLayer(nn.Layer):
    def __init__(self, config: QwenVisionConfig, std: float):
        super().__init__()
        self.ln_1 = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)
        self.attn = QwenVisionAttention(config, std)
        self.ln_2 = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)
        self.mlp = QwenVisionMLP(config, std)

    def forward(self, hidden_states):
        hidden_states = hidden_states + self.attn(self.ln_1(hidden_states))
        return hidden_states + self.mlp(self.ln_2(hidden_states))


class QwenVisionTransformer(nn.Layer):
    """Args:
        config: sizes.
        patches_per_side: of the square image.
        std: of the initial weights.

    Attributes:
        compute_dtype: what it computes in; None is its weights' own dtype.
    """

    def __init__(self, config: QwenVisionConfig, patches_per_side: int, std: float = 0.02):
        super().__init__()
        size = config.hidden_size
        initializer = nn.initializer.Normal(0.0, std)
        self.config = config
        self.patches_per_side = patches_per_side
        self.patch_embedding = nn.Conv2D(
            3, size, config.patch_size, stride=config.patch_size, weight_attr=initializer, bias_attr=False
        )
        self.position_embedding = self.create_parameter([config.num_positions, size], default_initializer=initializer)
        self.ln_pre = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.layers = nn.LayerList([QwenVisionLayer(config, std) for _ in range(config.num_hidden_layers)])
        self.num_layers_run = config.num_hidden_layers
        self.use_recompute = False
        self.compute_dtype: str | None = None

    def forward(self, pixel_values):
        """Args:
            pixel_values: float [images, 3, side, side], side = patches_per_side * patch_size.
        Returns: float [images, patches_per_side ** 2, hidden].
        Raises: ValueError if the images are of another size.
        """
        check_image_side(pixel_values, self.patches_per_side * self.config.patch_size)
        kernel = self.patch_embedding.weight
        kernel = kernel.astype(self.compute_dtype or kernel.dtype)
        patches = F.conv2d(pixel_values.astype(kernel.dtype), kernel, stride=self.config.patch_size)
        positions = resize_grid(self.position_embedding, self.patches_per_side)
        hidden_states = self.ln_pre(patches.flatten(2).transpose([0, 2, 1]) + positions.astype(kernel.dtype))
        for layer in self.layers:
            if self.use_recompute and self.training and not hidden_states.stop_gradient:
                hidden_states = recompute(layer, hidden_states)
            else:
                hidden_states = layer(hidden_states)
        return hidden_states


class CrossAttention(nn.Layer):
    """`torch.nn.MultiheadAttention` of upstream's resampler: `in_proj` makes query, key and value, one after the other.

    Each comes from an input of its own, so that only a third of `in_proj` meets each.
    """

    def __init__(self, size: int, num_heads: int, std: float):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = linear(size, 3 * size, std, bias=True)
        self.out_proj = linear(size, size, std, bias=True)

    def forward(self, query, key, value):
        """query: float [queries, size]; key, value: float [images, keys, size] -> float [images, queries, size]."""
        images, _, size = key.shape
        dtype = key.dtype
        weights = paddle.split(self.in_proj.weight.astype(dtype), 3, axis=1)
        biases = paddle.split(self.in_proj.bias.astype(dtype), 3)
        query, key, value = (
            F.linear(states, weight, bias).reshape([-1, states.shape[-2], self.num_heads, size // self.num_heads])
            for states, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        out = attention(query.expand([images, -1, -1, -1]), key, value, causal=False)
        return self.out_proj(out.reshape([images, -1, size]))


class Resampler(nn.Layer):
    """Learned queries that look at the patches of an image: as many tokens as there are queries, whatever the image.

    `pos_embed` is a fixed table of sines and cosines, which upstream stores with its checkpoints, rounded. Queries get
    it as it is, keys get it resized to the patches, values don't get it.
    """

    def __init__(self, config: QwenVisionConfig, std: float = 0.02):
        super().__init__()
        size = config.output_size
        initializer = nn.initializer.Normal(0.0, std)
        self.query = self.create_parameter([config.num_queries, size], default_initializer=initializer)
        self.pos_embed = self.create_parameter(
            [config.num_queries, size], default_initializer=nn.initializer.Assign(config.position_sines())
        )
        # Patches as wide as the language model need no projection, and upstream has none then.
        self.kv_proj = linear(config.hidden_size, size, std) if config.hidden_size != size else nn.Identity()
        self.ln_q = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.ln_kv = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.attn = CrossAttention(size, config.num_resampler_heads, std)

    def forward(self, patches):
        """float [images, patches, vision hidden] -> float [images, queries, size]."""
        values = self.ln_kv(self.kv_proj(patches))
        positions = resize_grid(self.pos_embed, round(patches.shape[1] ** 0.5)).astype(values.dtype)
        query = self.ln_q(self.query.astype(values.dtype)) + self.pos_embed.astype(values.dtype)
        return self.attn(query, values + positions, values)


class QwenProjector(nn.Layer):
    """Patches of the vision transformer -> image tokens of the language model: resampled, normalised, projected."""

    def __init__(self, config: QwenVisionConfig, std: float = 0.02):
        super().__init__()
        size = config.output_size
        self.attn_pool = Resampler(config, std)
        self.ln_post = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.proj = self.create_parameter([size, size], default_initializer=nn.initializer.Normal(0.0, size**-0.5))

    def forward(self, patches):
        """float [images, patches, vision hidden] -> float [images, queries, hidden]."""
        tokens = self.ln_post(self.attn_pool(patches))
        return paddle.matmul(tokens, self.proj.astype(tokens.dtype))

"""Qwen-VL's network: Qwen's first decoder, a vision transformer, and a resampler between them.

Follows arXiv:2308.12966 and `modeling_qwen.py` of the upstream checkpoint. There, pictures are opened within the model,
by paths that stand in the image slots; here they come as pixels.
"""

from __future__ import annotations

from paddle_xc2.families.config import QwenVLConfig
from paddle_xc2.models.image_features import encode_squares
from paddle_xc2.models.plora import linear
from paddle_xc2.models.qwen import QwenModel
from paddle_xc2.models.qwen_vit import QwenProjector, QwenVisionTransformer
from paddle_xc2.models.vision_language import VisionLanguageNetwork


class QwenVLNetwork(VisionLanguageNetwork):
    """`paddle_xc2.model.QwenVLForCausalLM` is this and what users do with it: load, ask, adapt, save."""

    config_class = QwenVLConfig
    fixed = ("vision_proj.attn_pool.pos_embed",)

    def __init__(self, config: QwenVLConfig):
        super().__init__(config)
        std = config.initializer_range
        self.model = QwenModel(config)
        self.output = linear(config.hidden_size, config.vocab_size, std)
        self.vit = QwenVisionTransformer(config.vision, config.patches_per_side, std)
        self.vision_proj = QwenProjector(config.vision, std)

    def image_tokens(self, pixel_values):
        """float32 tensors [3, side, side], a list or stacked -> float [tokens of all images, hidden]."""
        return encode_squares(self.vit, self.vision_proj, pixel_values)

    def decode(self, embeddings, segments, position_ids, image_mask, image_span, cache):
        """As of `VisionLanguageNetwork`; to this decoder, image tokens are tokens like others."""
        return self.model(embeddings, segments, position_ids, cache)

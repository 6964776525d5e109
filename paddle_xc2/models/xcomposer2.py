"""InternLM-XComposer2's network. Tensors in, tensors out.

Follows `modeling_internlm_xcomposer2.py` of the upstream checkpoints (arXiv:2401.16420).
"""

from __future__ import annotations

from paddle_xc2.families.config import XComposer2Config
from paddle_xc2.models.clip_vit import ClipVisionTransformer
from paddle_xc2.models.image_features import build_projector, encode_squares, encode_tiled
from paddle_xc2.models.internlm2 import InternLM2Model
from paddle_xc2.models.plora import linear
from paddle_xc2.models.vision_language import VisionLanguageNetwork


class XComposer2Network(VisionLanguageNetwork):
    """InternLM-XComposer2: InternLM2 with PLoRA, a CLIP ViT, and a projector between them.

    `paddle_xc2.model.XComposer2ForCausalLM` is this and what users do with it: load, ask, adapt, save.
    """

    config_class = XComposer2Config

    def __init__(self, config: XComposer2Config):
        super().__init__(config)
        std = config.initializer_range
        self.model = InternLM2Model(config)
        self.output = linear(config.hidden_size, config.vocab_size, std)
        self.vit = ClipVisionTransformer(config.vision, config.patches_per_side, config.family.vision_select_layer, std)
        self.vision_proj = build_projector(config)
        if config.family.tiling:
            # Upstream's names and shapes. Both learn in every step that has an image.
            self.plora_glb_GN = self.create_parameter([1, 1, config.projector_inputs])
            self.plora_sub_GN = self.create_parameter([1, 1, 1, config.projector_inputs])

    def image_tokens(self, pixel_values):
        """list of float32 [3, height, width] -> float [tokens of all images, hidden], one image after the other."""
        if self.config.family.tiling is None:
            return encode_squares(self.vit, self.vision_proj, pixel_values)
        return encode_tiled(self.vit, self.vision_proj, pixel_values, self.plora_sub_GN, self.plora_glb_GN)

    def decode(self, embeddings, segments, position_ids, image_mask, image_span, cache):
        """As of `VisionLanguageNetwork`; PLoRA acts where image_mask is true."""
        return self.model(embeddings, segments, position_ids, image_mask, cache, image_span)

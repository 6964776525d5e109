"""Images -> ViT -> projector -> one row of the language model's hidden size per image token."""

from __future__ import annotations

import paddle
from paddle import nn

from paddle_xc2.configuration import XComposer2Config
from paddle_xc2.models.plora import linear

# Images that go through the ViT at once where no gradient is kept; more are done in turn, so that memory stays bounded.
IMAGES_AT_ONCE = 32


def build_projector(config: XComposer2Config) -> nn.Sequential:
    """Two linear layers with a GELU between them, as `build_vision_projector` ("mlp2x_gelu") upstream."""
    std = config.initializer_range
    return nn.Sequential(
        linear(config.vision.hidden_size, config.hidden_size, std, bias=True),
        nn.GELU(),
        linear(config.hidden_size, config.hidden_size, std, bias=True),
    )


def encode_images(vit, projector, pixel_values):
    """Image tokens of all images, one after the other.

    Args:
        vit: the vision transformer. If none of its parameters learns, it runs without a graph.
        projector: [.., vision hidden] -> [.., hidden].
        pixel_values: list of float32 tensors [3, height, width].
    Returns: float [tokens of all images, hidden].
    Raises: ValueError if an image has another size than the ViT takes.
    """
    learns = paddle.is_grad_enabled() and any(not parameter.stop_gradient for parameter in vit.parameters())
    with paddle.set_grad_enabled(learns):
        step = len(pixel_values) if learns else IMAGES_AT_ONCE
        features = [
            vit(paddle.stack(pixel_values[start : start + step]))
            for start in range(0, len(pixel_values), step)
        ]
        features = features[0] if len(features) == 1 else paddle.concat(features)
    features = projector(features)
    return features.reshape([-1, features.shape[-1]])


def fill_image_slots(token_embeddings, image_features, image_mask):
    """Puts image features where `image_mask` is true, in reading order.

    Args:
        token_embeddings: float [batch, seq, hidden].
        image_features: float [tokens of all images, hidden].
        image_mask: bool [batch, seq].
    Returns: float [batch, seq, hidden], dtype of `token_embeddings`.
    Raises: ValueError if the number of slots differs from the number of image features.
    """
    slots = paddle.nonzero(image_mask.flatten()).flatten()
    if slots.shape[0] != image_features.shape[0]:
        raise ValueError(
            f"input_ids hold {slots.shape[0]} image slots but pixel_values give {image_features.shape[0]} image tokens; "
            "check that no sample is cut inside an image and that the image size is the checkpoint's"
        )
    flat = token_embeddings.reshape([-1, token_embeddings.shape[-1]])
    return paddle.scatter(flat, slots, image_features.astype(flat.dtype)).reshape(token_embeddings.shape)

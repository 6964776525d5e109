"""Images -> ViT -> projector -> one row of the language model's hidden size per image token."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddle_xc2.families.config import XComposer2Config
from paddle_xc2.models.plora import linear

# Images or tiles that go through the ViT at once where no gradient is kept; more are done in turn, so that an image of
# 55 tiles does not explode memory.
IMAGES_AT_ONCE = 32


def build_projector(config: XComposer2Config) -> nn.Sequential:
    """Two linear layers with a GELU between them, as `build_vision_projector` ("mlp2x_gelu") upstream."""
    std = config.initializer_range
    return nn.Sequential(
        linear(config.projector_inputs, config.hidden_size, std, bias=True),
        nn.GELU(),
        linear(config.hidden_size, config.hidden_size, std, bias=True),
    )


def encode_squares(vit, projector, pixel_values):
    """Image tokens of images squashed to one square each, one image after the other.

    Args:
        vit: the vision transformer. If none of its parameters learns, it runs without a graph.
        projector: [.., vision hidden] -> [.., hidden].
        pixel_values: float32 tensors [3, side, side], a list or stacked.
    Returns: float [tokens of all images, hidden].
    Raises: ValueError if an image has another size than the ViT takes.
    """
    features = projector(_run_vit(vit, paddle.stack(list(pixel_values))))
    return features.reshape([-1, features.shape[-1]])


def encode_tiled(vit, projector, pixel_values, after_row, between_views):
    """Image tokens of high-resolution images: of each its global view, then its tiles, with separators.

    Follows upstream's `CLIPVisionTower.forward` of the tiled families: 2 x 2 patches become one token; each row of
    tokens is closed by `after_row`, and `between_views` stands between global view and tiles.

    Args:
        vit, projector: as in `encode_squares`; the projector takes merged patches.
        pixel_values: list of float32 tensors [3, height, width], each of any number of whole tiles.
        after_row: float, `vision hidden * 4` elements (upstream's plora_sub_GN).
        between_views: float, likewise (upstream's plora_glb_GN).
    Returns: float [tokens of all images, hidden].
    Raises: ValueError if an image is not made of whole tiles.
    """
    tile = vit.patches_per_side * vit.config.patch_size
    tiles, grids = [], []
    for image in pixel_values:
        height, width = image.shape[1:]
        if height % tile or width % tile:
            raise ValueError(
                f"pixel_values are {height} x {width} pixels, the vision encoder takes whole tiles of {tile} x {tile}; "
                "use the processor of the same checkpoint"
            )
        rows, columns = height // tile, width // tile
        # No antialiasing: upstream's global view is made so.
        view = F.interpolate(image.unsqueeze(0), size=[tile, tile], mode="bicubic", align_corners=False)
        tiles += [view, _cut(image, rows, columns)]
        grids.append((rows, columns))
    merged = _merge_patches(_run_vit(vit, paddle.concat(tiles)), vit.patches_per_side)
    tokens, start = [], 0
    after_row, between_views = after_row.reshape([1, 1, -1]), between_views.reshape([1, -1])
    for rows, columns in grids:
        tokens += [_close_rows(merged[start], after_row), between_views.astype(merged.dtype)]
        grid = merged[start + 1 : start + 1 + rows * columns]
        side, channels = grid.shape[1], grid.shape[3]
        grid = grid.reshape([rows, columns, side, side, channels]).transpose([0, 2, 1, 3, 4])
        tokens.append(_close_rows(grid.reshape([rows * side, columns * side, channels]), after_row))
        start += 1 + rows * columns
    return projector(paddle.concat(tokens))


def _run_vit(vit, images):
    """float32 [images, 3, side, side] -> float [images, patches, vision hidden].

    Without a graph if the ViT learns nothing.
    """
    learns = paddle.is_grad_enabled() and any(not parameter.stop_gradient for parameter in vit.parameters())
    with paddle.set_grad_enabled(learns):
        if learns or images.shape[0] <= IMAGES_AT_ONCE:
            return vit(images)
        return paddle.concat([vit(part) for part in paddle.split(images, _parts(images.shape[0]))])


def _parts(count: int) -> list[int]:
    """Sizes of at most IMAGES_AT_ONCE that add up to `count`."""
    return [min(IMAGES_AT_ONCE, count - start) for start in range(0, count, IMAGES_AT_ONCE)]


def _cut(image, rows: int, columns: int):
    """float [3, rows * tile, columns * tile] -> [rows * columns, 3, tile, tile], row by row."""
    tile = image.shape[1] // rows
    # Joined from slices: a transposition of so many dimensions takes several times as long on a CPU.
    strips = [strip.reshape([3, rows, -1]) for strip in paddle.split(image, columns, axis=2)]
    channels = paddle.stack(strips, axis=2).reshape([3, rows * columns, -1]).unbind(0)
    return paddle.stack(channels, axis=1).reshape([-1, 3, tile, tile])


def _merge_patches(features, side: int):
    """float [tiles, side * side, channels] -> [tiles, side / 2, side / 2, 4 * channels], 2 x 2 neighbours joined."""
    tiles, _, channels = features.shape
    rows = features.reshape([tiles * side // 2, 2, side * channels]).unbind(1)
    return paddle.concat([row.reshape([tiles, side // 2, side // 2, 2 * channels]) for row in rows], axis=-1)


def _close_rows(grid, separator):
    """[rows, columns, channels] -> [rows * (columns + 1), channels]; `separator` [1, 1, channels] ends every row."""
    rows, columns, channels = grid.shape
    separators = separator.astype(grid.dtype).expand([rows, 1, channels])
    return paddle.concat([grid, separators], axis=1).reshape([rows * (columns + 1), channels])


def fill_image_slots(token_embeddings, image_features, places):
    """Puts image features where the image slots are.

    Args:
        token_embeddings: float [batch, seq, hidden].
        image_features: float [tokens of all images, hidden].
        places: int64 [slots]: which tokens of the flattened batch they are, in reading order.
    Returns: float [batch, seq, hidden], dtype of `token_embeddings`.
    Raises: ValueError if the number of slots differs from the number of image features.
    """
    if places.shape[0] != image_features.shape[0]:
        raise ValueError(
            f"input_ids hold {places.shape[0]} image slots, the images give {image_features.shape[0]} image tokens; "
            "check that no sample is cut inside an image and that the image size is the checkpoint's"
        )
    flat = token_embeddings.reshape([-1, token_embeddings.shape[-1]])
    return paddle.scatter(flat, places, image_features.astype(flat.dtype)).reshape(token_embeddings.shape)

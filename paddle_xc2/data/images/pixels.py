"""RGB picture -> float32 [3, height, width], upstream's pixels in each family's way.

`square_image` is what XComposer2-7b and -vl-7b look at, `tiled_image` what the tiled families do. Follows
`ImageProcessor` in upstream's `data_mix.py`, `HD_transform` and `R560_HD18_Identity_transform` in `ixc_utils.py`, and
`Image_transform` of the 2.5 checkpoint.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

# CLIP's, for pixels between 0 and 1.
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def square_image(image: Image.Image, size: int) -> np.ndarray:
    """RGB image squashed to `size` x `size` pixels, whatever its shape: float32 [3, size, size], normalised."""
    return normalized(image.resize((size, size), Image.Resampling.BICUBIC))


def padded_square_image(image: Image.Image, size: int) -> np.ndarray:
    """RGB image in the middle of a square of CLIP's mean colour, then `size` x `size`: float32 [3, size, size].

    As LLaVA's `expand2square` and the CLIP image processor do it.
    """
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in CLIP_MEAN.tolist()))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square_image(canvas, size)


def cropped_square_image(image: Image.Image, size: int) -> np.ndarray:
    """The middle of an RGB image, its shorter side made `size` pixels: float32 [3, size, size].

    As the CLIP image processor does it, with the longer side rounded down.
    """
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return normalized(resized.crop((left, top, left + size, top + size)))


def tiled_size(width: int, height: int, tile: int, columns: int) -> tuple[int, int]:
    """(width, height) in pixels of the grid that an image of `width` x `height` is laid out on.

    Args:
        tile: pixels, side of a tile.
        columns: tiles along the longer side.
    """
    long, short = max(width, height), min(width, height)
    resized = _resized_short_side(long, short, tile * columns)
    grid = tile * columns, math.ceil(resized / tile) * tile
    return grid if width >= height else grid[::-1]


def tiled_image(image: Image.Image, tile: int, columns: int, centered: bool) -> np.ndarray:
    """RGB image with its longer side at `columns` tiles, on white up to whole tiles: float32 [3, height, width].

    Args:
        tile: pixels, side of a tile.
        columns: tiles along the longer side.
        centered: between the white borders; else they are all below (landscape) or at the right (portrait).
    """
    portrait = image.width < image.height
    if portrait:  # a true transpose, mirrored, as upstream; undone at the end
        image = image.transpose(Image.Transpose.TRANSPOSE)
    width, height = tile * columns, _resized_short_side(image.width, image.height, tile * columns)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    padded_height = math.ceil(height / tile) * tile
    canvas = Image.new("RGB", (width, padded_height), (255, 255, 255))
    canvas.paste(resized, (0, (padded_height - height) // 2 if centered else 0))
    return normalized(canvas.transpose(Image.Transpose.TRANSPOSE) if portrait else canvas)


def _resized_short_side(long: int, short: int, new_long: int) -> int:
    """Pixels of the shorter side when the longer becomes `new_long`.

    The division is upstream's, and so is its rounding.
    """
    return max(1, int(new_long / (long / short)))


def normalized(image: Image.Image) -> np.ndarray:
    """RGB image -> float32 [3, height, width] with CLIP's mean and deviation."""
    channels_first = np.asarray(image).transpose(2, 0, 1)
    # In this order and in float32, so that every bit is upstream's; in place, it is as fast as a table of 256 values.
    pixels = np.divide(channels_first, np.float32(255), order="C")
    pixels -= CLIP_MEAN[:, None, None]
    pixels /= CLIP_STD[:, None, None]
    return pixels

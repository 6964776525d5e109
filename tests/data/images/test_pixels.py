"""Upstream's pixels, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from paddle_xc2.data.images.pictures import load_image
from paddle_xc2.data.images.pixels import CLIP_MEAN, CLIP_STD, normalized, square_image

GOLDEN = Path(__file__).parents[2] / "golden" / "pixels"


@pytest.mark.parametrize(("size", "stride"), [(224, 5), (490, 19)])
def test_pixels_are_upstreams_to_the_last_bit(size, stride):
    pixels = square_image(load_image(GOLDEN / "flower_portrait.png"), size)
    assert (pixels.shape, pixels.dtype) == ((3, size, size), np.float32)
    with np.load(GOLDEN / "flower_portrait.npz") as golden:
        np.testing.assert_array_equal(pixels.ravel()[::stride], golden[f"every_{stride}_of_{size}"])


@pytest.mark.parametrize(("family", "size"), [("xc2_7b", 224), ("xc2_vl_7b", 490)])
def test_every_reference_image_has_upstreams_pixels(shared, family, size):
    folder = shared / "goldens" / family
    tensors = load_file(folder / "golden.safetensors")
    names = [n for n in tensors if n.startswith(("pix.chat.", "pix.train.")) and not n.endswith(".fp16")]
    assert len(names) >= 4
    for name in names:
        pixels = square_image(load_image(folder / "images" / name.split(".", 2)[2]), size).ravel()
        stride = -(-pixels.size // tensors[name].size)
        np.testing.assert_array_equal(pixels[::stride], tensors[name], err_msg=name)


def test_pixels_are_contiguous_and_normalised_per_channel():
    pixels = normalized(Image.new("RGB", (3, 2), (0, 51, 255)))
    assert pixels.shape == (3, 2, 3)
    assert pixels.flags.c_contiguous
    # Largest difference seen: 1.2e-7, the rounding of the last float32 bit.
    np.testing.assert_allclose(pixels[:, 0, 0], (np.array([0, 0.2, 1]) - CLIP_MEAN) / CLIP_STD, rtol=0, atol=5e-7)

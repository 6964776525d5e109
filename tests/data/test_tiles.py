"""High-resolution images: sizes, tiles, token counts and pixels against upstream's own code (goldens/hd_partition)."""

import json
import zlib
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from paddle_xc2.data.images.pixels import normalized, tiled_image, tiled_size
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.families.table import family_named

# Function in goldens/hd_partition -> (family, whether it is training's).
FUNCTIONS = {
    "xc2_4khd.HD_transform": ("xcomposer2-4khd-7b", False),
    "xc2d5.Image_transform(chat)": ("xcomposer2d5-7b", False),
    "xc2d5.R560_HD18_Identity_transform(finetune)": ("xcomposer2d5-7b", True),
}


def synthetic(width: int, height: int) -> Image.Image:
    """The picture that the reference was computed from."""
    x, y, c = np.arange(width)[None, :, None], np.arange(height)[:, None, None], np.arange(3)
    return Image.fromarray(((x * 7 + y * 13 + c * 50 + (x * y) // 97) % 256).astype(np.uint8))


def processor(function: str, hd_num: int) -> tuple[XComposer2Processor, bool]:
    name, training = FUNCTIONS[function]
    family = family_named(name)
    return XComposer2Processor(family, None, family.image_size, hd_num=hd_num), training


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Undoes the normalisation: float32 [3, height, width] -> uint8 [height, width, 3]."""
    black, white = (normalized(Image.new("RGB", (1, 1), (value,) * 3)) for value in (0, 255))
    return np.rint((pixels - black) / (white - black) * 255).astype(np.uint8).transpose(1, 2, 0)


def check_row(row, pixels_too: bool):
    width, height = row["in"]
    side, training = processor(row["fn"], row["hd_num"])
    family = side.family
    image = synthetic(width, height) if pixels_too else Image.new("RGB", (width, height))
    columns = side._tile_columns(width, height, training, 1)
    assert list(tiled_size(width, height, family.image_size, columns)) == row["out"]
    assert [row["out"][1] // family.image_size, row["out"][0] // family.image_size] == row["tiles_hw"]
    assert side.num_image_tokens(image, training) == row["llm_tokens"]
    if pixels_too:
        got = as_bytes(side.image_transform(image, training))
        assert zlib.crc32(got.tobytes()) == row["crc32_uint8_HWC"]


def test_every_row_of_the_reference(shared):
    rows = json.loads((shared / "goldens/hd_partition/golden.json").read_text())["rows"]
    assert len(rows) >= 348 and {row["fn"] for row in rows} == set(FUNCTIONS)
    for row in rows:
        # Pixels of large grids take a second each; sizes and counts are checked for all.
        check_row(row, pixels_too=row["out"][0] * row["out"][1] <= 1_300_000)


@pytest.mark.parametrize(
    ("function", "size", "hd_num", "out", "tokens"),
    [
        ("xc2_4khd.HD_transform", (336, 336), 1, (336, 336), 313),
        ("xc2_4khd.HD_transform", (640, 427), 4, (672, 672), 757),
        ("xc2d5.Image_transform(chat)", (336, 336), 1, (560, 560), 841),
        ("xc2d5.Image_transform(chat)", (640, 427), 24, (1120, 1120), 2061),
        ("xc2d5.Image_transform(chat)", (512, 341), 24, (560, 560), 841),
        ("xc2d5.R560_HD18_Identity_transform(finetune)", (512, 341), 18, (1120, 1120), 2061),
    ],
)
def test_sizes_and_token_counts(function, size, hd_num, out, tokens):
    side, training = processor(function, hd_num)
    image = Image.new("RGB", size)
    assert side.image_transform(image, training).shape == (3, out[1], out[0])
    assert side.num_image_tokens(image, training) == tokens


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 60), st.sampled_from([None, 1.0, 1.5]))
def test_a_grid_never_has_more_tiles_than_allowed(width, height, max_tiles, enlargement):
    tiling = family_named("xcomposer2-4khd-7b").tiling
    columns = tiling.columns(max(width, height), min(width, height), 336, max_tiles, enlargement)
    grid = tiled_size(width, height, 336, columns)
    assert 1 <= columns and grid[0] * grid[1] <= max(max_tiles, 1) * 336 * 336
    assert all(side % 336 == 0 for side in grid)
    if enlargement:
        assert columns <= ceil(max(width, height) * enlargement / 336)


def test_borders_are_white_and_where_the_family_puts_them():
    black = Image.new("RGB", (560, 300))
    below, centered = (as_bytes(tiled_image(black, 560, 1, centered=c)) for c in (False, True))
    assert (below[:300] == 0).all() and (below[300:] == 255).all()
    assert (centered[:130] == 255).all() and (centered[130:430] == 0).all() and (centered[430:] == 255).all()
    right = as_bytes(tiled_image(Image.new("RGB", (300, 560)), 560, 1, centered=False))
    assert (right[:, :300] == 0).all() and (right[:, 300:] == 255).all()


def test_an_extremely_long_image_keeps_at_least_a_line():
    assert tiled_image(Image.new("RGB", (4000, 2)), 336, 1, centered=True).shape == (3, 336, 336)


def test_several_images_of_a_chat_get_fewer_tiles():
    family = family_named("xcomposer2d5-7b")
    side = XComposer2Processor(family, None, family.image_size)
    image = Image.new("RGB", (4000, 4000))
    assert side.image_transform(image).shape == (3, 4 * 560, 4 * 560)
    assert side.image_transform(image, num_images=2).shape == (3, 2 * 560, 2 * 560)
    assert side.image_transform(image, training=True, num_images=2).shape == (3, 4 * 560, 4 * 560)


def test_a_model_trained_here_is_shown_training_pixels():
    family = family_named("xcomposer2d5-7b")
    image = synthetic(512, 341)
    as_trained = XComposer2Processor(family, None, family.image_size, chat_layout="as_trained")
    want = XComposer2Processor(family, None, family.image_size).image_transform(image, training=True)
    np.testing.assert_array_equal(as_trained.image_transform(image), want)
    assert as_trained.num_image_tokens(image) == as_trained.num_image_tokens(image, training=True)


@pytest.mark.parametrize(
    ("family", "hd_num", "message"),
    [
        ("xcomposer2-7b", 4, "hd_num is 4, but xcomposer2-7b takes no tiles; leave it out or set -1"),
        ("xcomposer2-4khd-7b", 0, "hd_num is 0, but an image takes at least 1 tile"),
    ],
)
def test_wrong_hd_num(family, hd_num, message):
    with pytest.raises(ValueError, match=message):
        XComposer2Processor(family_named(family), None, 224, hd_num=hd_num)
    assert XComposer2Processor(family_named(family), None, 224, hd_num=-1).hd_num is None

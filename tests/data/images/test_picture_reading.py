"""What pictures lose that are not plain RGB, and how they are read without losing it."""

import contextlib
import io
import random

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.data.images.picture_reading import (
    ANIMATED,
    DEEP,
    EMPTIED,
    FLOATS,
    LOSSES,
    POSSIBLE_LOSSES,
    TRANSPARENT,
    TURNED,
    PictureReading,
)
from paddle_xc2.data.images.pictures import ImageError, image_size_of, load_image, look_at

RAMP = np.linspace(0, 1, 30 * 40).reshape(30, 40)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, [9, 16, 3], dtype=np.uint8))


def saved(image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey(scale, dtype, kind="PNG") -> bytes:
    return saved(Image.fromarray((RAMP * scale).astype(dtype)), kind)


def formula() -> Image.Image:
    """Black on transparent black."""
    image = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (5, 5, 20, 10))
    return image


def turned(kind, orientation=6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(NOISE, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))


@pytest.mark.parametrize(
    ("content", "losses"),
    [
        (grey(65535, "uint16"), {DEEP: "its values go from 0 to 65535"}),
        (grey(200, "uint16"), {}),
        (grey(1e6, "int32", "TIFF"), {DEEP: "its values go from 0 to 1e+06"}),
        (grey(1, "float32", "TIFF"), {FLOATS: "its values go from 0 to 1"}),
        (grey(4000, "float32", "TIFF"), {FLOATS: "its values go from 0 to 4000"}),
        (grey(255, "float32", "TIFF"), {}),
        (saved(formula()), {TRANSPARENT: "90.6% of it is transparent", EMPTIED: "RGBA became RGB"}),
        (
            saved(formula().convert("P"), "GIF", transparency=0),
            {TRANSPARENT: "90.6% of it is", EMPTIED: "P became RGB"},
        ),
        (saved(Image.new("RGBA", (9, 9), (1, 2, 3, 255))), {}),
        (turned("JPEG"), {TURNED: "its EXIF data says that it is turned"}),
        (turned("PNG"), {TURNED: "its EXIF data says that it is turned"}),
        (turned("TIFF"), {}),  # Pillow turns it
        (turned("JPEG", 1), {}),
        (saved(NOISE, "GIF", save_all=True, append_images=[Image.new("RGB", (16, 9))]), {ANIMATED: "it is animated"}),
        (saved(NOISE.convert("CMYK"), "JPEG"), {}),
        (saved(Image.new("L", (9, 9), 7)), {}),
    ],
)
def test_what_is_lost(content, losses):
    size, found = look_at(content)
    assert size == load_image(content).size
    assert found.keys() == losses.keys() <= LOSSES.keys()
    assert all(found[loss].startswith(what) for loss, what in losses.items())
    assert losses.keys() - {EMPTIED} <= look_at(content, decode=False).losses.keys() <= POSSIBLE_LOSSES.keys()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_turned_once(kind, orientation, tmp_path):
    reading, content = PictureReading(exif=True), turned(kind, orientation)
    stored = np.asarray(load_image(content))
    shown = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.transpose(1, 0, 2)}
    shown |= {6: np.rot90(stored, -1), 7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored)}
    picture = load_image(content, reading=reading)
    np.testing.assert_array_equal(np.asarray(picture), shown[orientation])
    assert image_size_of(content, reading=reading) == picture.size
    assert load_image(picture, reading=reading).size == picture.size
    assert TURNED not in look_at(content, reading=reading).losses


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("background", "colour"), [("white", (255, 255, 255)), ("#102030", (16, 32, 48))])
def test_a_colour_behind_what_is_transparent(mode, background, colour):
    image = formula()
    content = saved(image.convert(mode), **({"transparency": 0} if mode == "P" else {}))
    shown = load_image(content, reading=PictureReading(background=background))
    assert (shown.getpixel((0, 0)), shown.mode) == (colour, "RGB")
    if mode != "P":
        assert shown.getpixel((6, 6)) == (0, 0, 0)
    assert load_image(content).getpixel((0, 0)) == (0, 0, 0)  # as upstream
    assert look_at(content, reading=PictureReading(background=background)).losses == {}


def test_what_is_no_colour():
    with pytest.raises(
        ValueError, match='background is "whit", which is no colour; write one such as white or #f0f0f0'
    ):
        PictureReading(background="whit")


def test_damaged_pictures_end_in_one_kind_of_error(recwarn):
    chance = random.Random(3)
    kinds = [turned(kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
    kinds += [saved(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)]), grey(65535, "uint16")]
    for _ in range(300):
        content = bytearray(chance.choice(kinds))
        for _ in range(chance.choice((1, 3, 10))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        del content[chance.choice((len(content), chance.randrange(len(content)))) :]
        for reading in (PictureReading(), PictureReading(exif=True, background="white")):
            for decode in (True, False):
                with contextlib.suppress(ImageError):
                    look_at(bytes(content), decode=decode, reading=reading)
    assert not recwarn

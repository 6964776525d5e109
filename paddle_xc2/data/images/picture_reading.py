"""What becomes of a picture that is not plain RGB: upstream's pixels, unless asked otherwise, and what they lose.

Upstream takes the pixels as they are stored and makes them RGB by PIL's rules. That turns grey of 16 bits white and
floats between 0 and 1 black, drops transparency, and ignores that a telephone was held upright.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor

from paddle_xc2.messages import shown

_ORIENTATION = 0x0112  # in EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # turned, width and height change places

# What a picture can lose, by rule: check-data warns by them.
DEEP, FLOATS, TRANSPARENT, TURNED, ANIMATED, EMPTIED = (
    *("16-bit image", "image of floats", "transparent image", "turned image", "animated image", "emptied image"),
)
LOSSES = {
    DEEP: "values above 255 become white; convert it to 8 bits",
    FLOATS: "values up to 1 become black, those above 255 white; convert it to 8 bits",
    TRANSPARENT: 'what is transparent gets the colour below it; "background": "white" puts white there',
    TURNED: 'it is shown as it is stored, not as EXIF says; "exif": true turns it',
    ANIMATED: "only the first frame is shown",
    EMPTIED: "nothing is left to see but one colour; convert it to RGB",
}
# The same as seen from a header alone: what it comes to, check-data says.
POSSIBLE_LOSSES = {
    DEEP: "picture of 16-bit grey, where values above 255 become white; check-data looks at them",
    FLOATS: "picture of floats, where values up to 1 become black; check-data looks at them",
    TRANSPARENT: 'picture with transparency, if any, which is dropped; "background": "white" puts white there',
    TURNED: 'picture shown as it is stored, not as its EXIF orientation says; "exif": true turns it',
    ANIMATED: "animated picture, of which only the first frame is shown",
}


@dataclass(frozen=True)
class PictureReading:
    """How pictures are read.

    Attributes:
        exif: turn a picture as its EXIF orientation says.
        background: colour that is seen through transparency, such as "white" or "#f0f0f0"; None drops transparency.
    Raises: ValueError for what is no colour.
    """

    exif: bool = False
    background: str | None = None

    def __post_init__(self):
        if self.background is not None:
            try:
                ImageColor.getrgb(self.background)
            except ValueError:
                raise ValueError(
                    f'background is "{shown(self.background)}", which is no colour; write one such as white or #f0f0f0'
                ) from None

    def turn_of(self, opened: Image.Image) -> int:
        """The orientation that is applied, 1 if none is. `opened`: not decoded yet, if it comes from a file."""
        return orientation_of(opened) if self.exif else 1

    def size_of(self, opened: Image.Image) -> tuple[int, int]:
        """(width, height) in pixels, as it is shown."""
        return opened.size[::-1] if self.turn_of(opened) in _LYING else opened.size

    def rgb_of(self, loaded: Image.Image, turn: int) -> Image.Image:
        """The picture as RGB. turn: of `turn_of`."""
        if turn in _TURNS:
            loaded = loaded.transpose(_TURNS[turn])
            loaded.info.pop("exif", None)  # it is not to be turned again
            loaded.getexif().pop(_ORIENTATION, None)
        if self.background is not None and _may_be_transparent(loaded):
            canvas = Image.new("RGBA", loaded.size, ImageColor.getrgb(self.background)[:3])
            loaded = Image.alpha_composite(canvas, loaded.convert("RGBA"))
        return loaded if loaded.mode == "RGB" else loaded.convert("RGB")


AS_UPSTREAM = PictureReading()


def orientation_of(opened: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 of a file of which Pillow applies it itself, or that says none."""
    if opened.format == "TIFF":
        return 1
    try:
        # Not PNG's own method, which would decode the picture to look behind it.
        orientation = Image.Image.getexif(opened).get(_ORIENTATION, 1)
    except Exception:  # EXIF data may be anything
        return 1
    return orientation if orientation in _TURNS else 1


def possible_losses(opened: Image.Image, reading: PictureReading) -> list[str]:
    """Keys of LOSSES that the header of a picture lets expect."""
    losses = []
    if opened.mode.startswith("I"):
        losses.append(DEEP)
    if opened.mode == "F":
        losses.append(FLOATS)
    if _may_be_transparent(opened) and reading.background is None:
        losses.append(TRANSPARENT)
    if orientation_of(opened) != 1 and not reading.exif:
        losses.append(TURNED)
    if _is_animated(opened):
        losses.append(ANIMATED)
    return losses


def losses_of(loaded: Image.Image, rgb: Image.Image, expected: list[str]) -> dict[str, str]:
    """What is lost in fact: key of LOSSES -> what of it, for a message.

    Args:
        loaded: as it is stored, decoded.
        rgb: what is shown.
        expected: of `possible_losses`.
    """
    found = {}
    for loss in expected:
        if loss in (DEEP, FLOATS):
            values = np.asarray(loaded)
            low, high = float(values.min()), float(values.max())
            if not (low == high or (1 < high <= 255 or loss == DEEP) and 0 <= low <= high <= 255):
                found[loss] = f"its values go from {low:g} to {high:g}"
        elif loss == TRANSPARENT:
            alpha = np.asarray(loaded.convert("RGBA").getchannel("A"))
            if (share := float((alpha < 255).mean())) > 0:
                found[loss] = f"{share:.1%} of it is transparent"
        else:
            found[loss] = "its EXIF data says that it is turned" if loss == TURNED else "it is animated"
    if loaded.mode != "RGB" and _is_of_one_colour(rgb) and not _is_of_one_colour(loaded):
        found[EMPTIED] = f"{loaded.mode} became RGB"
    return found


def _is_animated(opened: Image.Image) -> bool:
    if opened.format == "MPO":  # a photograph, and a smaller copy of it
        return False
    try:
        return bool(getattr(opened, "is_animated", False))
    except Exception:  # some formats look for a second frame then, in whatever a damaged file holds
        return False


def _may_be_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _is_of_one_colour(image: Image.Image) -> bool:
    extrema = image.getextrema()
    return all(low == high for low, high in (extrema if isinstance(extrema[0], tuple) else [extrema]))

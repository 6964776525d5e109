"""Image file, which may be anything -> RGB picture, within bounds of pixels and bytes.

Which formats are read stands in `formats.py`, what becomes of a picture that is not plain RGB in `picture_reading.py`.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images.formats import BYTES, FORMATS, foreign_kind
from paddle_xc2.data.images.picture_reading import AS_UPSTREAM, PictureReading, losses_of, possible_losses
from paddle_xc2.files.local_path import local_path

# An image is refused beyond these, before anything is decoded.
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 256 * 1024 * 1024

# Of the texts in a PNG file, each is inflated up to 1 MB by default: less than an XMP packet that editors write.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


class ImageError(DataError):
    """An image that can't be used."""

    rule = "image unusable"


class ImageMissing(ImageError):
    """There is no such file.

    Attributes:
        looked_for: what a record names, and the folder that it was looked for in first; None elsewhere.
    """

    rule = "image missing"

    def __init__(self, message: str, looked_for: tuple[str, Path] | None = None):
        super().__init__(message)
        self.looked_for = looked_for


class ImageDamaged(ImageError):
    """The file is no image, or not a whole one."""

    rule = "image damaged"


class ImageOfOtherKind(ImageError):
    """The file is of a kind that is not read here, which is no damage."""

    rule = "image of another kind"


class ImageTooLarge(ImageError):
    """More pixels or bytes than allowed."""

    rule = "image too large"


class Looked(NamedTuple):
    """What a picture is.

    Attributes:
        size: (width, height) in pixels, as it is shown.
        losses: by key of LOSSES, what of it is not shown.
    """

    size: tuple[int, int]
    losses: dict[str, str]


def load_image(
    image, source: str = "", max_pixels: int = MAX_PIXELS, reading: PictureReading = AS_UPSTREAM
) -> Image.Image:
    """Path, bytes of a file or PIL image -> PIL image of mode RGB.

    As upstream, the pixels are taken as they are stored (an EXIF orientation is not applied), other modes become RGB by
    PIL's rules (transparency is dropped, 16-bit grey is cut off at 255) and of an animation the first frame counts.

    Args:
        source: where the image was asked for, for messages: "train.json[17]".
        max_pixels: width x height up to which an image is decoded.
        reading: what is done otherwise.
    Raises: ImageMissing, ImageDamaged, ImageOfOtherKind, ImageTooLarge; they are DataErrors.
    """
    name = image_name(image, source)
    with _opened(image, name, max_pixels) as opened:
        return _decoded(opened, name, reading)


def stored_image(image, source: str = "") -> Image.Image:
    """Path, bytes of a file or PIL image -> PIL image as it is stored, decoded. Raises: as `load_image`."""
    name = image_name(image, source)
    with _opened(image, name, MAX_PIXELS) as opened:
        _decoded(opened, name, AS_UPSTREAM)  # what can't be converted is said now
        return opened


def image_size_of(
    image, source: str = "", max_pixels: int = MAX_PIXELS, reading: PictureReading = AS_UPSTREAM
) -> tuple[int, int]:
    """(width, height) in pixels of a path, the bytes of a file or a PIL image. Only the file's header is read.

    Raises: as `load_image`, but damage behind the header goes unnoticed.
    """
    with _opened(image, image_name(image, source), max_pixels) as opened, _no_pillow_warnings():
        return reading.size_of(opened)


def look_at(image, source: str = "", decode: bool = True, reading: PictureReading = AS_UPSTREAM) -> Looked:
    """What a picture is, and what of it is not shown; by its header alone, what may not be.

    Raises: as `load_image`, or `image_size_of` without `decode`.
    """
    name = image_name(image, source)
    with _opened(image, name, MAX_PIXELS) as opened, _no_pillow_warnings():
        size, losses = reading.size_of(opened), dict.fromkeys(possible_losses(opened, reading), "by its header")
        if decode:
            losses = losses_of(opened, _decoded(opened, name, reading), list(losses))
        return Looked(size, losses)


def _decoded(opened: Image.Image, name: str, reading: PictureReading) -> Image.Image:
    try:
        with _no_pillow_warnings():
            turn = reading.turn_of(opened)  # before Pillow looks behind the pixels
            opened.load()
            return reading.rgb_of(opened, turn)
    except Exception as error:  # Pillow's readers raise nearly anything on malformed data
        raise _unreadable(error, name) from error


def _unreadable(error: Exception, name: str) -> ImageError:
    reason = _first_line(error)
    if "MAX_TEXT" in reason:  # a limit of ours, no damage
        return ImageTooLarge(f"{name}: the texts beside its pixels are too large ({reason}); save it without them")
    if "decoder" in reason and "not available" in reason:
        return ImageOfOtherKind(f"{name}: Pillow was built without what reads it ({reason}); save it as PNG or JPEG")
    return ImageDamaged(f"{name}: the image can't be read ({reason}); replace the file")


def image_name(image, source: str) -> str:
    """What to call an image, or the video in its place, in messages."""
    what = str(image) if isinstance(image, (str, Path)) else "the image"
    return f"{source}: {what}" if source else what


@contextlib.contextmanager
def _opened(image, name: str, max_pixels: int):
    """Yields the PIL image, its pixels not decoded yet if it comes from a file."""
    with contextlib.nullcontext(image) if isinstance(image, Image.Image) else _open_file(image, name) as opened:
        width, height = opened.size
        if not width * height:
            raise ImageDamaged(f"{name}: {width} x {height} pixels are no picture; give another one")
        if width * height > max_pixels:
            raise ImageTooLarge(
                f"{name}: {width} x {height} pixels are more than the {max_pixels:,} allowed; make it smaller"
            )
        yield opened


def _open_file(image, name: str) -> Image.Image:
    if isinstance(image, bytes):
        num_bytes, file = len(image), io.BytesIO(image)
    else:
        file = local_path(image)
        if not file.is_file():
            what = "this is a folder, not an image file" if file.is_dir() else "there is no such image file"
            raise ImageMissing(f"{name}: {what}; correct the path or add the file")
        num_bytes = file.stat().st_size
    if num_bytes > MAX_FILE_BYTES:
        raise ImageTooLarge(
            f"{name}: {num_bytes:,} bytes are more than the {MAX_FILE_BYTES:,} allowed; make the file smaller"
        )
    try:
        with _no_pillow_warnings():
            return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{name}: far more pixels than the {MAX_PIXELS:,} allowed; make it smaller") from error
    except UnidentifiedImageError as error:
        if not num_bytes:
            raise ImageDamaged(f"{name}: the file is empty; replace it") from error
        if kind := foreign_kind(_start_of(file)):
            raise ImageOfOtherKind(f"{name}: {kind}") from error
        if kind := _beginning_as(file):
            raise ImageDamaged(
                f"{name}: this begins as {kind}, but can't be read: it is damaged, or of a kind that Pillow does not "
                "know; replace it, or save it anew"
            ) from error
        raise ImageDamaged(
            f"{name}: this is not an image; replace it, or save it as one of {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # as above
        raise _unreadable(error, name) from error


def _start_of(file) -> bytes:
    if isinstance(file, io.BytesIO):
        return file.getvalue()[:BYTES]
    with open(file, "rb") as opened:
        return opened.read(BYTES)


def _beginning_as(file) -> str | None:
    """The format whose files begin so."""
    start = _start_of(file)
    for name in FORMATS:
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(start[:16]) is True:
            return name
    return None


@contextlib.contextmanager
def _no_pillow_warnings():
    """Pillow warns about large images, which are checked here, and odd palettes, which are read as upstream does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

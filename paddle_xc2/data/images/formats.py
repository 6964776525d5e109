"""Formats of image files: those that are read, and those that are known by how they begin, with what to do.

A new format goes into FORMATS once Pillow reads it; until then into _KINDS.
"""

from __future__ import annotations

import re
from typing import NamedTuple

try:
    from PIL.AvifImagePlugin import SUPPORTED as _READS_AVIF
except ImportError:  # Pillow before 11.3
    _READS_AVIF = False

# Kinds of files that may be opened. Not all that Pillow knows: some of its readers start other programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "ICO", *(["AVIF"] if _READS_AVIF else []))

BYTES = 512  # of a file's beginning that tell

_SAVE = "save it as PNG or JPEG"


class _Kind(NamedTuple):
    """How files of a kind begin, what they are called, and what to do with them."""

    start: re.Pattern[bytes]
    name: str
    advice: str


def _kind(start: bytes, name: str, advice: str = _SAVE) -> _Kind:
    return _Kind(re.compile(start, re.DOTALL), name, advice)


_KINDS = (
    _kind(
        rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
        "HEIC, as telephones take it, which Pillow does not read",
        f"{_SAVE} (ImageMagick: magick a.heic a.jpg), or let the telephone take JPEG",
    ),
    _kind(
        rb"....ftypavi[fs]",
        "AVIF, which this version of Pillow does not read",
        f"install Pillow 11.3 or later, or {_SAVE}",
    ),
    _kind(rb"(\xff\x0a|\0\0\0\x0cJXL )", "JPEG XL, which Pillow does not read"),
    _kind(rb"II\xbc\x01", "JPEG XR, which Pillow does not read"),
    _kind(rb"8BPS", "a Photoshop document"),
    _kind(rb"gimp xcf", "a document of GIMP"),
    _kind(rb"%PDF", "a PDF document", "save each page as PNG (pdftoppm -png)"),
    _kind(rb"(%!PS|\xc5\xd0\xd3\xc6)", "PostScript"),
    _kind(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg", "SVG, which has no pixels"),
    _kind(rb".{128}DICM", "DICOM", "save it as PNG of 8 bits, with the window that shows what counts"),
    _kind(rb"v/1\x01", "OpenEXR, whose pixels are floats", "save it as PNG or JPEG, in the brightness that counts"),
    _kind(rb"#\?(RADIANCE|RGBE)", "Radiance HDR, whose pixels are floats", "save it as PNG or JPEG"),
    _kind(rb"\x93NUMPY", "an array of NumPy"),
    _kind(rb"SIMPLE  =", "FITS", "save it as PNG of 8 bits"),
    _kind(rb"FUJIFILMCCD-RAW|IIRO|IIU\0|II\*\0.{4}CR", "a raw picture of a camera", "develop it to JPEG"),
    _kind(rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ", "an archive", "unpack it"),
    _kind(rb"version https://git-lfs", "a Git LFS pointer, not the file", "run git lfs pull where it was cloned"),
    _kind(rb"(?i)\s*<(!doctype html|html|head)", "a web page, not an image", "download the image itself"),
)


def foreign_kind(start: bytes) -> str | None:
    """What a file is that begins so, and what to do: "this is ...; ..."; None if it may be a damaged image.

    Args:
        start: its first BYTES bytes.
    """
    found = next((kind for kind in _KINDS if kind.start.match(start)), None)
    return f"this is {found.name}; {found.advice}" if found else None

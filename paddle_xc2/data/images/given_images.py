"""Pictures as a program hands them over: paths, addresses, PIL images, arrays, bytes of files, tensors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images.downloads import ImageCache, is_data_url, is_url
from paddle_xc2.data.images.pictures import stored_image
from paddle_xc2.data.images.video import is_video
from paddle_xc2.files.local_path import local_path
from paddle_xc2.messages import shown

EXPECTED = (
    "expected a path, an http(s) or data address, the bytes of a file, a PIL image, an array [height, width, 3] of "
    "uint8 or of floats between 0 and 1, a tensor of encode_img, or a list of these"
)
_CHANNELS = (1, 3, 4)
_ROUNDING = 1e-3  # by which floats may leave 0 to 1: resampling does


def given_images(images) -> list:
    """One picture, a list of them, or None -> a list of what `given_image` makes of each.

    Raises: DataError for what can't be a picture; DownloadError.
    """
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [given_image(image, f"image[{index}]") for index, image in enumerate(images)]
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return [given_image(image, f"image[{index}]") for index, image in enumerate(images)]
    return [given_image(images)]


def given_image(image, name: str = "image"):
    """A picture in any form -> path, bytes of a file, PIL image or float tensor; what these hold is not looked at.

    Args:
        image: a path (`local_path`); an http(s) address, which is fetched once; a "data:" address; bytes of a file, or
            a file opened to read them; a PIL image; an array or a uint8 tensor (RGB, or grey): [height, width],
            [height, width, 1, 3 or 4] or [1, 3 or 4, height, width], as uint8, bool, or floats between 0 and 1. A float
            tensor is not a picture but its pixel values or tokens, and stays what it is.
        name: what to call it in messages.
    Raises: DataError for what can't be a picture; DownloadError.
    """
    if isinstance(image, str) and is_url(image):
        return ImageCache().fetch(image)
    if isinstance(image, str) and is_data_url(image):
        return ImageCache().unpack(image)
    if isinstance(image, (str, os.PathLike)):
        return local_path(image)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if is_tensor(image) and "float" in str(image.dtype):
        return image
    if isinstance(image, np.ndarray) or hasattr(image, "__array__"):
        return _picture_of(np.asarray(image), name)
    if callable(getattr(image, "read", None)):
        content = image.read()
        if isinstance(content, bytes):
            return content
        raise DataError(f"{name} is a file opened for text; open it with mode rb")
    raise DataError(f"{name} is {_described(image)}; {EXPECTED}")


def read_picture(reference) -> Image.Image | Path:
    """A picture in any form that `given_image` knows, but a tensor -> decoded image, or the path of a video.

    The image stays as it is stored: what becomes of transparency and EXIF, the model says that will see it.

    Raises: DataError if it can't be used.
    """
    picture = given_image(reference)
    return picture if is_video(picture) else stored_image(picture)


def is_tensor(image) -> bool:
    """Whether it is a Paddle tensor; Paddle is not imported for that."""
    return "paddle" in sys.modules and isinstance(image, sys.modules["paddle"].Tensor)


def _picture_of(array: np.ndarray, name: str) -> Image.Image:
    what = f"{name} is an array of shape {list(array.shape)} and dtype {array.dtype}"
    if array.ndim == 3 and array.shape[2] not in _CHANNELS and array.shape[0] in _CHANNELS:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] not in _CHANNELS or 0 in array.shape:
        raise DataError(f"{what}; expected [height, width, 3], [height, width] or [3, height, width]")
    if array.dtype.kind not in "buif":
        raise DataError(f"{what}; expected uint8, or floats between 0 and 1")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not (array.min() >= -_ROUNDING and array.max() <= 1 + _ROUNDING):  # so that NaN is refused too
            raise DataError(
                f"{what}, with values from {array.min():g} to {array.max():g}; floats must be between 0 and 1. Give "
                "values up to 255 as uint8, and pixel values of image_transform as a Paddle tensor"
            )
        array = np.rint(array.clip(0, 1) * 255)
    elif array.dtype.kind == "b":
        array = array * np.uint8(255)
    elif array.min() < 0 or array.max() > 255:
        raise DataError(f"{what}, with values from {array.min()} to {array.max()}; integers must be between 0 and 255")
    return Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))


def _described(value) -> str:
    return "None" if value is None else f"{shown(repr(value))} ({type(value).__name__})"

"""The images of a request: base64 in a data address, or, if that is allowed, a public address."""

from __future__ import annotations

import base64
import binascii

from PIL import Image

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images.downloads import is_data_url, is_url
from paddle_xc2.data.images.pictures import image_size_of, stored_image
from paddle_xc2.data.images.video import is_video
from paddle_xc2.messages import shown
from paddle_xc2.serving.errors import ApiError
from paddle_xc2.serving.fetching import fetch_public
from paddle_xc2.serving.limits import Limits


def image_file(url: str, limits: Limits, fetch: bool) -> bytes:
    """The image's file, not looked at. fetch: whether http(s) addresses are followed. Raises: ApiError."""
    if is_data_url(url):
        return _from_base64(url, limits)
    if not is_url(url):
        raise _unusable(f'"{shown(url, 40)}" is no address; send the image in base64: data:image/png;base64,...')
    if not fetch:
        raise _unusable("this server fetches no addresses; send the image in base64: data:image/png;base64,...")
    return fetch_public(url, limits.max_image_bytes, limits.fetch_seconds)


def decoded_image(content: bytes, limits: Limits) -> Image.Image:
    """The image of a file. Raises: ApiError."""
    try:
        if is_video(content):
            raise _unusable("this is a video; send pictures")
        image_size_of(content, max_pixels=limits.max_image_pixels)  # by its header, before anything is decoded
        return stored_image(content)
    except DataError as error:
        raise _unusable(str(error)) from error


def _from_base64(url: str, limits: Limits) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _unusable('an image is not in base64; write "data:image/png;base64," and the image')
    if len(body) * 3 // 4 > limits.max_image_bytes:
        raise _unusable(f"an image has more than the {limits.max_image_bytes:,} bytes allowed; make it smaller")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _unusable(f"an image is not valid base64 ({error})") from error


def _unusable(message: str) -> ApiError:
    return ApiError(400, message, "invalid_image", "messages")

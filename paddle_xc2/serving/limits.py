"""What a request may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Attributes:
    max_body_bytes: of a request.
    max_image_bytes: of one image, as a file.
    max_image_pixels: width x height of one image.
    max_images: of a request.
    max_choices: answers to one request (`n`).
    max_new_tokens: of an answer for which the request says nothing.
    body_seconds: that a client may take to send a request.
    answer_seconds: after which an answer is given up.
    fetch_seconds: that an image behind an address may take.
    """

    max_body_bytes: int = 32 * 2**20
    max_image_bytes: int = 20 * 2**20
    max_image_pixels: int = 40_000_000
    max_images: int = 16
    max_choices: int = 8
    max_new_tokens: int = 1024
    body_seconds: float = 30.0
    answer_seconds: float = 600.0
    fetch_seconds: float = 15.0

"""Image tokens of pictures that were shown lately: a second question about one does not encode it again."""

from __future__ import annotations

from collections import OrderedDict

import paddle
import xxhash

MAX_BYTES = 256 * 2**20
_PIXELS_AT_ONCE = 2**19  # that are encoded before others have their turn: about two pictures of 490 x 490


class KnownImages:
    """Args:
    model: of a class in paddle_xc2/model.py.
    max_bytes: of what is kept once nobody uses it.
    """

    def __init__(self, model, max_bytes: int = MAX_BYTES):
        self._model, self._max_bytes = model, max_bytes
        self._kept: OrderedDict[str, paddle.Tensor] = OrderedDict()
        self._num_bytes = 0

    def encode_some(self, pixels: dict) -> None:
        """Encodes the first of some images that `of` does not know, and others of its shape beside it.

        Args:
            pixels: {key: float32 [3, height, width]}; see `key`.
        """
        missing = [key for key in pixels if key not in self._kept]
        if not missing:
            return
        shape = pixels[missing[0]].shape
        alike = [key for key in missing if pixels[key].shape == shape]
        alike = alike[: max(1, _PIXELS_AT_ONCE // (shape[1] * shape[2]))]
        tokens = self._model.image_tokens([paddle.to_tensor(pixels[key]) for key in alike])
        for key, features in zip(alike, tokens.reshape([len(alike), -1, tokens.shape[1]]).unbind(0), strict=True):
            self._kept[key] = features
            self._num_bytes += _size_of(features)

    def knows(self, key: str) -> bool:
        return key in self._kept

    def of(self, key: str):
        """float [tokens, hidden] of an image that is known."""
        self._kept.move_to_end(key)
        return self._kept[key]

    def forget_oldest(self) -> None:
        """Down to max_bytes. Between requests: what one of them is waiting for must stay."""
        while self._num_bytes > self._max_bytes:
            _, features = self._kept.popitem(last=False)
            self._num_bytes -= _size_of(features)


def image_key(served_name: str, pixels) -> str:
    """What an image is known by. pixels: float32 [3, height, width]; served_name: of the model that sees it."""
    return f"{served_name}/{pixels.shape}/{xxhash.xxh3_128_hexdigest(pixels)}"


def _size_of(tensor) -> int:
    return tensor.size * tensor.element_size()

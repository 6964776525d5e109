"""QwenVLProcessor: what stands between a record or a question and the batch of a Qwen-VL."""

from __future__ import annotations

import re

from PIL import Image

from paddle_xc2.data.boxes import draw_boxes, parse_boxes
from paddle_xc2.data.chat_request import read_request
from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.encode import Example
from paddle_xc2.data.images.given_images import given_images
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER, IMG_END, IMG_START

_PICTURE = re.compile(f"{IMG_START}(.*?){IMG_END}|{IMAGE_PLACEHOLDER}", re.DOTALL)


class QwenVLProcessor(XComposer2Processor):
    """As XComposer2Processor; its questions may also name pictures as upstream's do, and its answers places."""

    def encode_chat(
        self,
        query: str,
        images=(),
        history=(),
        meta_instruction: str | None = None,
        max_window_size: int | None = None,
        tags: bool = True,
    ) -> Example:
        """The prompt of a chat.

        Args:
            images: those that have no <img>path</img>, in reading order; without a place, they go before the question,
                numbered.
            max_window_size: as of `in_window`.
            tags: whether <img>path</img> in query and history is a picture, which is then opened: for a program's own
                texts, as upstream's `from_list_format` writes them. False takes it as text: for texts of others, who
                could name any file. `model.chat` takes it so.
            For the others see `read_request`.
        Raises: DataError.
        """
        request = read_request(query, images, history, meta_instruction, self.family.template)
        if tags:
            given = iter(request.images)
            shown: list = []
            turns = tuple((_with_places(question, given, shown), answer) for question, answer in request.turns)
            asked = _with_places(request.query, given, shown)
            request = request._replace(turns=turns, query=asked, images=(*shown, *given))
        return self.encode_chat_request(request, max_window_size)

    def parse_boxes(self, text: str) -> list[dict]:
        """The places that an answer names: see `data/boxes.py`."""
        return parse_boxes(text)

    def draw_boxes(self, image: Image.Image, text: str) -> Image.Image:
        """A copy of a picture with the places that an answer names: see `data/boxes.py`."""
        return draw_boxes(image, text)


def _with_places(text: str, given, shown: list) -> str:
    """A question with <ImageHere> for each of its pictures, which are added to `shown`.

    Args:
        given: iterator of the pictures that the others stand for.
    """

    def place(found: re.Match) -> str:
        if found[1] is not None:
            shown.extend(given_images(found[1]))
        elif (picture := next(given, None)) is None:
            raise DataError(f"there are fewer images than {IMAGE_PLACEHOLDER}; write one for each image")
        else:
            shown.append(picture)
        return IMAGE_PLACEHOLDER

    return _PICTURE.sub(place, text)

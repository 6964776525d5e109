"""Places in a picture as Qwen-VL writes them: <ref>name</ref><box>(x1,y1),(x2,y2)</box>, in thousandths."""

from __future__ import annotations

import re
from itertools import cycle

from PIL import Image, ImageDraw

from paddle_xc2.data.conversation import DataError
from paddle_xc2.families.special_tokens import BOX_END, BOX_START, REF_END, REF_START
from paddle_xc2.messages import shown

SCALE = 1000  # of coordinates
_MARKS = re.compile("|".join((REF_START, REF_END, BOX_START, BOX_END)))
_PLACE = re.compile(f"(?:{REF_START}(?P<ref>.*?){REF_END})?{BOX_START}(?P<box>.*?){BOX_END}", re.DOTALL)
_COLOURS = ("red", "lime", "deepskyblue", "gold", "magenta", "cyan", "orange", "white")


def parse_boxes(text: str) -> list[dict]:
    """The boxes in a text, as upstream's `_fetch_all_box_with_ref`.

    Returns: [{"box": (x1, y1, x2, y2), "ref": text}]; "ref" only where one stands directly before its box.
    Raises: DataError for a mark that is not closed, and for a box that is not four whole numbers.
    """
    opened = None
    for mark in _MARKS.findall(text):
        expected = {REF_START: REF_END, BOX_START: BOX_END}.get(opened)
        if opened is None and mark in (REF_START, BOX_START):
            opened = mark
        elif mark == expected:
            opened = None
        else:
            raise DataError(f'"{shown(text)}": {mark} stands {"within " + opened if opened else "alone"}')
    if opened is not None:
        raise DataError(f'"{shown(text)}": {opened} is not closed')
    boxes = []
    for place in _PLACE.finditer(text):
        found = {"box": _numbers(place["box"])}
        boxes.append(found if place["ref"] is None else {**found, "ref": place["ref"].strip()})
    return boxes


def _numbers(content: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in content.replace("(", "").replace(")", "").split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise DataError(f'a box holds "{shown(content)}", expected (x1,y1),(x2,y2), whole numbers from 0 to {SCALE}')
    return numbers


def in_pixels(box: tuple[int, ...], width: int, height: int) -> tuple[int, ...]:
    """A box on a picture of so many pixels, as upstream's `draw_bbox_on_latest_picture` counts them."""
    return tuple(int(number / SCALE * side) for number, side in zip(box, (width, height) * 2, strict=True))


def draw_boxes(image: Image.Image, text: str) -> Image.Image:
    """A copy of a picture, in RGB, with the boxes of a text drawn into it, one colour for all of a name.

    Raises: DataError as `parse_boxes`.
    """
    drawn = image.convert("RGB")
    draw, line = ImageDraw.Draw(drawn), max(1, max(image.size) // 200)
    colours, of_name = cycle(_COLOURS), {}
    for found in parse_boxes(text):
        name = found.get("ref", "")
        colour = of_name[name] if name in of_name else of_name.setdefault(name, next(colours))
        left, top, right, bottom = in_pixels(found["box"], *image.size)
        left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        if name.isascii():  # Pillow's own font has few other characters
            draw.text((left + 2 * line, top + line), name, fill=colour)
    return drawn

"""ms-swift's "objects": what stands for each <ref-object> and <bbox> in the texts of a record.

    {"objects": {"ref": [name, ...], "bbox": [[x1, y1, x2, y2], ...], "bbox_type": "real", "image_id": [0, ...]}}

or, as before its version 3, a list of objects or the JSON of one, whose boxes may be in thousandths already:

    {"objects": [{"caption": name, "bbox": [x1, y1, x2, y2], "bbox_type": "norm_1000", "image": 0}, ...]}

A box is written as ms-swift feeds it to these models: `[(x1,y1),(x2,y2)]`, in thousandths of the image's sides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from paddle_xc2.data.conversation import DataError, Message
from paddle_xc2.messages import shown

REF, BOX = "<ref-object>", "<bbox>"

_PIXELS = "real"
_SIDES = {"norm1": 1, "norm_1": 1, "norm_1000": 1000}  # of the image, in the other units of boxes
_OBJECT_KEYS = ("ref", "label", "bbox", "bbox_type", "image_id")  # label: another name of ref
_OLDER_KEYS = {"caption": "ref", "bbox": "bbox", "image": "image_id"}
_LARGEST = 1e9  # coordinate; not a number is not below it either


def fill_objects(
    messages: tuple[Message, ...], objects, num_images: int, size_of: Callable[[int], tuple[int, int]], source: str
) -> tuple[Message, ...]:
    """The messages with the names and boxes of `objects` in their places, in reading order.

    Args:
        size_of: (width, height) in pixels of an image of the record, by its number.
    Raises: DataError if there are not as many as places, or one can't be written.
    """
    text = "\0".join(message.text for message in messages)
    objects = _of_older(objects, text, source)
    if not isinstance(objects, dict) or (unknown := [key for key in objects if key not in _OBJECT_KEYS]):
        what = f"has a key {shown(repr(unknown[0]), 40)}" if isinstance(objects, dict) else "is no object"
        raise DataError(f'{source}: "objects" {what}; write {{"ref": [...], "bbox": [[x1, y1, x2, y2], ...]}}')
    refs, boxes = _list_of(objects, "ref" if "ref" in objects else "label", source), _list_of(objects, "bbox", source)
    for key, mark, values in (("ref", REF, refs), ("bbox", BOX, boxes)):
        if text.count(mark) not in (0 if values is refs else len(values), len(values)):
            raise DataError(
                f'{source}: "objects" has {len(values)} in "{key}" for {text.count(mark)} {mark} in the messages; '
                f"write one {mark} for each",
                "objects",
            )
    if not all(isinstance(ref, str) for ref in refs):
        raise DataError(f'{source}: "ref" of "objects" must be a list of texts', "objects")
    written = {REF: iter(refs), BOX: _written_boxes(objects, boxes, num_images, size_of, source)}
    marks = re.compile("|".join(mark for mark in written if mark in text) or "(?!)")
    return tuple(
        Message(message.role, marks.sub(lambda found: next(written[found.group()]), message.text))
        for message in messages
    )


def _of_older(objects, text: str, source: str):
    """Objects of before ms-swift 3 in its present form, as far as the text has places for them; others as they are."""
    if isinstance(objects, str):
        try:
            objects = json.loads(objects)
        except (ValueError, RecursionError):
            return objects
    if not (isinstance(objects, list) and all(isinstance(one, dict) for one in objects)):
        return objects
    if len(units := {one.get("bbox_type", _PIXELS) for one in objects if isinstance(one.get("bbox_type"), str)}) > 1:
        raise DataError(f'{source}: the boxes of "objects" are in several units ({", ".join(sorted(units))}); use one')
    values = {new: [one[old] for one in objects if old in one] for old, new in _OLDER_KEYS.items()}
    wanted = {"ref": REF in text, "bbox": BOX in text, "image_id": bool(values["image_id"])}
    present = {key: values[key] for key, is_wanted in wanted.items() if is_wanted}
    return present | ({"bbox_type": units.pop()} if units else {})


def _list_of(objects: dict, key: str, source: str) -> list:
    values = objects.get(key) or []
    if not isinstance(values, list):
        raise DataError(f'{source}: "{key}" of "objects" must be a list', "objects")
    return values


def _written_boxes(objects: dict, boxes: list, num_images: int, size_of, source: str) -> Iterator[str]:
    """Yields the text of each box. Raises: DataError."""
    unit, images = objects.get("bbox_type") or _PIXELS, _list_of(objects, "image_id", source)
    if unit not in (_PIXELS, *_SIDES):
        raise DataError(f'{source}: "bbox_type" of "objects" is not one of {", ".join((_PIXELS, *_SIDES))}', "objects")
    for index, box in enumerate(boxes):
        if not (
            isinstance(box, list)
            and len(box) in (2, 4)
            and all(isinstance(number, int | float) and abs(number) < _LARGEST for number in box)
        ):
            raise DataError(
                f'{source}: "bbox" {index} of "objects" is no [x1, y1, x2, y2] or [x, y] of numbers; correct it',
                "objects",
            )
        image = images[index] if index < len(images) else 0
        if unit == _PIXELS and not (isinstance(image, int) and 0 <= image < num_images):
            raise DataError(
                f'{source}: "bbox" {index} of "objects" is of image {image}, and there are {num_images}; '
                'correct "image_id"',
                "objects",
            )
        sides = size_of(image) if unit == _PIXELS else (_SIDES[unit],) * 2
        thousandths = [round(number / side * 1000) for number, side in zip(box, sides * 2, strict=False)]
        if not all(0 <= number <= 1000 for number in thousandths):
            where = f"{sides[0]} x {sides[1]} pixels" if unit == _PIXELS else f"an image of side {sides[0]}"
            raise DataError(
                f'{source}: "bbox" {index} of "objects", {shown(str(box), 60)}, goes beyond {where}; correct it, or '
                '"bbox_type"',
                "objects",
            )
        points = (f"({x},{y})" for x, y in zip(thousandths[::2], thousandths[1::2], strict=True))
        yield f"[{','.join(points)}]"

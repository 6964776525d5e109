"""Each dialect of training data -> messages with `<ImageHere>`, and references to images.

A dialect is one function. Which one reads a record is seen from the record itself, so that one file may hold several:

    XComposer2      {"image": [path, ...], "conversations": [{"from": "user", "value": "<ImageHere> ..."}, ...]}
    XComposer-2.5   the same from human and bot; several images are `Image1 <ImageHere>; Image2 <ImageHere>; `
    PaddleMIX       {"conversations": [["<img>path</img>\\nquestion", "answer"], ...]}
    LLaVA, XTuner   {"image": path, "conversations": [{"from": "human", "value": "<image>\\n..."}, ...]}
    Qwen-VL         {"conversations": [{"from": "user", "value": "Picture 1: <img>path</img>\\n..."}, ...]}
    messages        {"messages": [{"role": "user", "content": text or parts}, ...], "images": [path, ...]}

Texts are taken as they are: what looks like a slip in them is counted (`doubts`), never rewritten. A mark of an image
in an answer is text. Only what belongs to the mark of an image in another format than XComposer's own, a line break
behind it, goes with the mark (`picture_marks`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from paddle_xc2.data.conversation import DataError, Message
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.picture_marks import without_marks
from paddle_xc2.data.records.doubts import note_doubts
from paddle_xc2.data.records.grounding import BOX, REF, fill_objects
from paddle_xc2.data.records.named_images import check_no_image_is_meant, image_of_feature, listed_images
from paddle_xc2.data.records.record_keys import READ_KEYS, UNREAD_KEY, check_keys, names_image
from paddle_xc2.data.records.turns import (
    TURN_KEYS,
    answers,
    checked_text,
    kind_of,
    messages_of,
    shown_value,
    spoken_turns,
    turns_of,
    with_history,
    without_leading_answers,
)
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER, LLAVA_IMAGE, LLAVA_VIDEO
from paddle_xc2.messages import counted, listed, nearest, shown

FILLED = 'record whose <ref-object> and <bbox> are filled in from its "objects"'
UNFILLED = '<ref-object> or <bbox> without "objects" to fill it, taken as text'
LONE_TAG = "<img> without its </img> on the same line, or the other way round, taken as text"

_PART_TEXTS = ("text", "input_text")
_PART_IMAGES = ("image", "image_url", "input_image", "video", "video_url")
_IMAGE_TAG = re.compile(r"<img>([^<\n]*)</img>")
_OPEN_TAG = re.compile(r"<img>([^<\n]*)")
_LLAVA_TAG = re.compile(f"{LLAVA_IMAGE}|{LLAVA_VIDEO}")


def read_record(
    record, source: str, notes: Notes | None = None, size_of: Callable[[str], tuple[int, int]] | None = None
) -> tuple[tuple[Message, ...], list[str]]:
    """A record of any dialect -> (messages, references to images in the order of their `<ImageHere>`).

    Args:
        source: the record's name, for messages to the user.
        notes: where oddities that are no error are counted.
        size_of: (width, height) in pixels of the image that a reference names: boxes in pixels need it.
    Raises: DataError.
    """
    messages, references, reader = read_as_written(record, source, notes, size_of)
    return without_marks_of(messages, references, reader), references


def read_as_written(
    record, source: str, notes: Notes | None = None, size_of: Callable[[str], tuple[int, int]] | None = None
) -> tuple[tuple[Message, ...], list[str], Callable]:
    """`read_record`, but the messages with what belongs to the marks of their images, and the dialect's reader."""
    notes = Notes() if notes is None else notes
    record = with_history(record, source, notes)
    read = _dialect_of(record, source)
    messages, references = read(record, source, notes)
    system = record.get("system")
    if system:
        text = checked_text(system, '"system"', source)
        if messages and messages[0].role == "system":
            raise DataError(f'{source}: there are both "system" and a system turn; keep one', "roles")
        messages = (Message("system", text), *messages)
    messages = _with_objects(messages, record, references, size_of, source, notes)
    if not references:
        check_no_image_is_meant(record, messages, source)
    check_keys(record, source, notes)
    note_doubts(messages, bool(references), source, notes)
    return messages, references, read


def without_marks_of(messages: tuple[Message, ...], references: list[str], reader: Callable) -> tuple[Message, ...]:
    """Messages that `reader` read, as they are trained on: texts with XComposer's own mark stay as they are written."""
    return messages if reader is read_xcomposer2 else without_marks(messages, len(references))


def read_xcomposer2(record: dict, source: str, notes: Notes) -> tuple[tuple[Message, ...], list[str]]:
    """XComposer2's and XComposer-2.5's own: {"image": [path, ...] or path, "conversations": [{"from", "value"}, ...]}.

    `value` holds `<ImageHere>` where an image belongs; a single image needs none. Unlike upstream, the record, not the
    first of its file, says whether there are images, a path is no list of characters, and a system turn no answer.
    """
    references = listed_images(record, source)
    messages = messages_of(turns_of(record), source, notes)
    return without_leading_answers(messages, source, notes), references


def read_llava(record: dict, source: str, notes: Notes) -> tuple[tuple[Message, ...], list[str]]:
    """LLaVA's and XTuner's: as XComposer2's, but `<image>` (or `<video>`) stands for an image.

    A message's only image goes to its front, as XTuner's `llava_map_fn` does. Several stay in place; XTuner takes one
    image a sample.
    """
    messages, references = messages_of(turns_of(record), source, notes), listed_images(record, source)
    messages = without_leading_answers(messages, source, notes)
    return _marked(messages, _llava_text), references


def _llava_text(text: str) -> str:
    tags = _LLAVA_TAG.findall(text)
    if len(tags) == 1:
        return IMAGE_PLACEHOLDER + text.replace(tags[0], "").strip()
    return _LLAVA_TAG.sub(IMAGE_PLACEHOLDER, text)


def read_chatml(record: dict, source: str, notes: Notes) -> tuple[tuple[Message, ...], list[str]]:
    """PaddleMIX's chatml: {"conversations": [[question, answer], ...]}, images inline as `<img>path or address</img>`.

    Unlike there, every turn counts and one line may hold several tags; and the line break that PaddleMIX's documents
    write after a tag is part of it, so that chat asks what was trained.
    """
    messages = []
    for index, pair in enumerate(turns_of(record)):
        if len(pair) != 2:
            raise DataError(
                f"{source}: conversations[{index}] is a list of {len(pair)}; write [question, answer] for each turn"
            )
        for role, value in zip(("user", "assistant"), pair, strict=True):
            messages.append(Message(role, checked_text(value, f"the {role}'s text in conversations[{index}]", source)))
    return _read_tags(messages, record, source, notes)


def read_qwen_vl(record: dict, source: str, notes: Notes) -> tuple[tuple[Message, ...], list[str]]:
    """Qwen-VL's: speakers as in XComposer2's, images inline as in PaddleMIX's, labelled `Picture 1: `.

    Labels, `<ref>` and `<box>` stay in the text. An answer before the first question is dropped, as in Qwen-VL's
    `preprocess`, with its images.
    """
    messages = messages_of(turns_of(record), source, notes)
    return _read_tags(without_leading_answers(messages, source, notes), record, source, notes)


def read_messages(record: dict, source: str, notes: Notes) -> tuple[tuple[Message, ...], list[str]]:
    """{"messages": [{"role", "content"}, ...], "images": [...]}: ms-swift's, LLaMA-Factory's and OpenAI's.

    `content` is a text with `<image>` where an image of "images" belongs (or with `<img>path</img>`), or a list of
    parts {"type": "text" | "image_url" | "image", ...}. A part that names no image takes the next of "images". Texts
    side by side are joined by a line break.
    """
    listed = listed_images(record, source)
    messages, references = [], []
    for index, (role, content) in enumerate(spoken_turns(turns_of(record), source, "role", "content", notes)):
        if isinstance(content, list):
            text, images = read_parts(content, f"message {index}", source)
            if images and role == "assistant":
                raise DataError(
                    f"{source}: message {index} is an answer and shows an image; images belong into questions",
                    "placeholders",
                )
            references += images
        else:
            text = checked_text(content, f"message {index}", source)
        messages.append(Message(role, text))
    if not references:
        messages = without_leading_answers(messages, source, notes)
        if listed:
            messages = _marked(messages, lambda text: _LLAVA_TAG.sub(IMAGE_PLACEHOLDER, text))
        return _read_tags(messages, record, source, notes) if _has_tag(messages) else (messages, listed)
    num_unnamed = references.count(None)
    named = [reference for reference in references if reference is not None]
    if num_unnamed and not named and num_unnamed == len(listed):
        references = listed
    elif num_unnamed or listed and listed != named:
        raise DataError(
            f"{source}: the parts of the messages hold {counted(num_unnamed, 'image')} without a name and "
            f'{len(named)} with one, and "images" names {len(listed)}; name each image once, there or in its part',
            "placeholders",
        )
    return without_leading_answers(messages, source, notes), references


def read_parts(parts: list, where: str, source: str, image_types=str) -> tuple[str, list]:
    """A message in parts -> (its text, with `<ImageHere>` for each image; what names each image, or None).

    Args:
        image_types: what may name an image.
    Raises: DataError.
    """
    text, references, after_text = "", [], False
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        place = f"part {index} of {where}"
        if kind in _PART_TEXTS:
            text += "\n" * after_text + checked_text(part.get("text"), f'"text" in {place}', source)
        elif kind in _PART_IMAGES:
            references.append(_part_image(part, kind, place, source, image_types))
            text += IMAGE_PLACEHOLDER
        else:
            raise DataError(
                f"{source}: {place} is {kind_of(part) if kind is None else f'of type {shown_value(kind)}'}; write "
                '{"type": "text", "text": ...} or {"type": "image_url", "image_url": {"url": ...}}'
            )
        after_text = kind in _PART_TEXTS
    return text, references


def _part_image(part: dict, kind: str, place: str, source: str, image_types):
    for key in (kind, "image_url", "url", "path"):
        value = part.get(key)
        if isinstance(value, dict):
            value = value.get("url") or image_of_feature(value)
        if isinstance(value, image_types) and value is not None:
            return value
        if part.get(key) is not None:
            raise DataError(f'{source}: "{key}" in {place} is neither a path nor an address; write one')
    return None


def _dialect_of(record, source: str):
    """The function that reads this record."""
    if not isinstance(record, dict):
        raise DataError(f'{source}: the record is {kind_of(record)}; it must be an object with "conversations"')
    found = [key for key in TURN_KEYS if key in record]
    if not found:
        raise DataError(f'{source}: there is no "conversations" and no "messages"; {_what_there_is(record)}')
    if len(found) > 1:
        raise DataError(f'{source}: there are both "{found[0]}" and "{found[1]}"; keep one')
    turns = record[found[0]]
    if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        if turns and "from" not in turns[0] and ("role" in turns[0] or found == ["messages"]):
            return read_messages
        texts = [turn["value"] for turn in turns if isinstance(turn.get("value"), str) and not answers(turn)]
        if any(_IMAGE_TAG.search(text) for text in texts):
            return read_qwen_vl
        # Without an image, "<image>" may be what a text is about.
        has_tag = any(_LLAVA_TAG.search(text) for text in texts)
        return read_llava if has_tag and listed_images(record, source) else read_xcomposer2
    if isinstance(turns, list) and all(isinstance(turn, list) for turn in turns):
        return read_chatml
    is_list = isinstance(turns, list)
    kind = f"a list of {' and '.join(dict.fromkeys(map(kind_of, turns)))}" if is_list else kind_of(turns)
    raise DataError(
        f'{source}: "{found[0]}" is {kind}; write a list of {{"from": ..., "value": ...}}, or of [question, answer]'
    )


_FLAT = ({"question", "answer"}, {"query", "response"}, {"prompt", "response"}, {"instruction", "output"})
_FLAT_ADVICE = (
    'write {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}, or save such '
    "records as a table (CSV)"
)


def _what_there_is(record: dict) -> str:
    keys = [shown(str(key), 40) for key in record]
    unread = [key for key in keys if key not in READ_KEYS]  # "images" is no slip for "messages"
    if meant := next(filter(None, (nearest(name, unread) for name in TURN_KEYS)), None):
        return f'did you mean "{meant}"?'
    there = f"the record has {listed(keys, 10) or 'no keys'}"
    return f"{there}; {_FLAT_ADVICE}" if any(pair <= record.keys() for pair in _FLAT) else there


def _with_objects(
    messages: tuple[Message, ...], record: dict, references: list[str], size_of, source: str, notes: Notes
) -> tuple[Message, ...]:
    """The messages with what "objects" says in the places of names and boxes."""
    objects, has_places = record.get("objects"), any(BOX in one.text or REF in one.text for one in messages)
    if objects and has_places:
        notes.add(FILLED, source)
        return fill_objects(messages, objects, len(references), lambda index: size_of(references[index]), source)
    if objects:
        notes.add(UNREAD_KEY.format("objects"), source)
    if has_places:
        notes.add(UNFILLED, source)
    return messages


def _has_tag(messages) -> bool:
    return any(message.role != "assistant" and _IMAGE_TAG.search(message.text) for message in messages)


def _marked(messages, marked: Callable[[str], str]) -> tuple[Message, ...]:
    """The messages with the mark of each image written as `<ImageHere>`; in an answer, it is text."""
    return tuple(
        message if message.role == "assistant" else Message(message.role, marked(message.text)) for message in messages
    )


def _read_tags(messages, record: dict, source: str, notes: Notes) -> tuple[tuple[Message, ...], list[str]]:
    """Puts `<ImageHere>` for each `<img>path</img>`."""
    references = []
    for index, message in enumerate(messages):
        if message.role == "assistant":
            continue
        references += [reference.strip() for reference in _IMAGE_TAG.findall(message.text)]
        rest = _IMAGE_TAG.sub("", message.text)
        if any(names_image(name) for name in _OPEN_TAG.findall(rest)):
            raise DataError(
                f"{source}: message {index} has an <img> without its </img> on the same line, or the other way round; "
                "write <img>path</img>"
            )
        if "<img>" in rest or "</img>" in rest:
            notes.add(LONE_TAG, source)
    read = _marked(messages, lambda text: _IMAGE_TAG.sub(IMAGE_PLACEHOLDER, text))
    listed = listed_images(record, source)
    if references and listed and listed != references:
        raise DataError(
            f'{source}: "image" names {shown_value(listed)} but the <img> tags name {shown_value(references)}; keep '
            "one of the two"
        )
    return read, references or listed

"""Each dialect of training data -> messages with `<ImageHere>`, and references to images.

A dialect is one function. Which one reads a record is seen from the record itself, so that one file may hold several:

    XComposer2      {"image": [path, ...], "conversations": [{"from": "user", "value": "<ImageHere> ..."}, ...]}
    XComposer-2.5   the same from human and bot; several images are `Image1 <ImageHere>; Image2 <ImageHere>; `
    PaddleMIX       {"conversations": [["<img>path</img>\\nquestion", "answer"], ...]}
    LLaVA, XTuner   {"image": path, "conversations": [{"from": "human", "value": "<image>\\n..."}, ...]}
    Qwen-VL         {"conversations": [{"from": "user", "value": "Picture 1: <img>path</img>\\n..."}, ...]}
    messages        {"messages": [{"role": "user", "content": text or parts}, ...], "images": [path, ...]}

Texts are taken as they are: labels of images and boxes are checked, never rewritten. Only what belongs to the mark of
an image in another format than XComposer's own, a line break behind it, goes with the mark (`picture_marks`).
"""

from __future__ import annotations

import difflib
import re

from paddle_xc2.data.conversation import DataError, Message
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.picture_marks import without_marks
from paddle_xc2.data.record_keys import misspelt_keys
from paddle_xc2.messages import counted, shown
from paddle_xc2.special_tokens import IMAGE_PLACEHOLDER, LLAVA_IMAGE, LLAVA_VIDEO

# Who speaks, as records name them, in lower case.
SPEAKERS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "bot": "assistant",
    "gpt": "assistant",
}

LEADING_ANSWER = "message of the assistant before the first question, left out"
COLON_LABEL = 'label "Image1: <ImageHere>", which XComposer-2.5\'s documents write without a colon'

# Where a record keeps what is said, and what is shown; one of each.
TURN_KEYS = ("conversations", "conversation", "messages")
IMAGE_KEYS = ("image", "images", "video", "videos")

BOX_SIDE = 1000  # Qwen-VL's coordinates are thousandths of the image's sides

_PART_TEXTS = ("text", "input_text")
_PART_IMAGES = ("image", "image_url", "input_image", "video", "video_url")
_IMAGE_TAG = re.compile(r"<img>([^<\n]*)</img>")
_LLAVA_TAG = re.compile(f"{LLAVA_IMAGE}|{LLAVA_VIDEO}")
_LABEL = re.compile(r"\b(Image|Picture)[ ]?([0-9]{1,6})[ ]?([:：]?)[ ]?$")  # of the image that follows
_LABEL_LENGTH = 20  # characters of the longest, and one before it
_BOX = re.compile(r"<box>" + r"\s*,\s*".join([r"\s*\(\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*\)"] * 2) + r"\s*</box>")


def read_record(record, source: str, notes: Notes | None = None) -> tuple[tuple[Message, ...], list[str]]:
    """A record of any dialect -> (messages, references to images in the order of their `<ImageHere>`).

    Args:
        source: the record's name, for messages to the user.
        notes: where oddities that are no error are counted.
    Raises: DataError.
    """
    notes = Notes() if notes is None else notes
    read = _dialect_of(record, source)
    messages, references = read(record, source, notes)
    system = record.get("system")
    if system:
        text = _checked_text(system, '"system"', source)
        if messages and messages[0].role == "system":
            raise DataError(f'{source}: there are both "system" and a system turn; keep one', "roles")
        messages = (Message("system", text), *messages)
    _check_labels(messages, source, notes)
    _check_boxes(messages, bool(references), source)
    if not references:
        _check_no_image_is_meant(record, messages, source)
    return messages if read is read_xcomposer2 else without_marks(messages, len(references)), references


def read_xcomposer2(record: dict, source: str, notes: Notes) -> tuple[tuple[Message, ...], list[str]]:
    """XComposer2's and XComposer-2.5's own: {"image": [path, ...] or path, "conversations": [{"from", "value"}, ...]}.

    `value` holds `<ImageHere>` where an image belongs; a single image needs none. Unlike upstream, the record, not the
    first of its file, says whether there are images, a path is no list of characters, and a system turn no answer.
    """
    references = listed_images(record, source)
    messages = _messages(_turns_of(record), source)
    return _without_leading_answers(messages, source, notes), references


def read_llava(record: dict, source: str, notes: Notes) -> tuple[tuple[Message, ...], list[str]]:
    """LLaVA's and XTuner's: as XComposer2's, but `<image>` (or `<video>`) stands for an image.

    A message's only image goes to its front, as XTuner's `llava_map_fn` does. Several stay in place; XTuner takes one
    image a sample.
    """
    messages, references = _messages(_turns_of(record), source), listed_images(record, source)
    messages = [Message(message.role, _llava_text(message.text)) for message in messages]
    return _without_leading_answers(messages, source, notes), references


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
    for index, pair in enumerate(_turns_of(record)):
        if len(pair) != 2:
            raise DataError(
                f"{source}: conversations[{index}] is a list of {len(pair)}; write [question, answer] for each turn"
            )
        for role, value in zip(("user", "assistant"), pair, strict=True):
            messages.append(Message(role, _checked_text(value, f"the {role}'s text in conversations[{index}]", source)))
    return _read_tags(messages, record, source)


def read_qwen_vl(record: dict, source: str, notes: Notes) -> tuple[tuple[Message, ...], list[str]]:
    """Qwen-VL's: speakers as in XComposer2's, images inline as in PaddleMIX's, labelled `Picture 1: `.

    Labels, `<ref>` and `<box>` stay in the text. An answer before the first question is dropped, as in Qwen-VL's
    `preprocess`, with its images.
    """
    messages = _messages(_turns_of(record), source)
    return _read_tags(_without_leading_answers(messages, source, notes), record, source)


def read_messages(record: dict, source: str, notes: Notes) -> tuple[tuple[Message, ...], list[str]]:
    """{"messages": [{"role", "content"}, ...], "images": [...]}: ms-swift's, LLaMA-Factory's and OpenAI's.

    `content` is a text with `<image>` where an image of "images" belongs (or with `<img>path</img>`), or a list of
    parts {"type": "text" | "image_url" | "image", ...}. A part that names no image takes the next of "images". Texts
    side by side are joined by a line break.
    """
    listed = listed_images(record, source)
    messages, references = [], []
    for index, (role, content) in enumerate(_spoken(_turns_of(record), source, "role", "content")):
        if isinstance(content, list):
            text, images = read_parts(content, f"message {index}", source)
            references += images
        else:
            text = _checked_text(content, f"message {index}", source)
        messages.append(Message(role, text))
    if not references:
        if listed:
            messages = [Message(message.role, _LLAVA_TAG.sub(IMAGE_PLACEHOLDER, message.text)) for message in messages]
        messages = _without_leading_answers(messages, source, notes)
        return _read_tags(messages, record, source) if _has_tag(messages) else (messages, listed)
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
    return _without_leading_answers(messages, source, notes), references


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
            text += "\n" * after_text + _checked_text(part.get("text"), f'"text" in {place}', source)
        elif kind in _PART_IMAGES:
            references.append(_part_image(part, kind, place, source, image_types))
            text += IMAGE_PLACEHOLDER
        else:
            raise DataError(
                f"{source}: {place} is {_kind(part) if kind is None else f'of type {_shown(kind)}'}; write "
                '{"type": "text", "text": ...} or {"type": "image_url", "image_url": {"url": ...}}'
            )
        after_text = kind in _PART_TEXTS
    return text, references


def _part_image(part: dict, kind: str, place: str, source: str, image_types):
    for key in (kind, "image_url", "url", "path"):
        value = part.get(key)
        if isinstance(value, dict):
            value = value.get("url")
        if isinstance(value, image_types) and value is not None:
            return value
        if part.get(key) is not None:
            raise DataError(f'{source}: "{key}" in {place} is neither a path nor an address')
    return None


def _dialect_of(record, source: str):
    """The function that reads this record."""
    if not isinstance(record, dict):
        raise DataError(f'{source}: the record is {_kind(record)}; it must be an object with "conversations"')
    found = [key for key in TURN_KEYS if key in record]
    if not found:
        raise DataError(f'{source}: there is no "conversations" and no "messages"; {_what_there_is(record)}')
    if len(found) > 1:
        raise DataError(f'{source}: there are both "{found[0]}" and "{found[1]}"; keep one')
    turns = record[found[0]]
    if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        if turns and "from" not in turns[0] and ("role" in turns[0] or found == ["messages"]):
            return read_messages
        texts = [turn["value"] for turn in turns if isinstance(turn.get("value"), str)]
        if any(_IMAGE_TAG.search(text) for text in texts):
            return read_qwen_vl
        # Without an image, "<image>" may be what a text is about.
        has_tag = any(_LLAVA_TAG.search(text) for text in texts)
        return read_llava if has_tag and listed_images(record, source) else read_xcomposer2
    if isinstance(turns, list) and all(isinstance(turn, list) for turn in turns):
        return read_chatml
    kind = f"a list of {' and '.join(dict.fromkeys(map(_kind, turns)))}" if isinstance(turns, list) else _kind(turns)
    raise DataError(
        f'{source}: "{found[0]}" is {kind}; write a list of {{"from": ..., "value": ...}}, or of [question, answer]'
    )


def _what_there_is(record: dict) -> str:
    keys = [shown(str(key), 40) for key in list(record)[:10]]
    nearest = next(filter(None, (difflib.get_close_matches(name, keys, n=1) for name in TURN_KEYS)), None)
    if nearest:
        return f'did you mean "{nearest[0]}"?'
    return f"the record has {', '.join(keys) or 'no keys'}{' and more' if len(record) > len(keys) else ''}"


def _turns_of(record: dict) -> list:
    return next(record[key] for key in TURN_KEYS if key in record)


def _spoken(turns: list[dict], source: str, who: str, what: str) -> list[tuple[str, object]]:
    """(role, what is said) of turns that name their speaker under the key `who`."""
    spoken = []
    for index, turn in enumerate(turns):
        for key in (who, what):
            if key not in turn:
                raise DataError(f'{source}: message {index} has no "{key}"; write {{"{who}": ..., "{what}": ...}}')
        role = SPEAKERS.get(turn[who].lower()) if isinstance(turn[who], str) else None
        if role is None:
            raise DataError(
                f"{source}: message {index} is from {_shown(turn[who])}; use one of {', '.join(SPEAKERS)}", "roles"
            )
        for key in ("weight", "loss"):
            if role == "assistant" and turn.get(key) == 0:
                raise DataError(
                    f'{source}: message {index} is marked "{key}": {turn[key]}, not to be trained; that is not '
                    "supported: remove the mark, or the answers up to this one"
                )
        spoken.append((role, turn[what]))
    return spoken


def _messages(turns: list[dict], source: str) -> list[Message]:
    return [
        Message(role, _checked_text(text, f"message {index}", source))
        for index, (role, text) in enumerate(_spoken(turns, source, "from", "value"))
    ]


def _without_leading_answers(messages: list[Message], source: str, notes: Notes) -> tuple[Message, ...]:
    """Answers to nothing, as XTuner and Qwen-VL drop them."""
    head = 1 if messages and messages[0].role == "system" else 0
    first = next((index for index in range(head, len(messages)) if messages[index].role != "assistant"), len(messages))
    for index in range(head, first):
        if IMAGE_PLACEHOLDER in messages[index].text:
            raise DataError(
                f"{source}: message {index} is an answer before the first question, and holds an image; begin with the "
                "question",
                "roles",
            )
    if first > head:
        notes.add(LEADING_ANSWER, source, first - head)
    return (*messages[:head], *messages[first:])


def _has_tag(messages) -> bool:
    return any(_IMAGE_TAG.search(message.text) for message in messages)


def _read_tags(messages, record: dict, source: str) -> tuple[tuple[Message, ...], list[str]]:
    """Puts `<ImageHere>` for each `<img>path</img>`."""
    read, references = [], []
    for index, message in enumerate(messages):
        references += [reference.strip() for reference in _IMAGE_TAG.findall(message.text)]
        text = _IMAGE_TAG.sub(IMAGE_PLACEHOLDER, message.text)
        if "<img>" in text or "</img>" in text:
            raise DataError(
                f"{source}: message {index} has an <img> without its </img> on the same line, or the other way round; "
                "write <img>path</img>"
            )
        read.append(Message(message.role, text))
    listed = listed_images(record, source)
    if references and listed and listed != references:
        raise DataError(
            f'{source}: "image" names {_shown(listed)} but the <img> tags name {_shown(references)}; keep one of the '
            "two"
        )
    return tuple(read), references or listed


def listed_images(record: dict, source: str) -> list[str]:
    """What the record's "image" (or "images", "video", "videos") names: a path or a list of them; none if null."""
    found = [key for key in IMAGE_KEYS if record.get(key)]
    if len(found) > 1:
        raise DataError(f'{source}: there are both "{found[0]}" and "{found[1]}"; keep one')
    listed = record[found[0]] if found else []
    listed = [listed] if isinstance(listed, str) else listed
    if not isinstance(listed, list) or not all(isinstance(reference, str) for reference in listed):
        raise DataError(f'{source}: "{found[0]}" is neither a path nor a list of paths')
    return listed


def _check_labels(messages: tuple[Message, ...], source: str, notes: Notes) -> None:
    """`Image1 <ImageHere>; Image2 <ImageHere>` and `Picture 1: ` count images from 1, over all messages."""
    number = 0
    for index, message in enumerate(messages):
        for text in message.text.split(IMAGE_PLACEHOLDER)[:-1]:
            number += 1
            match = _LABEL.search(text[-_LABEL_LENGTH:])
            if match and int(match.group(2)) != number:
                raise DataError(
                    f'{source}: message {index} calls image {number} "{match.group(1)} {match.group(2)}"; number the '
                    "images from 1 on, over all messages",
                    "placeholders",
                )
            if match and match.group(1) == "Image" and match.group(3):
                notes.add(COLON_LABEL, source)


def _check_boxes(messages: tuple[Message, ...], has_images: bool, source: str) -> None:
    """Qwen-VL's `<box>(x1,y1),(x2,y2)</box>`. In a text without an image, only what can't be anything else."""
    for index, message in enumerate(messages):
        if "box>" not in message.text:
            continue
        for match in _BOX.finditer(message.text):
            left, top, right, bottom = map(int, match.groups())
            if not (left <= right < BOX_SIDE and top <= bottom < BOX_SIDE):
                raise _bad_box(match.group(), index, source)
        rest = _BOX.sub("", message.text)
        if bad := re.search(r"</?box>.{0,40}" if has_images else r"<box>\s*\(.{0,40}", rest):
            raise _bad_box(bad.group(), index, source)


def _bad_box(box: str, index: int, source: str) -> DataError:
    return DataError(
        f"{source}: message {index} has the box {_shown(box)}; write <box>(x1,y1),(x2,y2)</box> in whole numbers below "
        f"{BOX_SIDE}, x1 <= x2 and y1 <= y2",
        "boxes",
    )


def _check_no_image_is_meant(record: dict, messages: tuple[Message, ...], source: str) -> None:
    """A misspelt key, or `<image>` in a line before or behind a question, LLaVA's mark: this would train blind."""
    if misspelt := misspelt_keys(record):
        written, meant = next(iter(misspelt.items()))
        raise DataError(
            f'{source}: there is a key {_shown(written)} but no "{meant}"; correct it, or call it otherwise',
            "misspelt key",
        )
    for index, message in enumerate(messages):
        lines = message.text.strip().split("\n")
        if message.role == "user" and LLAVA_IMAGE in (lines[0].strip(), lines[-1].strip()):
            raise DataError(
                f'{source}: message {index} holds {LLAVA_IMAGE}, but the record names no image; write "image", or '
                "remove the mark",
                "placeholders",
            )


def _checked_text(value, where: str, source: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{source}: {where} is {_kind(value)}; write it as a text in quotes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{source}: {where} holds {value[error.start]!r}, half of a surrogate pair, at character {error.start}; "
            "remove it, or write the whole character"
        ) from error
    return value


def _shown(value) -> str:
    """A value in a message to the user."""
    if isinstance(value, str):
        return f'"{shown(value)}"'
    return shown(str(value)) if isinstance(value, list) and all(isinstance(one, str) for one in value) else _kind(value)


def _kind(value) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    kinds = {bool: "a yes or no", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")

"""What of a record names its images: the keys that do, a path or a list of them, Hugging Face's image features."""

from __future__ import annotations

from paddle_xc2.data.conversation import DataError, Message
from paddle_xc2.data.records.record_keys import misspelt_keys, names_image
from paddle_xc2.data.records.turns import shown_value
from paddle_xc2.families.special_tokens import LLAVA_IMAGE

# Where a record keeps what is shown, and what that is; one of these.
IMAGE_KEYS = {"image": "pictures", "images": "pictures", "video": "videos", "videos": "videos"}


def listed_images(record: dict, source: str) -> list[str]:
    """What the record's "image" (or "images", "video", "videos") names: paths or addresses; none if null."""
    found = [key for key in IMAGE_KEYS if record.get(key)]
    if len({IMAGE_KEYS[key] for key in found}) > 1:
        both = " and ".join(f'"{key}"' for key in found)
        raise DataError(
            f'{source}: there are both {both}; name all of them in "images", in the order in which they are shown (a '
            "video is known by its name)"
        )
    if len(found) > 1:
        raise DataError(f'{source}: there are both "{found[0]}" and "{found[1]}"; keep one')
    listed = record[found[0]] if found else []
    listed = listed if isinstance(listed, list) else [listed]
    references = [image_of_feature(one) if isinstance(one, dict) else one for one in listed]
    if not all(isinstance(reference, str) for reference in references):
        raise DataError(
            f'{source}: "{found[0]}" is neither a path nor a list of paths; write these, or {{"path": ...}}, or '
            '{"bytes": the file in base64} for each'
        )
    return references


def image_of_feature(feature: dict) -> str | None:
    """A path, or a data address, of a Hugging Face image feature: {"path": ..., "bytes": the file in base64}.

    As there, the bytes count where there are any. Returns: None for any other object.
    """
    path, content = feature.get("path"), feature.get("bytes")
    if isinstance(content, str) and content:
        return content if content.startswith("data:") else f"data:image;base64,{content}"
    return path if content is None and isinstance(path, str) else None


def check_no_image_is_meant(record: dict, messages: tuple[Message, ...], source: str) -> None:
    """A misspelt key, or `<image>` in a line before or behind a question, LLaVA's mark: this would train blind."""
    for written, meant in misspelt_keys(record).items():
        if names_image(record[written]):
            raise DataError(
                f'{source}: there is a key {shown_value(written)} but no "{meant}"; correct it, or call it otherwise',
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

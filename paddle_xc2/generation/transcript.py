"""A conversation to keep: as JSON that training and OpenAI's clients read, or as Markdown that people read."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER
from paddle_xc2.files.durable import replace_file
from paddle_xc2.generation.session import ChatSession, Turn

KINDS = (".json", ".md")


def save_transcript(session: ChatSession, path: Path) -> None:
    """Writes the turns so far; pictures are written into the file.

    Raises: ValueError if there are none, or the name ends with none of KINDS.
    """
    if not session.turns:
        raise ValueError("there is nothing to save yet")
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path}: name it {' or '.join(f'NAME{kind}' for kind in KINDS)}")
    text = as_json(session) if path.suffix.lower() == ".json" else as_markdown(session)
    replace_file(path, text.encode())


def as_json(session: ChatSession) -> str:
    """{"messages": [...]}, one record of training data."""
    system = session.settings.system
    messages: list[dict] = [{"role": "system", "content": system}] if system else []
    for turn in session.turns:
        parts = [_part(picture) for picture in turn.pictures]
        text = {"type": "text", "text": turn.question.replace(IMAGE_PLACEHOLDER, "")}
        messages.append({"role": "user", "content": [*parts, text] if parts else turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    return json.dumps({"messages": messages}, ensure_ascii=False, indent=1) + "\n"


def as_markdown(session: ChatSession) -> str:
    """Question, pictures and answer of each turn, one below the other."""
    return "\n---\n\n".join(map(_markdown, session.turns))


def _markdown(turn: Turn) -> str:
    pictures = "".join(f"![]({_address(picture)})\n\n" for picture in turn.pictures)
    return f"{pictures}**{turn.question}**\n\n{turn.answer}\n"


def _part(picture) -> dict:
    if isinstance(picture, Path):
        return {"type": "video", "video": str(picture)}
    return {"type": "image_url", "image_url": {"url": _address(picture)}}


def _address(picture) -> str:
    """A video's path, or the data address of an image."""
    if isinstance(picture, Path):
        return str(picture)
    written = io.BytesIO()
    (picture if picture.mode in ("L", "RGB", "RGBA") else picture.convert("RGB")).save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()

"""A conversation with one model: its turns, its pictures, its settings. The prompt of `paddle-xc2 chat` holds one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from paddle_xc2.data.images.given_images import read_picture
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER
from paddle_xc2.generation import chat as generation


class ChatSession:
    """Attributes:
    settings: keyword arguments of `stream_chat`.
    history: (question, answer) pairs.
    images: pictures of the history, in reading order.
    pending: pictures of the next question.
    """

    def __init__(self, model, tokenizer, settings: dict, num_beams: int = 1):
        self.model, self.tokenizer = model, tokenizer
        self.settings, self.num_beams = settings, num_beams
        self.reset()

    def reset(self) -> None:
        """Forgets turns and pictures."""
        self.history, self.images, self.pending, self._encoded = [], [], [], {}

    def add_image(self, picture) -> None:
        """A picture for the next question: what `read_picture` returned, or a reference for it.

        Raises: DataError if it can't be used, or is a video and the model takes none.
        """
        picture = read_picture(picture)
        if isinstance(picture, Path):
            XComposer2Processor.for_config(self.model.config).num_image_tokens(picture)
        self.pending.append(picture)

    def drop_pending(self) -> None:
        """Takes back the pictures of the next question."""
        self.pending = []
        self._encoded = {key: value for key, value in self._encoded.items() if key[0] < len(self.images)}

    def ask_whole(self, text: str) -> str:
        """The answer. Raises: as `chat`; nothing is remembered then."""
        query, history = self._laid_out(text)
        images = self._encode_images()
        answer, _ = self.model.chat(self.tokenizer, query, images, history, num_beams=self.num_beams, **self.settings)
        self._remember(query, history, answer)
        return answer

    def ask(self, text: str) -> Iterator[str]:
        """Yields the new part of the answer. A turn that is stopped keeps what was said. Raises: as `chat`."""
        (query, history), answer = self._laid_out(text), ""
        images = self._encode_images()
        try:
            for grown, _ in self.model.stream_chat(self.tokenizer, query, images, history, **self.settings):
                new, answer = grown[len(answer) :], grown
                yield new
        finally:
            self._remember(query, history, answer)

    def prompt(self, text: str) -> str:
        """The literal prompt of a question. Raises: as `chat`."""
        query, history = self._laid_out(text)
        meta = self.settings.get("meta_instruction")
        return generation.prompt_text(self.model, self.tokenizer, query, self._encode_images(), history, meta)

    def _encode_images(self) -> list:
        """Image tokens of all pictures so far, each encoded once; again when a second joins it, if that changes it."""
        images = self.images + self.pending
        several = len(images) > 1
        for index, image in enumerate(images):
            if (index, several) not in self._encoded:
                self._encoded[index, several] = generation.encode_image(self.model, image, num_images=len(images))
        return [self._encoded[index, several] for index in range(len(images))]

    def _laid_out(self, text: str) -> tuple[str, list]:
        """The question and the history with an `<ImageHere>` for each picture that needs one."""
        if IMAGE_PLACEHOLDER in text or not self.pending:
            return text, self.history
        if len(self.pending) == 1 and not self.history:
            return text, self.history  # a single picture without a place stands where the family's upstream puts it
        history = list(self.history)
        if self.images and not any(IMAGE_PLACEHOLDER in question for question, _ in history):
            question, answer = history[0]  # that picture is no longer the only one
            history[0] = (IMAGE_PLACEHOLDER + question, answer)
        return IMAGE_PLACEHOLDER * len(self.pending) + text, history

    def _remember(self, query: str, history: list, answer: str) -> None:
        if answer.strip():  # else the pictures wait for the next question
            self.history = [*history, (query, answer)]
            self.images += self.pending
            self.pending = []

"""A few prompts on their way into the running batch: their images are encoded, then they are run piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

import paddle

from paddle_xc2.data.collate import collate_arrays
from paddle_xc2.generation.known_images import KnownImages, image_key
from paddle_xc2.generation.request import Answer
from paddle_xc2.models.key_value_cache import KeyValueCache

PIECE = 512  # tokens that are run before others have their turn


class Prefill:
    """Prompts of one model: several that make one piece together, or a single one of any length.

    Attributes:
        answers: whose prompts they are.
        cache: what they leave behind, padded on the left.
        starts: the first position of each that is not padding.
    """

    def __init__(self, answers: Sequence[Answer], images: KnownImages):
        self.answers, self.cache, self._images = list(answers), KeyValueCache(), images
        self.served = answers[0].request.served
        prompts = [answer.request.prompt for answer in answers]
        self._pixels = {image_key(self.served.name, one): one for prompt in prompts for one in prompt.pixel_values}
        self._prompts = collate_arrays(prompts, self.served.tokenizer.pad_token_id, padding_side="left")
        self.starts = (self._prompts["attention_mask"] == 0).sum(axis=1).tolist()
        self._features: list | None = None  # of each image, in reading order

    def advance(self):
        """Encodes some images, or runs a piece.

        Returns: float32 [prompts, vocab], the logits after the prompts, when these are whole; else None.
        """
        model = self.served.model
        self.served.activate()
        if not all(map(self._images.knows, self._pixels)):
            self._images.encode_some(self._pixels)
            return None
        if self._features is None:
            prompts = [answer.request.prompt for answer in self.answers]
            keys = [image_key(self.served.name, one) for prompt in prompts for one in prompt.pixel_values]
            self._features = [self._images.of(key) for key in keys]
            self._images.forget_oldest()
        width = self._prompts["input_ids"].shape[1]
        start = len(self.cache)
        stop = min(start + self._piece(model.config, width), width)
        hidden = model(**self._batch(start, stop), past_key_values=self.cache, use_cache=True).last_hidden_state
        return None if stop < width else model.output(hidden[:, -1]).astype("float32")

    def _piece(self, config, width: int) -> int:
        # Where the rotary angles depend on the length of the whole, the whole is run at once, as without an engine.
        return width if config.rotates_by_length(width) else PIECE

    def _batch(self, start: int, stop: int) -> dict:
        """Columns of the prompts, as arguments of the model."""
        prompts, columns = self._prompts, slice(start, stop)
        batch = {"input_ids": paddle.to_tensor(prompts["input_ids"][:, columns])}
        if not prompts["attention_mask"].all():
            batch["attention_mask"] = paddle.to_tensor(prompts["attention_mask"][:, :stop])
        image_mask = prompts["image_mask"][:, columns]
        if image_mask.any():
            first = int(prompts["image_mask"][:, :start].sum())  # a prompt that is run in pieces is alone
            features = paddle.concat(self._features)[first : first + int(image_mask.sum())]
            batch |= {"image_mask": paddle.to_tensor(image_mask), "image_features": features}
        return batch


def group_size(answers: Sequence[Answer]) -> int:
    """How many of these, from the first on, make one Prefill."""
    width, served = 0, answers[0].request.served
    for count, answer in enumerate(answers):
        width = max(width, len(answer.request.prompt))
        if count and (answer.request.served is not served or (count + 1) * width > PIECE):
            return count
    return len(answers)

"""Prompts, and a model that runs over them and then token by token."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import paddle

from paddle_xc2.models.key_value_cache import KeyValueCache
from paddle_xc2.models.not_finite import describe_not_finite


class Prompt(NamedTuple):
    """A batch of prompts, padded on the left.

    Attributes:
        input_ids: int64 [batch, seq].
        attention_mask: int64 [batch, seq], 1 at tokens, 0 at padding.
        image_mask: bool [batch, seq].
        image_features: float [tokens of all images, hidden], or None.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    image_mask: np.ndarray
    image_features: paddle.Tensor | None

    def row(self, index: int) -> Prompt:
        """One of the prompts alone, without its padding."""
        tokens = self.attention_mask[index] == 1
        ids, mask, image_mask = (x[index : index + 1, tokens] for x in self[:3])
        if not image_mask.any():
            return Prompt(ids, mask, image_mask, None)
        start = int(self.image_mask[:index].sum())
        return Prompt(ids, mask, image_mask, self.image_features[start : start + int(image_mask.sum())])


def pad_left(model, input_ids, attention_mask=None, image_mask=None, pixel_values=None) -> Prompt:
    """Encodes the images and moves padding to the left, so that every row's next token comes in the same column.

    Args: as of `generate`.
    """
    ids = np.asarray(input_ids)
    mask = np.ones_like(ids) if attention_mask is None else (np.asarray(attention_mask) != 0).astype(np.int64)
    image_mask = np.zeros(ids.shape, bool) if image_mask is None else np.asarray(image_mask).astype(bool)
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask is {list(mask.shape)}, input_ids are {list(ids.shape)}; they must be equal")
    empty = np.flatnonzero(mask.sum(axis=1) == 0)
    if len(empty):
        raise ValueError(f"prompt {empty[0]} of the batch is empty: its attention_mask is all 0")
    order = np.argsort(mask, axis=1, kind="stable")  # padding first, tokens in their order
    ids, image_mask, mask = (np.take_along_axis(x, order, axis=1) for x in (ids, image_mask, mask))
    return Prompt(ids, mask, image_mask, image_features(model, pixel_values))


def image_features(model, pixel_values):
    """The image tokens that the decoder is given.

    Args:
        pixel_values: list, in reading order, of float32 [3, height, width]; of an image whose tokens are known, of
            float [tokens, hidden]. Empty or None without images.
    Returns: float [tokens of all images, hidden], or None.
    """
    if not pixel_values:
        return None
    if all(image.ndim == 3 for image in pixel_values):
        return model.image_tokens(pixel_values)
    return paddle.concat([image if image.ndim == 2 else model.image_tokens([image]) for image in pixel_values])


class Runner:
    """A model that runs over prompts and then token by token: keeps the cache, the attention mask and the positions.

    Used in a `with` statement, within which the model is in evaluation mode.
    """

    def __init__(self, model, prompt: Prompt):
        self.model, self.prompt, self.cache = model, prompt, KeyValueCache()
        self._mask = self._positions = None
        if not prompt.attention_mask.all():
            self._mask = paddle.to_tensor(prompt.attention_mask)
            self._positions = paddle.to_tensor(prompt.attention_mask.sum(axis=1, keepdims=True))  # of the next token

    def __enter__(self) -> Runner:
        self._was_training = self.model.training
        self.model.eval()
        return self

    def __exit__(self, *_):
        if self._was_training:
            self.model.train()

    def prefill(self):
        """Logits after the prompt: float32 [batch, vocab]."""
        prompt = self.prompt
        has_images = bool(prompt.image_mask.any())
        return self._last_logits(
            input_ids=paddle.to_tensor(prompt.input_ids),
            image_mask=paddle.to_tensor(prompt.image_mask) if has_images else None,
            image_features=prompt.image_features,
        )

    def step(self, ids):
        """Logits after one more token in every row. ids: int64 [batch, 1] -> float32 [batch, vocab]."""
        if self._mask is None:
            return self._last_logits(input_ids=ids)
        self._mask = paddle.concat([self._mask, paddle.ones_like(ids)], axis=1)
        logits = self._last_logits(input_ids=ids, position_ids=self._positions)
        self._positions = self._positions + 1
        return logits

    def repeat_rows(self, times: int) -> None:
        """Goes on with every row so many times, one beside the other. Before the first step."""
        rows = paddle.to_tensor(np.repeat(np.arange(len(self.prompt.input_ids)), times))
        self.cache.select_rows(rows)
        if self._mask is not None:
            self._mask, self._positions = paddle.gather(self._mask, rows), paddle.gather(self._positions, rows)

    def reorder_rows(self, rows: np.ndarray) -> None:
        """Goes on with the given rows, as many as there are: each takes the place of one with the same prompt.

        Args:
            rows: int64 [batch].
        """
        if not np.array_equal(rows, np.arange(len(rows))):
            self.cache.select_rows(paddle.to_tensor(rows), shared=self.prompt.input_ids.shape[1])

    @paddle.no_grad()
    def _last_logits(self, **batch):
        out = self.model(attention_mask=self._mask, past_key_values=self.cache, use_cache=True, **batch)
        return self.model.output(out.last_hidden_state[:, -1]).astype("float32")


def check_finite(model, prompt: Prompt, row: int, new_ids: np.ndarray, values: np.ndarray) -> None:
    """Args:
        row: of the prompt.
        new_ids: int64 [new], the tokens that follow it so far.
        values: float32, what was computed from the logits after these.
    Raises: ValueError if a value is not finite: it says where in the model that begins.
    """
    if np.isfinite(values).all():
        return
    ids, _, image_mask, features = prompt.row(row)
    begins = describe_not_finite(
        model,
        input_ids=paddle.to_tensor(np.concatenate([ids, new_ids[None]], axis=1)),
        image_mask=paddle.to_tensor(np.pad(image_mask, [(0, 0), (0, len(new_ids))])) if features is not None else None,
        image_features=features,
    )
    said = begins or "the model's logits are not finite, but they are when they are computed again without a cache"
    raise ValueError(f"there is no answer from token {len(new_ids) + 1} on: {said}")

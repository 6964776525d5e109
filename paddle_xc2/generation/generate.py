"""Prefill and decode with the key-value cache: greedy, sampled, or with beams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from paddle_xc2.generation.sampling import SamplingSettings, choose, penalize_repetition


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


@paddle.no_grad()
def generate(
    model,
    input_ids,
    image_mask=None,
    pixel_values=None,
    attention_mask=None,
    position_ids=None,
    image_features=None,
    max_new_tokens: int = 1024,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 50,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    repetition_penalty: float = 1.0,
    eos_token_id: int | Sequence[int] | None = None,
    streamer=None,
):
    """Continues every prompt of a batch.

    Args:
        input_ids, image_mask, pixel_values, attention_mask: the batch of `collate.py`, padded on either side.
        position_ids: not needed; positions follow from attention_mask. Taken so that a batch can be passed whole.
        image_features: float [tokens of all images, hidden], in place of pixel_values.
        max_new_tokens: at most so many.
        num_beams: above 1 searches with beams instead of sampling.
        length_penalty: exponent of the length that a beam's score is divided by.
        eos_token_id: a row ends with any of these; None is the config's.
        streamer: object with `put(int64 [batch])` for every step and `end()`; not with beams.
        For the others see `SamplingSettings`. The repetition penalty sees the prompt where a row holds no image (2.5:
        never), else only new tokens, as upstream's does (goldens/NOTES.md, quirk 12).
    Returns: (ids int64 [batch, new], scores float32 [batch, 1]): new tokens only, end token included, padded on the
        right with the pad token; the score is the mean log-probability of the tokens, for beams the beam's score.
    Raises: ValueError for arguments out of range.
    """
    settings = SamplingSettings(do_sample, temperature, top_k, top_p, repetition_penalty)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, but must be at least 1")
    if num_beams < 1:
        raise ValueError(f"num_beams is {num_beams}, but must be at least 1")
    if num_beams > 1 and (do_sample or streamer is not None):
        raise ValueError(
            "beams can be neither sampled nor streamed; set num_beams 1, or do_sample false and no streamer"
        )
    ends = end_ids(model, eos_token_id)
    prompt = pad_left(model, input_ids, attention_mask, image_mask, pixel_values, image_features)
    if num_beams > 1:
        return _search_beams(model, prompt, num_beams, max_new_tokens, length_penalty, repetition_penalty, ends)
    steps, totals, counts = [], 0.0, 0
    for ids, log_probabilities, running in decode_steps(model, prompt, settings, max_new_tokens, ends):
        steps.append(ids)
        totals, counts = totals + np.where(running, log_probabilities, 0.0), counts + running
        if streamer is not None:
            streamer.put(ids)
    if streamer is not None:
        streamer.end()
    return paddle.to_tensor(np.stack(steps, axis=1)), paddle.to_tensor((totals / counts).astype("float32")[:, None])


def end_ids(model, eos_token_id: int | Sequence[int] | None) -> np.ndarray:
    """int64 [number of end ids]."""
    return np.atleast_1d(model.config.eos_token_id if eos_token_id is None else eos_token_id).astype(np.int64)


def pad_left(model, input_ids, attention_mask=None, image_mask=None, pixel_values=None, image_features=None) -> Prompt:
    """Encodes the images and moves padding to the left, so that every row's next token comes in the same column."""
    ids = np.asarray(input_ids)
    mask = np.ones_like(ids) if attention_mask is None else (np.asarray(attention_mask) != 0).astype(np.int64)
    slots = np.zeros(ids.shape, bool) if image_mask is None else np.asarray(image_mask).astype(bool)
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask is {list(mask.shape)}, input_ids are {list(ids.shape)}; they must be equal")
    empty = np.flatnonzero(mask.sum(axis=1) == 0)
    if len(empty):
        raise ValueError(f"prompt {empty[0]} of the batch is empty: its attention_mask is all 0")
    order = np.argsort(mask, axis=1, kind="stable")  # padding first, tokens in their order
    ids, slots, mask = (np.take_along_axis(x, order, axis=1) for x in (ids, slots, mask))
    if pixel_values:
        image_features = model.image_tokens(pixel_values)
    return Prompt(ids, mask, slots, image_features)


def decode_steps(
    model, prompt: Prompt, settings: SamplingSettings, max_new_tokens: int, ends: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields, step by step, (ids int64 [batch], log-probabilities float32 [batch], running bool [batch]).

    `running` rows chose a token in this step, the others are padding. Ends after max_new_tokens or when no row runs.
    """
    runner = _Runner(model, prompt)
    seen = _seen_tokens(model, prompt) if settings.repetition_penalty != 1.0 else None
    running = np.ones(len(prompt.input_ids), bool)
    logits = runner.prefill()
    for step in range(max_new_tokens):
        scores = penalize_repetition(logits, seen, settings.repetition_penalty) if seen is not None else logits
        chosen = choose(scores, settings)
        log_probabilities = paddle.take_along_axis(
            F.log_softmax(logits, axis=-1), chosen.unsqueeze(1), axis=1
        ).flatten()
        ids = np.where(running, chosen.numpy(), model.config.pad_token_id)
        yield ids, log_probabilities.numpy(), running
        running = running & ~np.isin(ids, ends)
        if not running.any() or step == max_new_tokens - 1:
            return
        chosen = paddle.to_tensor(ids).unsqueeze(1)
        if seen is not None:
            seen = _mark(seen, chosen)
        logits = runner.step(chosen)


class _Runner:
    """Runs the model over a prompt and then token by token; keeps the cache and the attention mask."""

    def __init__(self, model, prompt: Prompt):
        self.model, self.prompt, self.cache = model, prompt, None
        self.mask = None if prompt.attention_mask.all() else paddle.to_tensor(prompt.attention_mask)

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
        if self.mask is not None:
            self.mask = paddle.concat([self.mask, paddle.ones_like(ids)], axis=1)
        return self._last_logits(input_ids=ids)

    def select_rows(self, rows: np.ndarray):
        """Goes on with the given rows of the batch. rows: int64 [new batch]."""
        rows = paddle.to_tensor(rows)
        self.cache.select_rows(rows)
        if self.mask is not None:
            self.mask = paddle.gather(self.mask, rows)

    def _last_logits(self, **batch):
        training = self.model.training
        self.model.eval()
        with paddle.no_grad():
            out = self.model(attention_mask=self.mask, past_key_values=self.cache, use_cache=True, **batch)
            self.cache = out.past_key_values
            logits = self.model.output(out.hidden_states[:, -1]).astype("float32")
        if training:
            self.model.train()
        return logits


def _seen_tokens(model, prompt: Prompt):
    """uint8 [batch, vocab]: the tokens of prompts that upstream passes as ids.

    Those it passes as embeddings stay unseen.
    """
    seen = np.zeros([len(prompt.input_ids), model.config.vocab_size], np.uint8)
    for row, (ids, mask, slots) in enumerate(
        zip(prompt.input_ids, prompt.attention_mask, prompt.image_mask, strict=True)
    ):
        if model.config.family.penalizes_prompt and not slots.any():
            seen[row, ids[mask == 1]] = 1
    return paddle.to_tensor(seen)


def _mark(seen, ids):
    """Marks one more token in every row. seen: uint8 [batch, vocab]; ids: int64 [batch, 1]."""
    return paddle.put_along_axis(seen, ids, paddle.ones_like(ids).astype("uint8"), axis=1)


def _search_beams(model, prompt, num_beams, max_new_tokens, length_penalty, repetition_penalty, ends):
    """Beam search as transformers' `generate` does it without early stopping: a row ends when no open beam can win."""
    batch, vocab = len(prompt.input_ids), model.config.vocab_size
    runner = _Runner(model, prompt)
    logits = runner.prefill()
    rows = np.repeat(np.arange(batch), num_beams)
    runner.select_rows(rows)
    logits = paddle.gather(logits, paddle.to_tensor(rows))
    seen = None
    if repetition_penalty != 1.0:
        seen = paddle.gather(_seen_tokens(model, prompt), paddle.to_tensor(rows))
    # All beams of a row are equal at first: only one of them may bring candidates.
    totals = np.where(np.arange(batch * num_beams) % num_beams == 0, 0.0, -1e9).astype("float32")
    sequences = np.zeros([batch * num_beams, 0], np.int64)
    finished = [[] for _ in range(batch)]  # per row: (score, ids), at most num_beams of them
    open_rows = np.ones(batch, bool)
    for step in range(1, max_new_tokens + 1):
        scores = F.log_softmax(logits, axis=-1)
        if seen is not None:
            scores = penalize_repetition(scores, seen, repetition_penalty)
        scores = (scores + paddle.to_tensor(totals).unsqueeze(1)).reshape([batch, num_beams * vocab])
        top, index = (x.numpy() for x in paddle.topk(scores, 2 * num_beams, axis=1))
        parents, tokens, totals = [], [], []
        for row in range(batch):
            kept = 0
            for rank, (score, flat) in enumerate(zip(top[row], index[row], strict=True)):
                beam, token = row * num_beams + flat // vocab, flat % vocab
                if token in ends:
                    if rank < num_beams and open_rows[row]:
                        ids = np.append(sequences[beam], token)
                        finished[row] = sorted(
                            [*finished[row], (score / step**length_penalty, ids)], key=lambda entry: -entry[0]
                        )[:num_beams]
                else:
                    parents.append(beam)
                    tokens.append(token)
                    totals.append(score)
                    kept += 1
                if kept == num_beams:
                    break
            if len(finished[row]) == num_beams and top[row].max() / step**length_penalty <= finished[row][-1][0]:
                open_rows[row] = False
        parents, tokens, totals = np.array(parents), np.array(tokens), np.array(totals, "float32")
        sequences = np.concatenate([sequences[parents], tokens[:, None]], axis=1)
        if not open_rows.any() or step == max_new_tokens:
            break
        runner.select_rows(parents)
        chosen = paddle.to_tensor(tokens).unsqueeze(1)
        if seen is not None:
            seen = paddle.gather(seen, paddle.to_tensor(parents))
            seen = _mark(seen, chosen)
        logits = runner.step(chosen)
    for row in np.flatnonzero(open_rows):
        for beam in range(row * num_beams, (row + 1) * num_beams):
            finished[row].append((totals[beam] / sequences.shape[1] ** length_penalty, sequences[beam]))
    best = [max(entries, key=lambda entry: entry[0]) for entries in finished]
    width = max(len(ids) for _, ids in best)
    ids = np.full([batch, width], model.config.pad_token_id, np.int64)
    for row, (_, sequence) in enumerate(best):
        ids[row, : len(sequence)] = sequence
    return paddle.to_tensor(ids), paddle.to_tensor(np.array([[score] for score, _ in best], "float32"))

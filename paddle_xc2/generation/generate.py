"""Prefill and decode with the key-value cache: greedy, sampled, or with beams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import paddle

from paddle_xc2.generation.beams import search_beams
from paddle_xc2.generation.repetition import SeenTokens
from paddle_xc2.generation.runner import Prompt, Runner, check_finite, pad_left
from paddle_xc2.generation.sampling import choose
from paddle_xc2.generation.sampling_settings import MAX_NEW_TOKENS, SamplingSettings
from paddle_xc2.models.log_sum import logsumexp, pick

# Tokens that a GPU computes before anybody looks whether a row has ended: looking waits for all of them.
STEPS_AT_ONCE = 8
_MOST_BEAMS = 256


@paddle.no_grad()
def generate(
    model,
    input_ids,
    image_mask=None,
    pixel_values=None,
    attention_mask=None,
    position_ids=None,
    layout=None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    eos_token_id: int | Sequence[int] | None = None,
    streamer=None,
    **sampling,
):
    """Continues every prompt of a batch.

    Args:
        input_ids, image_mask, pixel_values, attention_mask: the batch of `collate.py`, padded on either side.
            In place of the pixel values of an image may stand its tokens, float [tokens, hidden].
        position_ids, layout: not needed, they follow from the masks. Taken so that a batch can be passed whole.
        max_new_tokens: at most so many.
        num_beams: above 1 searches with beams instead of sampling.
        length_penalty: exponent of the length that a beam's score is divided by.
        eos_token_id: a row ends with any of these; None is the config's.
        streamer: object with `put(int64 [batch])` for every step and `end()`; not with beams.
        sampling: do_sample, temperature and the others of `SamplingSettings`. The repetition penalty sees the prompt
            where a row holds no image (2.5: never), else only new tokens, as upstream's does (goldens/NOTES.md, quirk
            12).
    Returns: (ids int64 [batch, new], scores float32 [batch, 1]): new tokens only, end token included, padded on the
        right with the pad token; the score is the mean log-probability of the tokens, for beams the beam's score.
    Raises: ValueError for arguments out of range, or if the model computes NaN or infinity.
    """
    settings = SamplingSettings(**sampling)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, but must be at least 1")
    if num_beams < 1:
        raise ValueError(f"num_beams is {num_beams}, but must be at least 1")
    if num_beams > _MOST_BEAMS:
        raise ValueError(f"num_beams is {num_beams}, but must be at most {_MOST_BEAMS}; each keeps a cache of its own")
    if num_beams > 1 and (settings.do_sample or streamer is not None):
        raise ValueError(
            "beams can be neither sampled nor streamed; set num_beams 1, or do_sample false and no streamer"
        )
    ends = end_ids(model, eos_token_id)
    prompt = pad_left(model, input_ids, attention_mask, image_mask, pixel_values)
    if num_beams > 1:
        return search_beams(model, prompt, num_beams, max_new_tokens, length_penalty, settings.repetition_penalty, ends)
    steps, totals, counts = [], 0.0, 0
    at_once = STEPS_AT_ONCE if streamer is None and paddle.device.get_device().startswith("gpu") else 1
    for ids, log_probabilities, running in decode_steps(model, prompt, settings, max_new_tokens, ends, at_once):
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


def decode_steps(
    model, prompt: Prompt, settings: SamplingSettings, max_new_tokens: int, ends: np.ndarray, at_once: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields, step by step, (ids int64 [batch], log-probabilities float32 [batch], running bool [batch]).

    `running` rows chose a token in this step, the others are padding. Ends after max_new_tokens or when no row runs.

    Args:
        ends: int64 [number of end ids].
        at_once: steps that are computed before the host looks at them, for which it waits for the device.
    Raises: ValueError if the model computes NaN or infinity.
    """
    running = np.ones(len(prompt.input_ids), bool)
    before = np.zeros([len(running), 0], np.int64)
    with Runner(model, prompt) as runner:
        steps = islice(_steps_on_device(runner, settings), max_new_tokens)
        while block := list(islice(steps, at_once)):
            chosen, values = (paddle.concat(parts, axis=1).numpy().T for parts in zip(*block, strict=True))
            for ids, log_probabilities in zip(chosen, values, strict=True):
                for row in np.flatnonzero(running):
                    check_finite(model, prompt, row, before[row], log_probabilities[row])
                ids = np.where(running, ids, model.config.pad_token_id)
                yield ids, log_probabilities, running
                running = running & ~np.isin(ids, ends)
                if not running.any():
                    return
                before = np.concatenate([before, ids[:, None]], axis=1)


def _steps_on_device(runner: Runner, settings: SamplingSettings) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
    """Yields for ever (ids int64 [batch, 1], log-probabilities float32 [batch, 1]); a step begins when it is asked for.

    Nobody knows here which rows have ended: these go on too.
    """
    logits, seen = runner.prefill(), SeenTokens(runner.model, runner.prompt, settings.repetition_penalty)
    while True:
        chosen = choose(seen.penalize(logits), settings).unsqueeze(1)
        yield chosen, pick(logits, chosen) - logsumexp(logits)
        seen.add(chosen)
        logits = runner.step(chosen)

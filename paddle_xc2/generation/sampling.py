"""Logits -> next token: repetition penalty, temperature, top-k, top-p, in the order of transformers' `generate`."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from paddle_xc2.generation.sampling_settings import SamplingSettings

FEW = 1024  # candidates that are looked at first where only top-p chooses among them


def penalize_repetition(scores, seen, penalty: float):
    """Divides positive scores of seen tokens by the penalty and multiplies negative ones with it.

    Args:
        scores: float32 [batch, vocab].
        seen: uint8 [batch, vocab], 1 at seen tokens.
    """
    if penalty == 1.0:
        return scores
    return paddle.where(seen == 1, paddle.where(scores < 0, scores * penalty, scores / penalty), scores)


def choose(scores, settings: SamplingSettings, draws=None):
    """Next token of every row: int64 [batch].

    Args:
        scores: float32 [batch, vocab], penalty applied.
        draws: float32 [batch, 1], from 0 to below 1, what decides between tokens; None are Paddle's random numbers.

    Scores that are not numbers give some token: whoever calls looks whether they are finite.
    """
    if not settings.do_sample:
        return scores.argmax(axis=-1)
    probabilities, ids = _candidates(scores / settings.temperature, settings)
    sums, num_kept = probabilities.cumsum(axis=-1), probabilities.shape[1]
    total = sums[:, -1:]
    if settings.top_p < 1:
        num_kept = (sums - probabilities < settings.top_p).astype("int64").sum(axis=-1, keepdim=True).clip(min=1)
        total = paddle.take_along_axis(sums, num_kept - 1, axis=1)
    # Not paddle.multinomial: that stops with an error of its own where a probability is not a number.
    below = paddle.searchsorted(sums, (paddle.rand(total.shape) if draws is None else draws) * total)
    drawn = paddle.minimum(below, paddle.full_like(below, 0) + num_kept - 1)
    return (drawn if ids is None else paddle.take_along_axis(ids, drawn, axis=1)).flatten()


def _candidates(scores, settings: SamplingSettings):
    """What may be drawn before top-p has its say.

    Returns: (probabilities float32 [batch, candidates], their ids int64 or None if these are the whole vocabulary in
        its order); with top-p the likeliest first.
    """
    vocab = scores.shape[1]
    if 0 < settings.top_k < vocab:
        kept, ids = paddle.topk(scores, settings.top_k, axis=-1)
        return F.softmax(kept, axis=-1), ids
    probabilities = F.softmax(scores, axis=-1)
    if settings.top_p == 1:
        return probabilities, None
    # Sorting a whole vocabulary takes long, and hardly ever are more than a few tokens likely.
    few = paddle.topk(probabilities, min(FEW, vocab), axis=-1)
    if few[0].shape[1] == vocab or bool((few[0].sum(axis=-1) >= settings.top_p).all()):
        return few
    return paddle.topk(probabilities, vocab, axis=-1)

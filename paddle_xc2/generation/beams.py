"""Beam search as transformers' `generate` does it without early stopping: a row ends when no open beam can win."""

from __future__ import annotations

import numpy as np
import paddle

from paddle_xc2.generation.repetition import SeenTokens
from paddle_xc2.generation.runner import Prompt, Runner, check_finite
from paddle_xc2.models.log_sum import logsumexp


class _Finished:
    """The best sequences of a row that have ended, at most `number` of them.

    Attributes:
        entries: (score, ids int64 [new]), the best first.
        is_open: whether an open beam can still win.
    """

    def __init__(self, number: int, length_penalty: float):
        self.number, self.length_penalty = number, length_penalty
        self.entries: list[tuple[float, np.ndarray]] = []
        self.is_open = True

    def add(self, total: float, ids: np.ndarray) -> None:
        """Args:
        total: sum of the tokens' log-probabilities.
        """
        entries = [*self.entries, (self._score(total, len(ids)), ids)]
        self.entries = sorted(entries, key=lambda entry: -entry[0])[: self.number]

    def close_if_won(self, best_total: float, length: int) -> None:
        """Args:
        best_total, length: of the best sequence that is still open.
        """
        if len(self.entries) == self.number and self._score(best_total, length) <= self.entries[-1][0]:
            self.is_open = False

    def _score(self, total: float, length: int) -> float:
        return total / length**self.length_penalty


def search_beams(
    model,
    prompt: Prompt,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float,
    repetition_penalty: float,
    ends: np.ndarray,
):
    """Arguments and what is returned: as of `generate`. ends: int64 [number of end ids]."""
    batch = len(prompt.input_ids)
    finished = [_Finished(num_beams, length_penalty) for _ in range(batch)]
    # All beams of a row are equal at first: only one of them may bring candidates.
    totals = np.where(np.arange(batch * num_beams) % num_beams == 0, 0.0, -1e9).astype("float32")
    sequences = np.zeros([batch * num_beams, 0], np.int64)
    with Runner(model, prompt) as runner:
        logits = paddle.repeat_interleave(runner.prefill(), num_beams, axis=0)
        runner.repeat_rows(num_beams)
        seen = SeenTokens(model, prompt, repetition_penalty, num_beams)
        for step in range(1, max_new_tokens + 1):
            normalizer = logsumexp(logits)
            for beam, value in enumerate(normalizer.numpy()):
                if finished[beam // num_beams].is_open:
                    check_finite(model, prompt, beam // num_beams, sequences[beam], value)
            scores = seen.penalize(logits - normalizer) + paddle.to_tensor(totals).unsqueeze(1)
            parents, tokens, totals = _best(scores.reshape([batch, -1]), num_beams, sequences, finished, ends)
            sequences = np.concatenate([sequences[parents], tokens[:, None]], axis=1)
            if step == max_new_tokens or not any(row.is_open for row in finished):
                break
            runner.reorder_rows(parents)
            seen.reorder_rows(parents)
            chosen = paddle.to_tensor(tokens).unsqueeze(1)
            seen.add(chosen)
            logits = runner.step(chosen)
    for beam, total in enumerate(totals):
        if finished[beam // num_beams].is_open:
            finished[beam // num_beams].add(total, sequences[beam])
    best = [row.entries[0] for row in finished]
    ids = np.full([batch, max(len(ids) for _, ids in best)], model.config.pad_token_id, np.int64)
    for row, (_, sequence) in enumerate(best):
        ids[row, : len(sequence)] = sequence
    return paddle.to_tensor(ids), paddle.to_tensor(np.array([[score] for score, _ in best], "float32"))


def _best(scores, num_beams: int, sequences: np.ndarray, finished: list[_Finished], ends: np.ndarray):
    """The beams to go on with; what ends is added to `finished`.

    Args:
        scores: float32 [batch, num_beams * vocab], of each beam with each next token.
        sequences: int64 [batch * num_beams, new], the beams.
    Returns: parents int64, tokens int64, totals float32, each [batch * num_beams]: of which beams, with which token.
    """
    vocab = scores.shape[1] // num_beams
    top, index = (x.numpy() for x in paddle.topk(scores, 2 * num_beams, axis=1))
    parents, tokens, totals = [], [], []
    for row, done in enumerate(finished):
        candidates = zip(top[row], row * num_beams + index[row] // vocab, index[row] % vocab, strict=True)
        kept = 0
        for rank, (total, beam, token) in enumerate(candidates):
            if token in ends:
                if rank < num_beams and done.is_open:
                    done.add(total, np.append(sequences[beam], token))
                continue
            parents.append(beam)
            tokens.append(token)
            totals.append(total)
            kept += 1
            if kept == num_beams:
                break
        done.close_if_won(top[row].max(), sequences.shape[1] + 1)
    return np.array(parents), np.array(tokens), np.array(totals, "float32")

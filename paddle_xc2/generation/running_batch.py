"""Answers that are decoded together: prompts join at any token, and each row leaves when it ends.

Greedy answers are those that each prompt is given alone, token by token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np
import paddle

from paddle_xc2.generation.answer_text import AnswerText
from paddle_xc2.generation.known_images import KnownImages
from paddle_xc2.generation.prefill import Prefill
from paddle_xc2.generation.request import LENGTH, STOP, Answer, Token
from paddle_xc2.generation.runner import check_finite, pad_left
from paddle_xc2.generation.sampling import choose, penalize_repetition
from paddle_xc2.generation.sampling_settings import SamplingSettings
from paddle_xc2.models.block_cache import BLOCK, BlockCache, num_blocks
from paddle_xc2.models.log_sum import logsumexp, pick


class Row:
    """An answer in the batch.

    Attributes:
        answer: on its way.
        number: of its row in the cache.
    """

    def __init__(self, answer: Answer, number: int):
        request = answer.request
        self.answer, self.number = answer, number
        self.text = AnswerText(request.served.tokenizer, request.stop_texts)
        self.random = np.random.default_rng(request.seed)
        self._seen: np.ndarray | None = None

    @property
    def sampling(self) -> SamplingSettings:
        return self.answer.request.sampling

    @property
    def seen(self) -> np.ndarray:
        """uint8 [vocab], 1 at tokens that the repetition penalty lowers; see `SeenTokens`."""
        if self._seen is None:
            config, prompt = self.answer.request.served.model.config, self.answer.request.prompt
            self._seen = np.zeros(config.vocab_size, np.uint8)
            if config.family.penalizes_prompt and not prompt.image_mask.any():
                self._seen[prompt.input_ids] = 1
        return self._seen

    def check_finite(self, value: float) -> None:
        """Raises: ValueError if what was computed for the next token is not finite."""
        if not np.isfinite(value):
            model, prompt = self.answer.request.served.model, self.answer.request.prompt
            pixels = [paddle.to_tensor(one) for one in prompt.pixel_values]
            whole = pad_left(model, prompt.input_ids[None], image_mask=prompt.image_mask[None], pixel_values=pixels)
            ids = np.array([token.id for token in self.answer.tokens], np.int64)
            check_finite(model, whole, 0, ids, np.array(value))

    def add(self, token: Token) -> None:
        """The next token, which may be the last."""
        request = self.answer.request
        if self.sampling.repetition_penalty != 1.0:
            self.seen[token.id] = 1
        if token.id in request.served.ends:
            self.answer.add(self.text.flush(), token, STOP)
            return
        new = self.text.push(token.id)
        if self.text.stopped:
            self.answer.add(new, token, STOP)
        elif len(self.answer.tokens) + 1 == request.max_new_tokens:
            self.answer.add(new + self.text.flush(), token, LENGTH)
        else:
            self.answer.add(new, token)


class RunningBatch:
    """Args:
    model: of a class in paddle_xc2/model.py, in evaluation mode.
    max_rows: answers that are decoded at once.
    max_positions: tokens of all of them, prompts and what they may grow to.
    """

    def __init__(self, model, max_rows: int, max_positions: int):
        self._cache, self._images = BlockCache(), KnownImages(model)
        self.max_rows, self.max_positions = max_rows, max_positions
        self.rows: list[Row] = []
        self._prefill: Prefill | None = None

    @property
    def answers(self) -> list[Answer]:
        """All that are here."""
        return [row.answer for row in self.rows] + (self._prefill.answers if self._prefill else [])

    def num_that_fit(self, waiting: Iterable[Answer]) -> int:
        """How many of these, from the first on, can join now."""
        if self._prefill is not None:
            return 0
        room = self.max_positions - sum(_reserved(row.answer) for row in self.rows)
        count = 0
        for answer in waiting:
            room -= _reserved(answer)
            if room < 0 or len(self.rows) + count == self.max_rows:
                break
            count += 1
        return count

    def add(self, answers: list[Answer]) -> None:
        """Takes prompts in, as many as `num_that_fit` and `group_size` allow."""
        self._prefill = Prefill(answers, self._images)

    @paddle.no_grad()
    def advance(self) -> None:
        """A piece of the prompts that are joining, then one token for every row. What fails ends with its error."""
        if self._prefill is not None:
            self._advance_prefill(self._prefill)
        for rows in self._steps():
            try:
                self._step(rows)
            except Exception as error:  # of the model or the device: others may fare better
                self._fail([row.answer for row in rows], error)
        self.remove_ended()

    def remove_ended(self) -> None:
        """Frees the places of what has ended, by itself or from outside."""
        for row in self.rows:
            if row.answer.finish is not None:
                self._cache.free_row(row.number)
        self.rows = [row for row in self.rows if row.answer.finish is None]
        if self._prefill and all(answer.finish is not None for answer in self._prefill.answers):
            self._prefill = None

    def _advance_prefill(self, prefill: Prefill) -> None:
        try:
            logits = prefill.advance()
            if logits is None:
                return
            self._prefill = None
            numbers = self._cache.add_rows(prefill.cache, prefill.starts)
            joining = [Row(*pair) for pair in zip(prefill.answers, numbers, strict=True)]
            self.rows += joining
            self._choose(logits, joining)
        except Exception as error:  # as in `advance`
            self._prefill = None
            self._fail(prefill.answers, error)

    def _steps(self) -> Iterator[list[Row]]:
        """Rows that one forward serves: of one model, and with the same rotary angles."""
        self.remove_ended()
        for _, rows in groupby(sorted(self.rows, key=self._kind_of), key=self._kind_of):
            yield list(rows)

    def _kind_of(self, row: Row) -> tuple[str, int]:
        served = row.answer.request.served
        config = served.model.config
        length = self._cache.length(row.number)
        alone = config.rotates_by_length(length + 1) and not config.keeps_prompt_angles
        return served.name, length if alone else 0

    def _step(self, rows: list[Row]) -> None:
        served = rows[0].answer.request.served
        served.activate()
        model = served.model
        last = paddle.to_tensor([[row.answer.tokens[-1].id] for row in rows])
        positions = self._cache.start_step([row.number for row in rows])
        out = model(input_ids=last, position_ids=positions, past_key_values=self._cache, use_cache=True)
        self._choose(model.output(out.last_hidden_state[:, -1]).astype("float32"), rows)

    def _choose(self, logits, rows: list[Row]) -> None:
        """The next token of each row. logits: float32 [rows, vocab]."""
        chosen = np.zeros([len(rows), 1], np.int64)
        by_settings: dict[SamplingSettings, list[int]] = {}
        for index, row in enumerate(rows):
            by_settings.setdefault(row.sampling, []).append(index)
        for settings, members in by_settings.items():
            part = logits if len(members) == len(rows) else paddle.gather(logits, paddle.to_tensor(members))
            chosen[members, 0] = _chosen(part, settings, [rows[index] for index in members]).numpy()
        normalizer = logsumexp(logits)
        log_probabilities = (pick(logits, paddle.to_tensor(chosen)) - normalizer).numpy()[:, 0]
        likeliest = self._likeliest(logits - normalizer, rows)
        for row, token, value, others in zip(rows, chosen[:, 0].tolist(), log_probabilities, likeliest, strict=True):
            if row.answer.finish is not None:
                continue  # stopped while it was computed
            try:
                row.check_finite(value)
            except ValueError as error:
                row.answer.fail(error)
            else:
                row.add(Token(token, float(value), others))

    def _likeliest(self, log_probabilities, rows: list[Row]) -> list[tuple]:
        """(id, log-probability) of the likeliest tokens of each row, as many as it asks for."""
        wanted = [row.answer.request.num_likeliest for row in rows]
        if not any(wanted):
            return [()] * len(rows)
        values, ids = paddle.topk(log_probabilities, min(max(wanted), log_probabilities.shape[1]), axis=-1)
        pairs = zip(ids.tolist(), values.tolist(), wanted, strict=True)
        return [tuple(zip(row_ids, row_values, strict=True))[:count] for row_ids, row_values, count in pairs]

    def _fail(self, answers: list[Answer], error: Exception) -> None:
        for answer in answers:
            if answer.finish is None:
                answer.fail(error)


def _chosen(scores, settings: SamplingSettings, rows: list[Row]):
    """int64 [rows]. scores: float32 [rows, vocab], of rows that have these settings."""
    if settings.repetition_penalty != 1.0:
        seen = paddle.to_tensor(np.stack([row.seen for row in rows]))
        scores = penalize_repetition(scores, seen, settings.repetition_penalty)
    draws = None
    if settings.do_sample:
        # NumPy's scalars of this kind are Python's floats, of twice the precision.
        draws = paddle.to_tensor(np.array([[row.random.random(dtype=np.float32)] for row in rows], np.float32))
    return choose(scores, settings, draws)


def _reserved(answer: Answer) -> int:
    """Positions of the blocks that an answer may come to take."""
    return num_blocks(answer.request.num_positions) * BLOCK

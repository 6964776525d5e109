"""Which tokens a row has seen, for the repetition penalty."""

from __future__ import annotations

import numpy as np
import paddle

from paddle_xc2.generation.runner import Prompt
from paddle_xc2.generation.sampling import penalize_repetition


class SeenTokens:
    """The tokens that each row has seen: new ones, and those of prompts that upstream passes as ids.

    Those that it passes as embeddings stay unseen (goldens/NOTES.md, quirk 12). With a penalty of 1 nothing is kept.
    """

    def __init__(self, model, prompt: Prompt, penalty: float, repeats: int = 1):
        """Args:
        repeats: rows that each prompt has, one beside the other.
        """
        self.penalty, self._seen = penalty, None
        if penalty == 1.0:
            return
        seen = np.zeros([len(prompt.input_ids), model.config.vocab_size], np.uint8)
        for row, (ids, mask, image_mask) in enumerate(zip(*prompt[:3], strict=True)):
            if model.config.family.penalizes_prompt and not image_mask.any():
                seen[row, ids[mask == 1]] = 1
        self._seen = paddle.to_tensor(np.repeat(seen, repeats, axis=0))

    def penalize(self, scores):
        """float32 [rows, vocab] -> the same, those of seen tokens lowered."""
        return scores if self._seen is None else penalize_repetition(scores, self._seen, self.penalty)

    def add(self, ids) -> None:
        """One more token of every row. ids: int64 [rows, 1]."""
        if self._seen is not None:
            ones = paddle.ones(ids.shape, "uint8")
            self._seen = paddle.put_along_axis(self._seen, ids, ones, axis=1)

    def reorder_rows(self, rows: np.ndarray) -> None:
        """Goes on with the given rows. rows: int64 [rows]."""
        if self._seen is not None:
            self._seen = paddle.gather(self._seen, paddle.to_tensor(rows))

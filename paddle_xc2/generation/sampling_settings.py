"""What decides which tokens an answer has: said here once, for Python, the commands and the server.

Without Paddle, so that the commands show it in their help at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_NEW_TOKENS = 1024  # of an answer, where nothing else is said; upstream's `chat` has it


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is chosen. By default greedily, as PaddleNLP's `generate`.

    Attributes:
        do_sample: draw from the distribution; False takes the likeliest token, and the three below don't matter.
        temperature: divides the logits; below 1 sharpens.
        top_k: only the k likeliest tokens can be drawn; 0 is all. 50 is transformers' default, which upstream's chat
            has.
        top_p: only the likeliest tokens whose probabilities reach top_p together can be drawn; 1 is all.
        repetition_penalty: above 1 makes tokens that were seen less likely (arXiv:1909.05858).
    Raises: ValueError for a value out of range.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature is {self.temperature}, but must be above 0 and finite; for greedy decoding set "
                "do_sample false"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}, but must be 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, but must be above 0 and at most 1 (off)")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}, but must be above 0 and finite; 1 is off"
            )


CHAT_SAMPLING = SamplingSettings(do_sample=True, top_p=0.8, repetition_penalty=1.005)  # upstream's defaults of `chat`

"""Ids into text, one by one, as they are generated."""

from __future__ import annotations

from paddle_xc2.text.base import BaseTokenizer


class StreamDecoder:
    """Turns ids into text one by one. What is pushed and flushed adds up to `answer_text`.

    Bytes of a character that is not complete yet are held back, so that no half character is shown.
    """

    def __init__(self, tokenizer: BaseTokenizer):
        self._tokenizer = tokenizer
        self._skipped = frozenset(tokenizer.hidden_ids)
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; often "" for the bytes of an emoji or a rare Chinese character."""
        if token_id in self._skipped or token_id >= self._tokenizer.vocab_size:
            return ""
        self._held.append(token_id)
        return self._release(len(self._held) - self._tokenizer.num_open_tokens(self._held))

    def flush(self) -> str:
        """What is still held back; bytes that make no character become U+FFFD."""
        return self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._tokenizer.decode(self._held[:count]), self._held[count:]
        return text

"""The text of an answer as it grows, up to the first of the texts that end it."""

from __future__ import annotations

from collections.abc import Sequence

from paddle_xc2.text.stream_decoder import StreamDecoder


class AnswerText:
    """Turns ids into text one by one, and holds back what may turn out to be the beginning of a stop text.

    Args:
        stop_texts: none of them empty; the one that comes first ends the answer, and is not part of it.
    Attributes:
        stopped: whether one of them has come.
    """

    def __init__(self, tokenizer, stop_texts: Sequence[str] = ()):
        self._decoder, self._stop_texts = StreamDecoder(tokenizer), tuple(stop_texts)
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """What of the text is certain with this token."""
        self._held += self._decoder.push(token_id)
        return self._release(self._num_held_back())

    def flush(self) -> str:
        """The rest, when no token follows."""
        if self.stopped:
            return ""
        self._held += self._decoder.flush()
        self._num_held_back()
        return self._release(0)

    def _num_held_back(self) -> int:
        """Characters at the end that a stop text may begin with. Cuts the text at a whole one."""
        found = [place for text in self._stop_texts if (place := self._held.find(text)) >= 0]
        if found:
            self._held, self.stopped = self._held[: min(found)], True
            return 0
        longest = max(map(len, self._stop_texts), default=0)
        for count in range(min(longest - 1, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-count:]) for text in self._stop_texts):
                return count
        return 0

    def _release(self, num_held: int) -> str:
        end = len(self._held) - num_held
        text, self._held = self._held[:end], self._held[end:]
        return text

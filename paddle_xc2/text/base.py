"""What the tokenizers of every family have in common."""

from __future__ import annotations

from functools import cached_property

GIT_LFS_POINTER = b"version https://git-lfs"


class BaseTokenizer:
    """A family's own class has `encode`, `decode`, `pad_token_id`, `padding_side`, `all_special_ids` and what follows:

    hidden_ids: ids that an answer doesn't show.
    unused_ids: ids that no text has.
    num_open_tokens(ids): how many of the last ids begin a character and don't complete it.
    token_bytes(id): what a token adds to a text, in UTF-8.
    """

    def __call__(
        self,
        text: str | list[str],
        add_special_tokens: bool = True,
        padding: bool = False,
        padding_side: str | None = None,
    ) -> dict:
        """Encodes one text, or a batch of them.

        Args:
            padding: fill the shorter texts of a batch up with the padding token.
            padding_side: "left" or "right"; None is the tokenizer's own.
        Returns: {"input_ids", "attention_mask"}: lists of int, lists of them for a batch; the mask is 0 at padding.
        """
        side = padding_side or self.padding_side
        if side not in ("left", "right"):
            raise ValueError(f'padding_side is "{side}"; use "left" or "right"')
        if isinstance(text, str):
            ids = self.encode(text, add_special_tokens)
            return {"input_ids": ids, "attention_mask": [1] * len(ids)}
        rows = [self.encode(one, add_special_tokens) for one in text]
        masks = [[1] * len(row) for row in rows]
        if padding:
            width = max(map(len, rows), default=0)
            rows, masks = _pad(rows, width, self.pad_token_id, side), _pad(masks, width, 0, side)
        return {"input_ids": rows, "attention_mask": masks}

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token: a text of n bytes has at least n / longest_token tokens."""
        return max(len(self.token_bytes(token_id)) for token_id in range(self.vocab_size))

    def batch_decode(self, batch, skip_special_tokens: bool = False) -> list[str]:
        """`decode` of every row."""
        return [self.decode(ids, skip_special_tokens) for ids in batch]

    def answer_text(self, ids: list[int]) -> str:
        """What an answer says: without hidden ids, and those of a model's rows that no text has."""
        hidden = frozenset(self.hidden_ids)
        return self.decode([i for i in ids if i < self.vocab_size and i not in hidden])

    def __len__(self) -> int:
        return self.vocab_size

    def _valid_ids(self, ids) -> list[int]:
        """`ids` (an int, or a list, array or tensor of them) as a list. Raises: ValueError for one outside."""
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        ids = [ids] if isinstance(ids, int) else [int(i) for i in ids]
        outside = [i for i in ids if not 0 <= i < self.vocab_size]
        if outside:
            raise ValueError(
                f"token ids {outside[:5]} are outside the vocabulary of {self.vocab_size} of {self._source}; "
                "is this the tokenizer of the checkpoint that gave them?"
            )
        return ids


def check_whole_characters(text: str) -> None:
    """Raises: ValueError if `text` holds half of a surrogate pair, which is no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds {text[error.start]!r}, half of a surrogate pair, at character {error.start}; "
            "remove it, or write the whole character"
        ) from error


def _pad(rows: list[list[int]], width: int, value: int, side: str) -> list[list[int]]:
    if side == "left":
        return [[value] * (width - len(row)) + row for row in rows]
    return [row + [value] * (width - len(row)) for row in rows]

"""QwenVLTokenizer: text <-> ids, by the byte-pair vocabulary (qwen.tiktoken) that lies beside the checkpoint.

Follows upstream's `tokenization_qwen.py`: texts are normalised to NFC and split by tiktoken; behind the vocabulary come
208 control tokens and 9 that mark pictures and places in them. A picture is <img>, a slot for each of its tokens, and
</img>; upstream keeps the path of the file in the slots, one id a byte of it, and so does `encode`.
"""

from __future__ import annotations

import base64
import binascii
import json
import unicodedata
from collections.abc import Iterable

import tiktoken

from paddle_xc2.families.special_tokens import (
    BOX_END,
    BOX_START,
    ENDOFTEXT,
    IM_END,
    IM_START,
    IMG_END,
    IMG_PAD,
    IMG_START,
    QUAD_END,
    QUAD_START,
    REF_END,
    REF_START,
)
from paddle_xc2.files.json_file import parse_json
from paddle_xc2.files.local_path import local_path
from paddle_xc2.hub.directory import CONFIG_FILE, open_model
from paddle_xc2.text.base import GIT_LFS_POINTER, BaseTokenizer, check_whole_characters
from paddle_xc2.text.tokenizer_settings import TOKENIZER_CONFIG_FILE

VOCABULARY_FILE = "qwen.tiktoken"
MAX_VOCABULARY_BYTES = 64 * 2**20  # the released one has 2.6 MB
IMAGE_TOKENS = 256  # of a picture, where a checkpoint says nothing else

_CONTROL = (ENDOFTEXT, IM_START, IM_END, *(f"<|extra_{index}|>" for index in range(205)))
GROUNDING = (REF_START, REF_END, BOX_START, BOX_END, QUAD_START, QUAD_END)
_PICTURE = (IMG_START, IMG_END, IMG_PAD)
# How a text is split before byte pairs are merged; upstream's PAT_STR.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class QwenVLTokenizer(BaseTokenizer):
    """Tokenizer of Qwen-VL.

    Args:
        files: content of qwen.tiktoken and, where it exists, tokenizer_config.json.
        source: the directory they came from, for messages.
        image_tokens: slots of a picture.
    Raises: ValueError if a file is damaged, or is no such vocabulary.
    """

    bos_token = bos_token_id = None  # no text begins with one
    padding_side = "right"

    def __init__(self, files: dict[str, bytes], source: str = "tokenizer", image_tokens: int = IMAGE_TOKENS):
        self._files, self._source, self.image_tokens = files, source, image_tokens
        ranks = _read_ranks(files[VOCABULARY_FILE], f"{source}/{VOCABULARY_FILE}")
        config = parse_json(files.get(TOKENIZER_CONFIG_FILE, b"{}"), f"{source}/{TOKENIZER_CONFIG_FILE}")
        self.special_ids = {text: len(ranks) + index for index, text in enumerate((*_CONTROL, *GROUNDING, *_PICTURE))}
        self._added = self._added_tokens(config)
        self._texts = {token_id: text for text, token_id in self.special_ids.items()}
        self._bytes = {rank: token for token, rank in ranks.items()}
        self._ranks = ranks
        self._bpe = tiktoken.Encoding("Qwen", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=self.special_ids)
        self.eos_token = self.pad_token = ENDOFTEXT
        self.eos_token_id = self.pad_token_id = self.special_ids[ENDOFTEXT]

    @classmethod
    def from_pretrained(cls, path, base=None) -> QwenVLTokenizer:
        """The tokenizer of a checkpoint; of an adapter, its own or that of its base.

        Args:
            path: of the checkpoint: a directory, a released name, or what `open_model` gave.
            base: of an adapter, if it is not where the adapter remembers it.
        Raises: FileNotFoundError without a qwen.tiktoken; ValueError if a file is damaged.
        """
        directory = open_model(path, base)
        of_model = directory.base if directory.is_adapter else directory
        if not directory.has(VOCABULARY_FILE):
            directory = of_model
        names = [name for name in (VOCABULARY_FILE, TOKENIZER_CONFIG_FILE) if directory.has(name)]
        if VOCABULARY_FILE not in names:
            advice = directory.newest_state() or "copy the released checkpoint's into this directory"
            raise FileNotFoundError(f"{directory}: there is no {VOCABULARY_FILE}; {advice}")
        files = {name: directory.content(name, MAX_VOCABULARY_BYTES) for name in names}
        visual = of_model.config().get("visual") if of_model.has(CONFIG_FILE) else None
        return cls(files, str(directory), (visual or {}).get("n_queries", IMAGE_TOKENS))

    def save_pretrained(self, directory) -> None:
        """Writes upstream's tokenizer files: byte for byte what was read, upstream's defaults where there was none."""
        directory = local_path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self._all_files().items():
            (directory / name).write_bytes(content)

    def _all_files(self) -> dict[str, bytes]:
        """What was read, and upstream's defaults where there was nothing."""
        config = {
            "model_max_length": 8192,
            "tokenizer_class": "QWenTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
        }
        return {TOKENIZER_CONFIG_FILE: json.dumps(config, indent=2).encode() + b"\n", **self._files}

    def with_new_tokens(self, texts: list[str]) -> QwenVLTokenizer:
        """A tokenizer that makes one token of each text, wherever it stands; the other ids stay as they are.

        Each takes the place of the first control token that was left for other uses. They are shown in answers.

        Args:
            texts: those that are a token already are left as they are.
        Raises: ValueError for a text that can't be a token, or if there are more than such places.
        """
        texts = list(dict.fromkeys(texts))
        for text in texts:
            if reason := self._why_no_token(text):
                raise ValueError(f"new token {text!r} {reason}; change it, or leave it out")
        new, free = [text for text in texts if len(self.encode(text)) != 1], self.unused_ids
        if len(new) > len(free):
            raise ValueError(
                f"{len(new)} new tokens are too many: {self._source} has {len(free)} places for them; name fewer"
            )
        config = json.loads(self._all_files()[TOKENIZER_CONFIG_FILE])
        added = {**self._added, **dict(zip(new, free, strict=False))}
        config["added_tokens_decoder"] = {
            str(token_id): {"content": text, "lstrip": False, "rstrip": False, "special": False}
            for text, token_id in added.items()
        }
        content = json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"
        return QwenVLTokenizer({**self._files, TOKENIZER_CONFIG_FILE: content}, self._source, self.image_tokens)

    def _added_tokens(self, config: dict) -> dict[str, int]:
        """{text: id} of tokens that tokenizer_config.json puts in the place of unused ones, also in `special_ids`."""
        unused, added = {self.special_ids[text]: text for text in _CONTROL[3:]}, {}
        for token_id, token in (config.get("added_tokens_decoder") or {}).items():
            text = token.get("content") if isinstance(token, dict) else None
            place = unused.get(int(token_id)) if str(token_id).isdigit() else None
            if not isinstance(text, str) or place is None and self.special_ids.get(text) != int(token_id):
                raise ValueError(
                    f"{self._source}/{TOKENIZER_CONFIG_FILE}: added token {token_id} takes no place that was left for "
                    f"it ({min(unused)} to {max(unused)}); take the tokenizer files of one and the same checkpoint"
                )
            if place is not None and place != text:
                del self.special_ids[place]
                added[text] = self.special_ids[text] = int(token_id)
        return added

    def _why_no_token(self, text: str) -> str:
        """What keeps a text from being a new token; "" if nothing does."""
        if not text or text != text.strip() or "\0" in text:
            return "is empty, begins or ends with a space, or holds NUL"
        check_whole_characters(text)
        if unicodedata.normalize("NFC", text) != text:
            return "is not in the form that texts are normalised to (NFC)"
        held = next((token for token in self.special_ids if token in text and token not in self._added), None)
        return f"holds {held}, which has a meaning of its own" if held else ""

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included; the model's tables have some rows more."""
        return len(self._ranks) + len(_CONTROL) + len(GROUNDING) + len(_PICTURE)

    @property
    def all_special_ids(self) -> list[int]:
        """Ids that `decode(..., skip_special_tokens=True)` leaves out."""
        return [token_id for text, token_id in self.special_ids.items() if text not in self._added]

    @property
    def hidden_ids(self) -> list[int]:
        """Special tokens that an answer doesn't show; it shows the marks of places in a picture."""
        return [token_id for token_id in self.all_special_ids if self._texts[token_id] not in GROUNDING]

    @property
    def unused_ids(self) -> list[int]:
        """Ids that no text has: control tokens that were left for other uses."""
        return [self.special_ids[text] for text in _CONTROL[3:] if text in self.special_ids]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of `text`. Special tokens written in it become their ids, and <img>path</img> a picture's slots.

        Args:
            add_special_tokens: changes nothing, no text of this vocabulary begins or ends with one.
        Raises: ValueError for half of a surrogate pair, or an <img> that is not closed, holds a special token, or a
            path that is longer than a picture's slots.
        """
        start, end = (self.special_ids[mark] for mark in (IMG_START, IMG_END))
        ids: list[int] = []
        opened = None
        for token_id in self._encode(text, "all"):
            if token_id == start and opened is None:
                opened = len(ids)
            if opened is not None and token_id == end:
                ids[opened + 1 :] = self._slots(ids[opened + 1 :])
                opened = None
            ids.append(token_id)
        if opened is not None:
            raise ValueError(f"the text holds {IMG_START} without its {IMG_END}; close it, or write it otherwise")
        return ids

    def encode_said(self, text: str) -> list[int]:
        """Ids of what somebody says: of special tokens, only the marks of places are not text there."""
        return self._encode(text, {*GROUNDING, *self._added})

    def picture(self) -> tuple[int, int]:
        """The ids that stand before and after a picture's slots."""
        return self.special_ids[IMG_START], self.special_ids[IMG_END]

    def decode(self, ids, skip_special_tokens: bool = False) -> str:
        """Text of `ids` (an int, or a list, array or tensor of them), as upstream's `decode`.

        Bytes that make no character become U+FFFD. Of a picture's slots, the path in them is shown.

        Raises: ValueError for an id outside the vocabulary.
        """
        pieces, path, inside = [], bytearray(), False
        start, end, pad = (self.special_ids[mark] for mark in _PICTURE)
        special = frozenset(self.all_special_ids)
        for token_id in self._valid_ids(ids):
            if inside and token_id != end:
                if token_id != pad:
                    path += bytes([token_id]) if token_id < 256 else self._bytes_of(token_id)
                continue
            if inside:
                pieces.append(bytes(path))
            inside, path = token_id == start, bytearray()
            if not (skip_special_tokens and token_id in special):
                pieces.append(self._bytes_of(token_id))
        if inside:
            pieces.append(bytes(path))
        return b"".join(pieces).decode("utf-8", errors="replace")

    def num_open_tokens(self, ids: list[int]) -> int:
        """How many of the last ids begin a character and don't complete it."""
        for count in range(1, min(3, len(ids)) + 1):
            piece = b"".join(map(self._bytes_of, ids[-count:]))
            try:
                piece.decode("utf-8")
            except UnicodeDecodeError as error:
                if error.reason == "unexpected end of data":
                    return count
        return 0

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text, in UTF-8; b"" for a row of the model that no text has."""
        return self._bytes_of(token_id) if token_id < self.vocab_size else b""

    def convert_tokens_to_ids(self, tokens: str | list[str]):
        """Id of a special token or of a piece of the vocabulary, or a list of them. Raises: ValueError for another."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        found = self.special_ids.get(tokens, self._ranks.get(tokens.encode("utf-8")))
        if found is None:
            raise ValueError(f'"{tokens}" is no token of {self._source}')
        return found

    def convert_ids_to_tokens(self, ids) -> list[str]:
        """Texts of the tokens; bytes that make no character are U+FFFD. Raises: ValueError as `decode`."""
        return [self._bytes_of(token_id).decode("utf-8", errors="replace") for token_id in self._valid_ids(ids)]

    def _encode(self, text: str, special) -> list[int]:
        check_whole_characters(text)
        return self._bpe.encode(unicodedata.normalize("NFC", text), allowed_special=special, disallowed_special=())

    def _slots(self, ids: Iterable[int]) -> list[int]:
        """A path as upstream keeps it in a picture's slots."""
        if special := [self._texts[token_id] for token_id in ids if token_id in self._texts]:
            raise ValueError(f"between {IMG_START} and {IMG_END} stands {special[0]}, which is no part of a path")
        path = b"".join(map(self._bytes_of, ids))
        if len(path) > self.image_tokens:
            raise ValueError(
                f"the path between {IMG_START} and {IMG_END} has {len(path)} bytes, more than the {self.image_tokens} "
                "slots of a picture; use a shorter one"
            )
        return [*path, *[self.special_ids[IMG_PAD]] * (self.image_tokens - len(path))]

    def _bytes_of(self, token_id: int) -> bytes:
        text = self._texts.get(token_id)
        return self._bytes[token_id] if text is None else text.encode()


def _read_ranks(content: bytes, source: str) -> dict[bytes, int]:
    """{piece: id} of a vocabulary file: in each line a piece in base64, and its rank."""
    if content.startswith(GIT_LFS_POINTER):
        raise ValueError(f"{source}: this is a Git LFS pointer, not the file; run `git lfs pull` where it was cloned")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        piece, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"{source}: line {number} is no piece with its rank; copy the file again") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError(
            f"{source}: this is no whole vocabulary: {len(ranks)} pieces, whose ranks don't go from 0 on, or without "
            "some of the 256 bytes; copy the file again"
        )
    return ranks

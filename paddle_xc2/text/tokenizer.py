"""XComposer2Tokenizer: text <-> ids, by the SentencePiece model that lies beside the checkpoint.

Follows upstream's `tokenization_internlm_xcomposer2.py`, and `tokenization_internlm2.py` where tokenizer_config.json
lists added tokens (InternLM2-chat's <|im_start|>): the same ids, and the same decoded strings with their odd spaces
around special tokens. Two differences: upstream's `decode` drops the space before a full stop, a comma or "n't" though
its tokenizer_config.json says clean_up_tokenization_spaces false, ours gives every text back as it was; and a NUL
character is the byte piece <0x00>, as in SentencePiece since 0.2.1, where it was piece 354 before.

A vocabulary doesn't grow: tokens that a user adds take the place of pieces that were left unused for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import sentencepiece

from paddle_xc2.families.special_tokens import (
    IM_END,
    IM_START,
    IMAGE_PLACEHOLDER,
    LLAVA_IMAGE,
    LLAVA_VIDEO,
    RESERVED,
    TURN_END,
    TURN_START,
)
from paddle_xc2.files.json_file import parse_json
from paddle_xc2.files.local_path import local_path
from paddle_xc2.hub.directory import XTUNER_LLM, ModelDirectory, open_model
from paddle_xc2.messages import counted
from paddle_xc2.text.base import GIT_LFS_POINTER, BaseTokenizer, check_whole_characters
from paddle_xc2.text.tokenizer_settings import (
    SPECIAL_TOKENS,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    content_of,
    read_settings,
)

MODEL_FILE = "tokenizer.model"
PADDLENLP_MODEL_FILE = "sentencepiece.bpe.model"  # the same under the name that PaddleNLP gives it
MAX_MODEL_BYTES = 64 * 2**20  # InternLM2's tokenizer.model has 1.5 MB

_PLACEHOLDERS = (IMAGE_PLACEHOLDER, LLAVA_IMAGE, LLAVA_VIDEO)  # where an image stands
_UNUSED_PIECE = re.compile(r"\[UNUSED_TOKEN_\d+\]")
_NO_BYTES_OF_UTF8 = (0xC0, 0xC1, *range(0xF5, 0x100))  # no text holds these bytes


class XComposer2Tokenizer(BaseTokenizer):
    """Tokenizer of an InternLM2 vocabulary.

    Args:
        files: content of tokenizer.model and, where they exist, tokenizer_config.json and special_tokens_map.json.
        source: the directory they came from, for messages.
        model_file: name of tokenizer.model there, for messages.
    Raises: ValueError if a file is damaged, or is no InternLM2 tokenizer.
    """

    def __init__(self, files: dict[str, bytes], source: str = "tokenizer", model_file: str = MODEL_FILE):
        self._files = files
        self._source = source
        self._sp = _load_sentencepiece(files[MODEL_FILE], f"{source}/{model_file}")
        config = read_settings(files, source)
        self.padding_side = config["padding_side"]
        self._visible_ids: set[int] = set()  # of added tokens that are text, and shown as such
        self._special_ids = self._added_tokens(config)
        for token in [config[name] for name in SPECIAL_TOKENS] + config["additional_special_tokens"]:
            if content_of(token) not in self._special_ids:
                self._special_ids[content_of(token)] = self._vocabulary_id(content_of(token))
        self._special_texts = {token_id: text for text, token_id in reversed(self._special_ids.items())}
        # The longest first: a token that begins like another must win over it.
        alternatives = sorted(self._special_ids, key=len, reverse=True)
        self._special_pattern = re.compile(f"({'|'.join(map(re.escape, alternatives))})")
        self.bos_token, self.eos_token, self.unk_token, self.pad_token = (
            content_of(config[name]) for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        )

    @classmethod
    def from_pretrained(cls, directory, base=None) -> XComposer2Tokenizer:
        """The tokenizer of a checkpoint; of an adapter, its own or that of its base.

        Args:
            directory: of the checkpoint: a path, a released name, or what `open_model` gave.
            base: of an adapter, if it is not where the adapter remembers it.
        Raises: FileNotFoundError without a tokenizer.model; ValueError if a file is damaged.
        """
        directory = open_model(directory, base)
        if directory.is_adapter and not _has_model(directory):
            directory = directory.base
        if not _has_model(directory):
            directory = directory.part(XTUNER_LLM) or directory
        if not directory.has(MODEL_FILE) and directory.has(PADDLENLP_MODEL_FILE):
            # The settings that PaddleNLP writes beside it say what upstream has by default, in other words.
            files = {MODEL_FILE: directory.content(PADDLENLP_MODEL_FILE, MAX_MODEL_BYTES)}
            return cls(files, str(directory), PADDLENLP_MODEL_FILE)
        if not directory.has(MODEL_FILE):
            advice = directory.newest_state() or "copy the one of the released checkpoint into this directory"
            raise FileNotFoundError(f"{directory}: there is no {MODEL_FILE}; {advice}")
        names = (MODEL_FILE, TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE)
        found = [name for name in names if (directory / name).exists()]
        return cls({name: directory.content(name, MAX_MODEL_BYTES) for name in found}, source=str(directory))

    def save_pretrained(self, directory) -> None:
        """Writes upstream's tokenizer files: byte for byte what was read, upstream's defaults where there was none."""
        directory = local_path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in {**self._default_files(), **self._files}.items():
            (directory / name).write_bytes(content)

    def with_new_tokens(self, texts: list[str]) -> XComposer2Tokenizer:
        """A tokenizer that makes one token of each text, wherever it stands; the other ids stay as they are.

        Each takes the first unused piece of the vocabulary. They are no special tokens: they are shown in answers.

        Args:
            texts: those that are a token already, an added one or a piece of the vocabulary, are left as they are.
        Raises: ValueError for a text that can't be a token, or if there are not so many unused pieces.
        """
        texts = list(dict.fromkeys(texts))
        for text in texts:
            if reason := self._why_no_token(text):
                raise ValueError(f"new token {text!r} {reason}; change it, or leave it out")
        new = [text for text in texts if len(self.encode(text, add_special_tokens=False)) != 1]
        free = [i for i in self.unused_ids if _UNUSED_PIECE.fullmatch(self._sp.id_to_piece(i))]
        if len(new) > len(free):
            raise ValueError(
                f"{counted(len(new), 'new token is', 'new tokens are')} too many: {self._source} has "
                f"{counted(len(free), 'unused piece')} "
                "([UNUSED_TOKEN_0] and so on), and this version can't grow a vocabulary; name fewer"
            )
        return self._with_added(dict(zip(free, new, strict=False)), special=False)

    def with_turn_tokens(self) -> XComposer2Tokenizer:
        """A tokenizer that knows <|im_start|> and <|im_end|>, as InternLM2-chat's does.

        The vocabulary holds pieces for them, which a language model without chat has no names for.
        """
        pieces = {IM_START: TURN_START, IM_END: TURN_END}
        lacking = {self._sp.piece_to_id(piece): name for name, piece in pieces.items() if name not in self._special_ids}
        if not lacking or self._sp.unk_id() in lacking:
            return self
        return self._with_added(lacking, special=True)

    def _with_added(self, tokens: dict[int, str], special: bool) -> XComposer2Tokenizer:
        """tokens: ids that have a piece already, and the texts that they are from now on."""
        name = f"{self._source}/{TOKENIZER_CONFIG_FILE}"
        config = parse_json({**self._default_files(), **self._files}[TOKENIZER_CONFIG_FILE], name)
        settings = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special}
        added = {str(i): {"content": text, **settings} for i, text in tokens.items()}
        config["added_tokens_decoder"] = {**config.get("added_tokens_decoder", {}), **added}
        content = json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"
        return XComposer2Tokenizer({**self._files, TOKENIZER_CONFIG_FILE: content}, self._source)

    def _default_files(self) -> dict[str, bytes]:
        """What upstream writes beside its tokenizer.model."""
        defaults = {
            TOKENIZER_CONFIG_FILE: {
                **SPECIAL_TOKENS,
                "auto_map": {"AutoTokenizer": ["tokenization_internlm_xcomposer2.InternLMXComposer2Tokenizer", None]},
                "clean_up_tokenization_spaces": False,
                "padding_side": self.padding_side,
                "tokenizer_class": "InternLMXComposer2Tokenizer",
            },
            SPECIAL_TOKENS_FILE: SPECIAL_TOKENS,
        }
        return {name: json.dumps(value, indent=2).encode() + b"\n" for name, value in defaults.items()}

    def _why_no_token(self, text: str) -> str:
        """What keeps a text from being a new token; "" if nothing does."""
        if not text or text != text.strip() or "\0" in text:
            return "is empty, begins or ends with a space, or holds NUL"
        if any("\ud800" <= character <= "\udfff" for character in text):
            return "holds half of a surrogate pair, which is no character"
        if text in self._special_ids:
            return ""
        hidden = [token for token, token_id in self._special_ids.items() if token_id not in self._visible_ids]
        holds = next((token for token in (*hidden, *RESERVED, *_PLACEHOLDERS) if token in text), None)
        if holds is not None:
            return f"holds {holds}, which has a meaning of its own"
        if len(self.encode(text, add_special_tokens=False)) == 1:
            # Its id would be given to another text.
            return "is an unused piece of the vocabulary itself" if _UNUSED_PIECE.fullmatch(text) else ""
        # As a token it would be taken out of the midst of them: no turn would begin or end.
        whole = next((token for token in RESERVED if text in token and token not in self._special_ids), None)
        return f"is a part of {whole}, which has a meaning of its own" if whole else ""

    @property
    def unused_ids(self) -> list[int]:
        """Ids that no text has: pieces that were left unused, and bytes that UTF-8 never holds."""
        taken = set(self._special_texts)
        unused = [i for i in range(self.vocab_size) if _UNUSED_PIECE.fullmatch(self._sp.id_to_piece(i))]
        no_bytes = [self._sp.piece_to_id(f"<0x{byte:02X}>") for byte in _NO_BYTES_OF_UTF8]
        taken |= {self._sp.piece_to_id(token) for token in RESERVED} | {self._sp.unk_id()}
        return [i for i in (*no_bytes, *unused) if i not in taken]

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return self._sp.get_piece_size()

    @property
    def bos_token_id(self) -> int:
        return self._special_ids[self.bos_token]

    @property
    def eos_token_id(self) -> int:
        return self._special_ids[self.eos_token]

    @property
    def unk_token_id(self) -> int:
        return self._special_ids[self.unk_token]

    @property
    def pad_token_id(self) -> int:
        return self._special_ids[self.pad_token]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids that `decode(..., skip_special_tokens=True)` leaves out."""
        return [i for i in self._special_texts if i not in self._visible_ids]

    @property
    def hidden_ids(self) -> list[int]:
        """Ids that an answer doesn't show: all special ones."""
        return self.all_special_ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of `text`, after BOS if `add_special_tokens`. Special tokens written in the text become their ids.

        Raises: ValueError if `text` holds half of a surrogate pair, which is no character.
        """
        ids = [self.bos_token_id] if add_special_tokens else []
        for part in self._special_pattern.split(text):
            if part in self._special_ids:
                ids.append(self._special_ids[part])
            else:
                ids.extend(self._sentencepiece_encode(part, int))
        return ids

    def encode_with_offsets(self, text: str, said: Sequence[range] = ()) -> tuple[list[int], list[int]]:
        """Ids of `text` without BOS, and how many of its characters are consumed after each.

        A character that takes several tokens, one per byte, is consumed by the last of them.

        Args:
            said: ranges of characters that somebody says: <s>, </s> and <unk> are text there.
        Returns: (ids, ends), ends rising from token to token, up to len(text).
        Raises: ValueError as `encode` does.
        """
        ids, ends, start = [], [], 0
        for part, is_special in self._split(text, said):
            if is_special:
                ids.append(self._special_ids[part])
                ends.append(start + len(part))
            else:
                mapping = self._sentencepiece_encode(part, "offset_mapping")
                ids.extend(mapping["ids"])
                ends.extend(start + end for _, end in mapping["offsets"])
            start += len(part)
        return ids, ends

    def _split(self, text: str, said: Sequence[range]) -> Iterator[tuple[str, bool]]:
        """Yields the parts of `text`, and whether each is a special token."""
        controls, start = (self.bos_token, self.eos_token, self.unk_token, self.pad_token), 0
        for found in self._special_pattern.finditer(text):
            first, last = found.span()
            if found.group() in controls and any(first in part and last - 1 in part for part in said):
                continue
            yield text[start:first], False
            yield found.group(), True
            start = last
        yield text[start:], False

    def decode(self, ids, skip_special_tokens: bool = False) -> str:
        """Text of `ids` (an int, or a list, array or tensor of them), as upstream's `decode`.

        Upstream writes a space before a special token that follows a normal one, and after BOS none. Tokens that were
        added as text stand as they were written.

        Raises: ValueError for an id outside the vocabulary.
        """
        ids = self._valid_ids(ids)
        text, normal, after_special = [], [], False
        for i in ids:
            added = self._special_texts.get(i)
            special = added is not None and i not in self._visible_ids
            if special and skip_special_tokens:
                continue
            if added is None:
                normal.append(i)
            else:
                text += [" " if special and not after_special else "", self._sp.decode(normal), added]
                normal = []
            after_special = special
        return "".join(text) + self._sp.decode(normal)

    def convert_tokens_to_ids(self, tokens: str | list[str]):
        """Id of a piece or special token, or a list of them; as upstream, the unknown token's id for anything else."""
        if isinstance(tokens, str):
            return self._special_ids.get(tokens, self._sp.piece_to_id(tokens))
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids) -> list[str]:
        """Pieces and special tokens of `ids`. Raises: ValueError for an id outside the vocabulary."""
        return [self._special_texts.get(i) or self._sp.id_to_piece(i) for i in self._valid_ids(ids)]

    def num_open_tokens(self, ids: list[int]) -> int:
        """How many of the last ids are bytes that begin a character and don't complete it: 0 to 3."""
        values = [self._byte_value(token_id) for token_id in ids[-3:]]
        for count in range(len(values), 0, -1):
            if None not in values[-count:] and _is_open_character(bytes(values[-count:])):
                return count
        return 0

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text, in UTF-8; b"" for a row of the model that no text has."""
        value = self._byte_value(token_id) if token_id < self.vocab_size else None
        if value is not None:
            return bytes([value])
        return self.decode([token_id]).encode() if token_id < self.vocab_size else b""

    def _byte_value(self, token_id: int) -> int | None:
        """0 to 255 if the token is one byte of a character, such as <0xE4>; None if it is text of its own."""
        return int(self._sp.id_to_piece(token_id)[3:5], 16) if self._sp.is_byte(token_id) else None

    def _sentencepiece_encode(self, text: str, return_type):
        try:
            return self._sp.encode(text, return_type=return_type)
        except RuntimeError:
            check_whole_characters(text)
            raise

    def _vocabulary_id(self, token: str) -> int:
        token_id = self._sp.piece_to_id(token)
        if self._sp.id_to_piece(token_id) != token:
            raise ValueError(
                f'{self._source}: the special token "{token}" is not in {MODEL_FILE}; '
                "take the tokenizer files of one and the same checkpoint"
            )
        return token_id

    def _added_tokens(self, config: dict) -> dict[str, int]:
        """Special tokens that tokenizer_config.json gives an id in place of the piece that SentencePiece has there."""
        added = {}
        for token_id, token in config["added_tokens_decoder"].items():
            if not int(token_id) < self.vocab_size:
                raise ValueError(
                    f'{self._source}: added token "{token["content"]}" has id {token_id}, outside the vocabulary of '
                    f"{self.vocab_size}; this version can't grow a vocabulary"
                )
            if any(token.get(key) for key in ("lstrip", "rstrip", "single_word")):
                raise ValueError(
                    f'{self._source}: added token "{token["content"]}" must be without lstrip, rstrip and single_word, '
                    f"as InternLM2's are; mend it in {TOKENIZER_CONFIG_FILE}"
                )
            added[token["content"]] = int(token_id)
            if not token.get("special"):
                self._visible_ids.add(int(token_id))
        return added


def _has_model(directory: ModelDirectory) -> bool:
    return any(map(directory.has, (MODEL_FILE, PADDLENLP_MODEL_FILE)))


def _load_sentencepiece(model: bytes, source: str) -> sentencepiece.SentencePieceProcessor:
    if model.startswith(GIT_LFS_POINTER):
        raise ValueError(f"{source}: this is a Git LFS pointer, not the file; run `git lfs pull` where it was cloned")
    # Errors only: InternLM2's model makes SentencePiece warn about its piece 354 at every start.
    sentencepiece.set_min_log_level(2)
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model)
    except (RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{source}: this is no SentencePiece model, or a damaged one ({len(model)} bytes); copy it again"
        ) from error
    # Offsets and streaming rely on it: text goes in as it is, only spaces become "▁".
    if processor.normalize(" Ａ  é ") != "▁Ａ▁▁é▁":
        raise ValueError(f"{source}: this model changes texts before it splits them; InternLM2's doesn't, take its own")
    return processor


def _is_open_character(start: bytes) -> bool:
    """Whether more bytes could make `start` one character."""
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start == 0 and error.reason == "unexpected end of data"
    return False

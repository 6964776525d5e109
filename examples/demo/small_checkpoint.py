"""A small XComposer2 checkpoint with random weights, laid out as the released ones are."""

from __future__ import annotations

import io
from pathlib import Path

from paddle_xc2.families.special_tokens import TURN_END, TURN_START

VOCAB_SIZE = 400
TURN_PIECES = (TURN_END, TURN_START)  # the last two of the vocabulary, as in the released tokenizer

# Sizes of the language model and of the vision encoder: as small as the demo's questions allow.
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "max_length": 512,
    "img_size": 8,
    # The released models' 0.02 suits widths of thousands; at this width it would take long to learn anything.
    "initializer_range": 0.1,
    "plora_dropout": 0.0,
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "patch_size": 4,
    },
}


def write_small_checkpoint(directory: Path, texts: list[str], seed: int):
    """Writes config, tokenizer and random weights in upstream's layout.

    Args:
        texts: what the tokenizer learns from.
    Returns: the model, XComposer2ForCausalLM.
    """
    from paddle_xc2 import runtime
    from paddle_xc2.families.config import XComposer2Config
    from paddle_xc2.model import XComposer2ForCausalLM
    from paddle_xc2.text.tokenizer import MODEL_FILE, XComposer2Tokenizer

    runtime.prepare()
    runtime.set_seed(seed)
    model = XComposer2ForCausalLM(XComposer2Config(**SIZES))
    # Scans have much paper and little ink: filters that don't answer to their mean brightness learn sooner.
    filters = model.vit.patch_embedding.weight
    filters.set_value(filters - filters.mean(axis=[1, 2, 3], keepdim=True))
    model.save_pretrained(directory, to="hf")
    XComposer2Tokenizer({MODEL_FILE: train_tokenizer(texts)}, source=str(directory)).save_pretrained(directory)
    return model


def train_tokenizer(texts: list[str]) -> bytes:
    """tokenizer.model of VOCAB_SIZE pieces that is built like InternLM2's.

    Byte-pair encoding over the texts as they are, one byte a token where no piece fits, digits one by one.
    """
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, "user\n", "assistant\n", "system\n"]),
        model_writer=written,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=list(TURN_PIECES),
        num_threads=1,  # the same pieces on every machine
        minloglevel=2,
    )
    # The trainer puts pieces that are asked for first.
    return move_pieces_to_end(written.getvalue(), TURN_PIECES)


def move_pieces_to_end(model: bytes, names: tuple[str, ...]) -> bytes:
    """A SentencePiece model with the pieces `names` as its last ones, in that order.

    Done on the bytes, because sentencepiece's own classes for them want another protobuf than VisualDL: a model is a
    sequence of fields, pieces are those with number 1, and a piece begins with its text.
    """
    fields, position = [], 0
    while position < len(model):
        tag, start = _read_varint(model, position)
        if tag & 7 != 2:
            raise AssertionError("a field of the tokenizer's model is of an unexpected type")
        length, start = _read_varint(model, start)
        fields.append((tag >> 3, model[start : start + length], model[position : start + length]))
        position = start + length
    last = {_piece_text(content): whole for number, content, whole in fields if number == 1}
    moved = [last[name] for name in names]
    return b"".join([whole for _, _, whole in fields if whole not in moved] + moved)


def _piece_text(piece: bytes) -> str:
    length, start = _read_varint(piece, 1)
    return piece[start : start + length].decode("utf-8")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """(value, position after it) of protobuf's variable-length number."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position

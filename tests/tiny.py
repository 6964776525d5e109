"""Small things that the tests compute with, made on the spot: no download, no file outside the test's own folder."""

import functools
import io
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from paddle_xc2.special_tokens import TURN_END, TURN_START

TINY_VOCAB_SIZE = 400

_TEXTS = (
    "What is in the picture?\nThe picture shows the digit 7.",
    "Which digit is larger, the first or the second?\nThe second digit, 9, is larger than 4.",
    "user\nPlease describe this image in detail.\nassistant\nIt is a picture of a small red house near the river.",
    "system\nYou are an assistant that looks at images and answers questions about them in English and Chinese.",
    "图中是哪个数字？\n图中的数字是 3。",
    "请描述这张图片。\n这张图片里有一座红色的小房子。",
    "0 1 2 3 4 5 6 7 8 9 10, 12.50; (yes) and [no]: it's \"quoted\" - that's all!",
)


@functools.lru_cache
def _tiny_tokenizer_model() -> bytes:
    """A BPE model like InternLM2's: identity normaliser, no dummy prefix, byte fallback, <unk> <s> </s> = 0 1 2.

    [UNUSED_TOKEN_145] and [UNUSED_TOKEN_146] are its last two pieces, as in the released one.
    """
    turn_pieces = (TURN_END, TURN_START)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXTS),
        model_writer=model,
        model_type="bpe",
        vocab_size=TINY_VOCAB_SIZE,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=list(turn_pieces),
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # The trainer puts user-defined pieces first; InternLM2 has them last.
    learned = [piece for piece in proto.pieces if piece.piece not in turn_pieces]
    turns = [piece for name in turn_pieces for piece in proto.pieces if piece.piece == name]
    del proto.pieces[:]
    proto.pieces.extend(learned + turns)
    return proto.SerializeToString()


def tiny_tokenizer(directory) -> Path:
    """Writes the tokenizer.model of a vocabulary of TINY_VOCAB_SIZE pieces into `directory`; returns `directory`."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(_tiny_tokenizer_model())
    return directory

from paddle_xc2.data.conversation import Conversation, Message
from paddle_xc2.data.marked_text import Piece, marked_pieces
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.families.table import family_named
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import tiny_tokenizer


def test_pieces_are_the_sample(tmp_path):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path))
    processor = XComposer2Processor(family_named("xcomposer2-7b"), tokenizer, 28)
    messages = Message("user", "<ImageHere><ImageHere>数字？"), Message("assistant", "It is 3.")
    _, example = processor.lay_out(Conversation(messages, ("a.png", "b.png")))
    assert marked_pieces(example, [4, 4], tokenizer) == [
        Piece("<s>[UNUSED_TOKEN_146]user\n", "given"),
        Piece("<image: 4 tokens>", "image"),
        Piece("<image: 4 tokens>", "image"),
        Piece("数字？[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n", "given"),
        Piece("It is 3.[UNUSED_TOKEN_145]\n</s>", "trained"),
    ]

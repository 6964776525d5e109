import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paddle_xc2.families.special_tokens import TURN_END, TURN_START
from paddle_xc2.text.stream_decoder import StreamDecoder
from paddle_xc2.text.tokenizer import MODEL_FILE, XComposer2Tokenizer
from paddle_xc2.text.tokenizer_settings import SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE
from tests.tiny import TINY_VOCAB_SIZE, tiny_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizer"
FAMILIES = ("xc2_7b", "xc2_vl_7b", "xc2_4khd", "xc2d5", "llava_internlm2")

# Module level: hypothesis calls a test many times, fixtures are made once.
TOKENIZER = XComposer2Tokenizer.from_pretrained(GOLDEN)
BYTE_OFFSET = TOKENIZER.convert_tokens_to_ids("<0x00>")


def chat_tokenizer(model: bytes, added: dict[str, int]) -> XComposer2Tokenizer:
    """With added tokens in InternLM2-chat's manner."""
    config = {
        "added_tokens_decoder": {str(i): {"content": text, "special": True} for text, i in added.items()},
        "additional_special_tokens": list(added),
    }
    return XComposer2Tokenizer({MODEL_FILE: model, TOKENIZER_CONFIG_FILE: json.dumps(config).encode()})


CHAT_TOKENIZER = chat_tokenizer((GOLDEN / MODEL_FILE).read_bytes(), {"<|im_end|>": 798, "<|im_start|>": 799})

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
# What decodes to itself: the piece for a space is written "▁", so a "▁" in a text comes back as a space.
REVERSIBLE_TEXTS = TEXTS.filter(lambda text: "▁" not in text)


def assert_matches(tokenizer, golden):
    for row in golden["strings"]:
        text, ids = row["text"], row["ids"]
        assert tokenizer(text)["input_ids"] == ids, text
        assert tokenizer.encode(text, add_special_tokens=False) == row["ids_no_special"], text
        assert tokenizer.encode_with_offsets(text)[0] == row["ids_no_special"], text
        assert tokenizer.convert_ids_to_tokens(row["ids_no_special"]) == row["tokens"], text
        assert tokenizer.decode(ids) == row["decode"], text
        assert tokenizer.decode(ids, skip_special_tokens=True) == row["decode_skip_special"], text
        assert tokenizer.decode(row["ids_no_special"]) == row["decode_no_special"], text
    batch, special = golden["batch"], golden["special"]
    encoded = tokenizer(batch["texts"], padding=True, padding_side=batch["padding_side"])
    assert encoded == {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (
        special["bos"],
        special["eos"],
        special["pad"],
        special["unk"],
    )
    assert tokenizer.vocab_size == len(tokenizer) == special["vocab_size"]


def streamed(tokenizer, ids):
    decoder = StreamDecoder(tokenizer)
    return "".join([decoder.push(i) for i in ids] + [decoder.flush()])


# Parity with upstream


def test_matches_upstream():
    assert_matches(TOKENIZER, json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("family", FAMILIES)
def test_matches_upstream_in_every_family(shared, family):
    golden = json.loads((shared / "goldens" / family / "golden.json").read_text(encoding="utf-8"))
    assert_matches(XComposer2Tokenizer.from_pretrained(shared / "goldens" / family / "ckpt"), golden["tokenizer"])


def test_matches_upstream_on_the_released_vocabulary(shared):
    golden = json.loads((shared / "goldens" / "tokenizer_real" / "golden.json").read_text(encoding="utf-8"))
    tokenizer = XComposer2Tokenizer.from_pretrained(shared / "tokenizer")
    assert_matches(tokenizer, golden)
    for row in golden["decode_random_ids"]:
        assert tokenizer.convert_ids_to_tokens(row["ids"]) == row["tokens"]
        assert tokenizer.decode(row["ids"]) == row["decode"]
        assert tokenizer.decode(row["ids"], skip_special_tokens=True) == row["decode_skip_special"]
        assert streamed(tokenizer, row["ids"]) == row["decode_skip_special"]


def test_added_tokens_match_upstream_on_the_released_vocabulary(shared):
    golden = json.loads((shared / "goldens" / "tokenizer_real" / "golden.json").read_text(encoding="utf-8"))
    golden = golden["internlm2_chat_style"]
    model = (shared / "tokenizer" / MODEL_FILE).read_bytes()
    config = json.dumps(golden["tokenizer_config"]).encode()
    assert_matches(XComposer2Tokenizer({MODEL_FILE: model, TOKENIZER_CONFIG_FILE: config}), golden)


def test_added_token_and_the_piece_it_replaces_are_the_same_id():
    assert CHAT_TOKENIZER.encode("<|im_end|>[UNUSED_TOKEN_145]<s>", add_special_tokens=False) == [798, 798, 1]
    assert CHAT_TOKENIZER.decode([798]) == " <|im_end|>"


def test_reading_a_tokenizer_starts_no_paddle_and_prints_nothing():
    script = "import sys; from paddle_xc2.text.tokenizer import XComposer2Tokenizer as Tokenizer\n"
    script += "Tokenizer.from_pretrained(sys.argv[1]); assert not {'paddle', 'paddlenlp'} & set(sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script, str(GOLDEN)], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Encoding


def test_special_tokens_are_one_id():
    ids = TOKENIZER.encode(f"{TURN_START}user\n{TURN_END}</s>", add_special_tokens=False)
    size = TOKENIZER.vocab_size
    assert (ids[0], ids[-2], ids[-1]) == (size - 1, size - 2, TOKENIZER.eos_token_id)
    assert TOKENIZER.convert_tokens_to_ids([TURN_END, "</s>", "no such piece"]) == [size - 2, 2, TOKENIZER.unk_token_id]


@settings(deadline=None)
@given(TEXTS)
@example("😀a世界[UNUSED_TOKEN_145]</s> b\x00")
@example("")
def test_offsets_rise_to_the_end_of_the_text(text):
    for tokenizer in (TOKENIZER, CHAT_TOKENIZER):
        ids, ends = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode(text, add_special_tokens=False)
        assert len(ends) == len(ids)
        assert ends == sorted(ends)
        assert not text or (ends[0] >= 0 and ends[-1] == len(text))


def test_offsets_count_characters_and_only_the_last_byte_of_one_consumes_it():
    ids, ends = TOKENIZER.encode_with_offsets(f"a😀{TURN_END}</s>b")
    assert ids == [
        *TOKENIZER.encode("a", False),
        *(BYTE_OFFSET + b for b in "😀".encode()),
        798,
        2,
        *TOKENIZER.encode("b", 0),
    ]
    assert ends == [1, 1, 1, 1, 2, 2 + len(TURN_END), 6 + len(TURN_END), 7 + len(TURN_END)]


def test_batch_is_padded_on_the_side_asked_for():
    short, long = TOKENIZER.encode("a"), TOKENIZER.encode("a house")
    fill = [TOKENIZER.pad_token_id] * (len(long) - len(short))
    zeros, ones = [0] * len(fill), [1] * len(short)
    right = TOKENIZER(["a", "a house"], padding=True)
    assert right == {"input_ids": [short + fill, long], "attention_mask": [ones + zeros, [1] * len(long)]}
    left = TOKENIZER(["a", "a house"], padding=True, padding_side="left")
    assert left == {"input_ids": [fill + short, long], "attention_mask": [zeros + ones, [1] * len(long)]}
    assert TOKENIZER(["a", "a house"])["input_ids"] == [short, long]
    assert TOKENIZER([], padding=True) == {"input_ids": [], "attention_mask": []}


def test_padding_side_is_the_checkpoints(tmp_path):
    (tiny_tokenizer(tmp_path) / TOKENIZER_CONFIG_FILE).write_text('{"padding_side": "left"}')
    tokenizer = XComposer2Tokenizer.from_pretrained(tmp_path)
    assert tokenizer(["a", "a house"], padding=True)["attention_mask"][0][0] == 0


def test_unknown_padding_side_is_refused():
    with pytest.raises(ValueError, match='padding_side is "middle"; use "left" or "right"'):
        TOKENIZER(["a"], padding=True, padding_side="middle")


def test_half_a_surrogate_pair_is_refused():
    for encode in (TOKENIZER.encode, TOKENIZER.encode_with_offsets):
        with pytest.raises(ValueError, match=r"'\\ud800', half of a surrogate pair, at character 2"):
            encode("ab\ud800")


# Decoding


@settings(deadline=None)
@given(REVERSIBLE_TEXTS)
@example("a , b . it 's n't")  # upstream's decode takes these spaces away
@example("  [UNUSED_TOKEN_145]  ")
def test_decoding_gives_the_text_back(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    if not set(ids) & set(TOKENIZER.all_special_ids):
        assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode(TOKENIZER.encode(text), skip_special_tokens=True) == "".join(
        part for part in TOKENIZER._special_pattern.split(text) if part not in ("<s>", "</s>", "<unk>")
    )


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.one_of(st.integers(0, 799), st.sampled_from([BYTE_OFFSET + b for b in b"\xe4\xbd\xa0\xf0\x9f\x98A"])))
)
@example([BYTE_OFFSET + b for b in b"\xe4\xe4\xbd\xa0"])  # a stray byte before a whole character
@example([BYTE_OFFSET + b for b in b"\xe4\xbd"])  # a character that never ends
@example([BYTE_OFFSET + 0xE4, 1, BYTE_OFFSET + 0xBD, 799, BYTE_OFFSET + 0xA0])
def test_streamed_text_adds_up_to_the_decoded(ids):
    for tokenizer in (TOKENIZER, CHAT_TOKENIZER):
        assert streamed(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_stream_shows_whole_characters_as_soon_as_they_are_complete():
    decoder = StreamDecoder(TOKENIZER)
    ids = TOKENIZER.encode("The 😀!")
    pushed = [decoder.push(i) for i in ids]
    assert "".join(pushed) == "The 😀!"
    assert "😀" in pushed
    assert pushed[0] == ""  # BOS
    assert not any("\ufffd" in text for text in pushed)


def test_decode_takes_arrays_and_single_ids():
    ids = TOKENIZER.encode("a house", add_special_tokens=False)
    assert TOKENIZER.decode(np.array(ids)) == TOKENIZER.decode(list(np.array(ids))) == "a house"
    assert TOKENIZER.decode(ids[0]) == TOKENIZER.decode(np.int64(ids[0])) == TOKENIZER.batch_decode([ids[:1]])[0]


@pytest.mark.parametrize("bad", [800, -1])
def test_id_outside_the_vocabulary_is_refused(bad):
    with pytest.raises(ValueError, match=rf"token ids \[{bad}\] are outside the vocabulary of 800 of .*tokenizer"):
        TOKENIZER.decode([5, bad])


# Files


def test_saves_what_it_read_byte_for_byte(tmp_path):
    TOKENIZER.save_pretrained(tmp_path / "saved")
    for name in (MODEL_FILE, TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE):
        assert (tmp_path / "saved" / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_saves_upstreams_settings_where_there_were_none(tmp_path):
    XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path / "read")).save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / TOKENIZER_CONFIG_FILE).read_text())
    reference = json.loads((GOLDEN / TOKENIZER_CONFIG_FILE).read_text())
    assert config == {key: value for key, value in reference.items() if key != "model_max_length"}
    special = json.loads((tmp_path / "saved" / SPECIAL_TOKENS_FILE).read_text())
    assert special == json.loads((GOLDEN / SPECIAL_TOKENS_FILE).read_text())


def test_special_tokens_may_be_written_as_objects_or_null(tmp_path):
    (tiny_tokenizer(tmp_path) / TOKENIZER_CONFIG_FILE).write_text(
        '{"bos_token": {"content": "<s>"}, "pad_token": null}'
    )
    tokenizer = XComposer2Tokenizer.from_pretrained(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id) == (1, 2)


def test_missing_model(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no tokenizer\.model; copy the one of the released checkpoint"
    ):
        XComposer2Tokenizer.from_pretrained(tmp_path)


def test_damaged_model(tmp_path):
    model = (GOLDEN / MODEL_FILE).read_bytes()
    cuts = [0, len(model) - 1, *random.sample(range(len(model)), 20)]
    for damaged in [b"not a model", *(model[:cut] for cut in cuts)]:
        (tmp_path / MODEL_FILE).write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"no SentencePiece model, or a damaged one \({len(damaged)} bytes\)"):
            XComposer2Tokenizer.from_pretrained(tmp_path)


def test_git_lfs_pointer(tmp_path):
    (tmp_path / MODEL_FILE).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="Git LFS pointer, not the file; run `git lfs pull`"):
        XComposer2Tokenizer.from_pretrained(tmp_path)


def test_model_that_changes_texts(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words"]), model_prefix=str(tmp_path / "tokenizer"), vocab_size=11, minloglevel=2
    )
    with pytest.raises(ValueError, match="this model changes texts before it splits them; InternLM2's doesn't"):
        XComposer2Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TOKENIZER_CONFIG_FILE, "{", r"tokenizer_config\.json: invalid JSON at line 1, column 2: "),
        (SPECIAL_TOKENS_FILE, "[]", r"special_tokens_map\.json: expected a JSON object, found a list"),
        (
            TOKENIZER_CONFIG_FILE,
            '{"pad_token": "[PAD]"}',
            r'the special token "\[PAD\]" is not in tokenizer\.model; take the',
        ),
        (
            TOKENIZER_CONFIG_FILE,
            '{"added_tokens_decoder": {"400": {"content": "<box>", "special": true}}}',
            'added token "<box>" has id 400, outside the vocabulary of 400; this version can\'t grow a vocabulary',
        ),
        (
            TOKENIZER_CONFIG_FILE,
            '{"added_tokens_decoder": {"399": {"content": "<box>", "special": true, "lstrip": true}}}',
            'added token "<box>" must be without lstrip, rstrip and single_word',
        ),
    ],
)
def test_settings_that_do_not_fit(tmp_path, name, content, message):
    (tiny_tokenizer(tmp_path) / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        XComposer2Tokenizer.from_pretrained(tmp_path)


# New tokens


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """A tokenizer with 4 unused pieces, [UNUSED_TOKEN_0] being the first."""
    return XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("roomy"), num_unused=4))


def test_new_tokens_take_unused_pieces(roomy, tmp_path):
    first = roomy.convert_tokens_to_ids("[UNUSED_TOKEN_0]")
    assert first == TINY_VOCAB_SIZE - 6
    tokenizer = roomy.with_new_tokens(["<defect>", "裂纹"])
    text = "It shows a <defect>, 这是裂纹。 <defect>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert [i for i in ids if i in (first, first + 1)] == [first, first + 1, first]
    assert len(tokenizer) == len(roomy) == TINY_VOCAB_SIZE
    assert tokenizer.convert_ids_to_tokens([first, first + 1]) == ["<defect>", "裂纹"]
    # They are text: shown in answers, whole or streamed, without a space more.
    for skip in (False, True):
        assert tokenizer.decode(ids, skip_special_tokens=skip) == text
    stream = StreamDecoder(tokenizer)
    assert "".join(map(stream.push, ids)) + stream.flush() == text
    assert tokenizer.all_special_ids == roomy.all_special_ids
    found, ends = tokenizer.encode_with_offsets(text)
    assert found == ids and ends[-1] == len(text)
    # Everything else is encoded as before, and the new tokenizer is the same when it is read again.
    other = "Which digit is it? 图中"
    assert tokenizer.encode(other) == roomy.encode(other)
    tokenizer.save_pretrained(tmp_path)
    again = XComposer2Tokenizer.from_pretrained(tmp_path)
    assert again.encode(text) == tokenizer.encode(text)
    assert again.with_new_tokens(["<defect>"]).encode(text) == tokenizer.encode(text)
    more = again.with_new_tokens(["<defect>", "<scratch>"])
    assert more.encode("<scratch>", add_special_tokens=False) == [first + 2]
    assert more.encode("<defect>", add_special_tokens=False) == [first]


def test_new_tokens_that_are_tokens_already(roomy):
    """Pieces of the vocabulary stay what they are, alone and within words."""
    text = "Which digit is it, the second?"
    piece = next(piece for piece in roomy.convert_ids_to_tokens(roomy.encode(text, False)) if len(piece) == 2)
    tokenizer = roomy.with_new_tokens([piece, "</s>", "<defect>", "<defect>"])
    assert tokenizer.encode(text) == roomy.encode(text)
    assert tokenizer.encode("<defect>", add_special_tokens=False) == [TINY_VOCAB_SIZE - 6]


@pytest.mark.parametrize("stages", [[["<a>", "<a>b"]], [["<a>b", "<a>"]], [["<a>"], ["<a>b"]]])
def test_new_tokens_that_begin_alike(roomy, stages):
    """The longest wins, also where it is added later."""
    tokenizer = roomy
    for texts in stages:
        tokenizer = tokenizer.with_new_tokens(texts)
    ids = tokenizer.encode("<a>b<a>", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<a>b", "<a>"] and tokenizer.decode(ids) == "<a>b<a>"


def test_settings_of_a_tokenizer_with_new_tokens(roomy, tmp_path):
    """What upstream needs to load it is there, also where the checkpoint had no settings."""
    roomy.save_pretrained(tmp_path)
    without = json.loads((tmp_path / TOKENIZER_CONFIG_FILE).read_text())
    roomy.with_new_tokens(["<defect>"]).save_pretrained(tmp_path)
    with_tokens = json.loads((tmp_path / TOKENIZER_CONFIG_FILE).read_text())
    assert with_tokens.pop("added_tokens_decoder").keys() == {str(TINY_VOCAB_SIZE - 6)}
    assert with_tokens == without and without["tokenizer_class"] == "InternLMXComposer2Tokenizer"


def test_the_released_vocabularys_unused_pieces(shared):
    """147 of them, of which two open and close turns; and 13 bytes that no UTF-8 text holds."""
    real_tokenizer = XComposer2Tokenizer.from_pretrained(shared / "tokenizer")
    unused = real_tokenizer.unused_ids
    assert len(unused) == 145 + 13
    turns = real_tokenizer.convert_tokens_to_ids([TURN_END, TURN_START])
    assert not set(turns) & set(unused)
    assert real_tokenizer.with_new_tokens(["<box>"]).encode("<box>", False) == [92397]


def test_turn_tokens_of_a_language_model_without_chat(roomy, tmp_path):
    """They get the ids that they have in InternLM2-chat; what has them already stays as it is."""
    tokenizer = roomy.with_turn_tokens()
    turns = ["<|im_start|>", "<|im_end|>"]
    ids = [TINY_VOCAB_SIZE - 1, TINY_VOCAB_SIZE - 2]
    assert tokenizer.encode("".join(turns), add_special_tokens=False) == ids
    assert roomy.convert_tokens_to_ids([TURN_START, TURN_END]) == ids
    assert tokenizer.decode([*ids, *tokenizer.encode("a", False)], skip_special_tokens=True) == "a"
    tokenizer.save_pretrained(tmp_path)
    again = XComposer2Tokenizer.from_pretrained(tmp_path)
    assert again.with_turn_tokens() is again and again.convert_tokens_to_ids(turns) == ids
    assert tokenizer.with_new_tokens(["<defect>"]).encode("<|im_end|><defect>", False) == [ids[1], TINY_VOCAB_SIZE - 6]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([" box"], "new token ' box' is empty, begins or ends with a space"),
        ([""], "new token '' is empty"),
        (["a<s>b"], "new token 'a<s>b' holds <s>, which has a meaning of its own; change it, or leave it out"),
        (["<ImageHere>"], "new token '<ImageHere>' holds <ImageHere>, which has a meaning of its own"),
        ([TURN_END], r"new token '\[UNUSED_TOKEN_145\]' holds \[UNUSED_TOKEN_145\], which has a meaning of its own"),
        (["TOKEN"], r"new token 'TOKEN' is a part of \[UNUSED_TOKEN_14[56]\], which has a meaning of its own"),
        (["[UNUSED_TOKEN_1]"], "is an unused piece of the vocabulary itself; change it, or leave it out"),
        (["\ud83d"], "holds half of a surrogate pair, which is no character; change it"),
        ([f"<{i}>" for i in range(5)], r"5 new tokens are too many: .* has 4 unused pieces"),
    ],
)
def test_new_tokens_that_can_not_be(roomy, texts, message):
    with pytest.raises(ValueError, match=message):
        roomy.with_new_tokens(texts)


# The tests' own tokenizer


def test_tiny_tokenizer_has_internlm2s_form(tmp_path):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path))
    assert tokenizer.vocab_size == TINY_VOCAB_SIZE
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>"]) == [0, 1, 2]
    assert tokenizer.convert_tokens_to_ids([TURN_END, TURN_START]) == [TINY_VOCAB_SIZE - 2, TINY_VOCAB_SIZE - 1]
    text = "The picture shows 图中的数字 7 😀\n"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_bytes_of_tokens_make_the_text():
    text = "图中 a cat, 3😀."
    assert b"".join(map(TOKENIZER.token_bytes, TOKENIZER.encode(text, add_special_tokens=False))).decode() == text
    assert TOKENIZER.token_bytes(len(TOKENIZER) + 5) == b""


def test_no_token_is_longer_than_the_longest():
    for text in ("图中 a cat, 3😀.", "assistant " * 20, "[UNUSED_TOKEN_145]" * 3, " " * 50, "\0"):
        num_tokens = len(TOKENIZER.encode(text, add_special_tokens=False))
        assert len(text.encode()) <= num_tokens * TOKENIZER.longest_token, text

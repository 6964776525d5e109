import json

import pytest

from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from paddle_xc2.text.tokenizer_settings import SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE, read_settings
from tests.tiny import tiny_tokenizer


def settings(**values):
    return read_settings({TOKENIZER_CONFIG_FILE: json.dumps(values).encode()}, "here")


def test_what_is_not_said_and_null():
    assert settings(pad_token=None) == read_settings({}, "here")
    assert read_settings({}, "here")["bos_token"] == "<s>" and read_settings({}, "here")["padding_side"] == "right"


def test_the_map_of_special_tokens_wins():
    files = {TOKENIZER_CONFIG_FILE: b'{"unk_token": "a"}', SPECIAL_TOKENS_FILE: b'{"unk_token": {"content": "b"}}'}
    assert read_settings(files, "here")["unk_token"] == {"content": "b"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bos_token": 3}, '"bos_token" is 3, expected a text'),
        ({"pad_token": ""}, '"pad_token" is "", expected a text'),
        ({"eos_token": {"text": "a"}}, '"eos_token" is {"text": "a"}, expected a text'),
        ({"additional_special_tokens": "a"}, '"additional_special_tokens" is "a", expected a list of texts'),
        ({"additional_special_tokens": [["a"]]}, '"additional_special_tokens" is [["a"]], expected a list of texts'),
        ({"padding_side": "middle"}, '"padding_side" is "middle", expected left or right'),
        ({"padding_side": []}, '"padding_side" is [], expected left or right'),
        ({"added_tokens_decoder": []}, '"added_tokens_decoder" is [], expected an object'),
        ({"added_tokens_decoder": {"x": {}}}, '"added_tokens_decoder" has the key "x", expected a token id'),
        ({"added_tokens_decoder": {"3": {}}}, "added token 3 is {}, expected an object with its content"),
        ({"added_tokens_decoder": {"3": "a"}}, 'added token 3 is "a", expected an object with its content'),
        ({"add_bos_token": False}, '"add_bos_token" is false, but this tokenizer always does as with true, which'),
        ({"add_bos_token": 1}, '"add_bos_token" is 1, but this tokenizer'),
        ({"sp_model_kwargs": {"alpha": 1}}, '"sp_model_kwargs" is {"alpha": 1}, but'),
    ],
)
def test_what_can_not_be_taken_is_named(values, said):
    with pytest.raises(ValueError) as caught:
        settings(**values)
    assert str(caught.value).startswith(f"here/tokenizer_config.json: {said}")


def test_a_tokenizer_holds_its_files_against_it(tmp_path):
    (tiny_tokenizer(tmp_path) / TOKENIZER_CONFIG_FILE).write_text('{"bos_token": ["<s>"]}')
    with pytest.raises(ValueError, match='tokenizer_config.json: "bos_token" is '):
        XComposer2Tokenizer.from_pretrained(tmp_path)

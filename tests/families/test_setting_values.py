"""Kinds and ranges of settings."""

from paddle_xc2.families.setting_values import wrong_values


def test_sound_values():
    settings = {"hidden_size": 64, "rms_norm_eps": 0, "rope_theta": 10000, "bias": False, "eos_token_id": [2, 7]}
    assert wrong_values({**settings, "num_key_value_heads": None, "hd_num": None, "of_another": object()}) == []


def test_every_wrong_value_has_its_sentence():
    wrong = wrong_values({"hidden_size": True, "vocab_size": 0, "patch_size": 5000, "rms_norm_eps": 2, "bias": None})
    assert wrong == [
        "hidden_size is True, but must be a whole number above 0",
        "vocab_size is 0, but must be a whole number above 0",
        "patch_size is 5000, but must be 1024 at most",
        "rms_norm_eps is 2, but must be a number from 0 to 1",
        "bias is None, but must be true or false",
    ]


def test_ids_are_those_of_the_vocabulary():
    assert wrong_values({"pad_token_id": 5, "vocab_size": 6}) == []
    assert wrong_values({"pad_token_id": 6, "vocab_size": 6}) == [
        "pad_token_id is 6, but must be the id of a token, from 0 to 5"
    ]
    assert len(wrong_values({"eos_token_id": [], "pad_token_id": [2]})) == 2

"""What generation_config.json may say."""

import json

import pytest

from paddle_xc2 import XComposer2ForCausalLM
from paddle_xc2.hub.directory import open_model
from paddle_xc2.hub.generation_settings import check_generation
from tests.tiny import tiny_checkpoint


def test_what_changes_nothing(tmp_path):
    check_generation(open_model(tmp_path))
    for content in (
        {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": [2, 399], "max_length": 4096},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "num_beams": 3, "repetition_penalty": 1.1},
        {"min_length": 0, "typical_p": 1.0, "bad_words_ids": None, "suppress_tokens": [], "length_penalty": 1.0},
        {"of_a_later_version": 3},
    ):
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
        check_generation(open_model(tmp_path))


def test_what_would_change_the_answers_is_refused_when_a_model_is_loaded(tmp_path):
    directory = tiny_checkpoint(tmp_path / "model")
    path = directory / "generation_config.json"
    path.write_text(json.dumps({"no_repeat_ngram_size": 3, "suppress_tokens": [5], "typical_p": "x"}))
    with pytest.raises(ValueError) as caught:
        XComposer2ForCausalLM.from_pretrained(directory)
    assert str(caught.value) == (
        f"{path}: no_repeat_ngram_size is 3, suppress_tokens is [5], typical_p is 'x': not supported, and answers "
        "would be others than upstream's; remove it to generate without"
    )
    path.write_text("[" * 1000)
    with pytest.raises(ValueError, match="generation_config.json: is nested too deep"):
        XComposer2ForCausalLM.from_pretrained(directory)

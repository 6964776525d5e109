"""Signatures estimate similarity, and near pairs are found without comparing all."""

import random

import numpy as np
import pytest

from paddle_xc2.data.checking.near_duplicates import SIGNATURE_BYTES, near_duplicates, text_signature

VOCABULARY = [f"word{index}" for index in range(2000)]


def changed(text, count, chance):
    words = text.split()
    for place in chance.sample(range(len(words)), count):
        words[place] = f"other{chance.randrange(10**6)}"
    return " ".join(words)


def runs(text):
    words = text.split()
    return set(zip(words, words[1:], words[2:], strict=False))


# The standard deviation of 64 comparisons is at most 0.5 / 8 each, 0.0063 of the mean of 100.
@pytest.mark.parametrize("num_changed", [0, 1, 5, 20])
def test_signatures_estimate_the_similarity(num_changed):
    chance, errors = random.Random(num_changed), []
    for _ in range(100):
        text = " ".join(chance.choices(VOCABULARY, k=100))
        other = changed(text, num_changed, chance)
        similarity = len(runs(text) & runs(other)) / len(runs(text) | runs(other))
        errors.append((text_signature(text) == text_signature(other)).mean() - similarity)
    assert abs(np.mean(errors)) < 4 * 0.0063
    assert num_changed or not any(errors)


def test_case_space_and_writing():
    text = "One two three four five six seven eight nine ten eleven."
    np.testing.assert_array_equal(text_signature(text), text_signature(text.upper().replace(" ", "\n ")))
    assert text_signature("short texts are alike by chance") is None
    assert text_signature("the same " * 50) is None
    chinese = text_signature("图中有一座红色的小房子，旁边是一条河。")  # no spaces: every character is a word
    assert chinese.dtype == np.uint8 and chinese.shape == (SIGNATURE_BYTES,)


def test_pairs_are_found_within_their_group():
    chance = random.Random(0)
    texts = [" ".join(chance.choices(VOCABULARY, k=60)) for _ in range(300)]
    texts[200], texts[250], texts[260] = texts[7], changed(texts[7], 1, chance), changed(texts[9], 40, chance)
    signatures = np.stack([text_signature(text) for text in texts])
    groups = np.zeros(300, np.uint64)
    found = near_duplicates(signatures, groups, 0.8)
    assert [(text, earlier) for text, earlier, _ in found] in ([(200, 7), (250, 7)], [(200, 7), (250, 200)])
    assert found[0][2] == 1.0 and 0.8 <= found[1][2] < 1.0
    groups[200] = 5
    assert [(text, earlier) for text, earlier, _ in near_duplicates(signatures, groups, 0.8)] == [(250, 7)]
    assert near_duplicates(signatures[:0], groups[:0], 0.8) == []

"""Texts that are nearly the same, among very many: MinHash signatures, compared within bands (Broder 1997; Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).

A text is the set of its runs of three words. Two signatures agree in about the share of runs that the texts have in
common out of all runs that either has (their Jaccard similarity). 64 bytes a text; no two texts are held at once.
"""

from __future__ import annotations

import re
import zlib

import numpy as np

SIGNATURE_BYTES = 64
_BAND_BYTES = 4  # two texts are compared if they agree in one band; at similarity 0.8, 99.98 % of pairs do
_RUN = 3
_MIN_RUNS = 8  # shorter texts are alike by chance
_MAX_WORDS = 20_000  # of a longer text, its beginning counts
_COMPARED_AT_ONCE = 65_536

# An ASCII word, or one character of any other writing: Chinese has no spaces.
_WORD = re.compile(r"[a-z0-9_]+|[^\W\x00-\x7f]")

_random = np.random.Generator(np.random.PCG64(20240126))
_FACTORS = _random.integers(1, 2**63, (SIGNATURE_BYTES, 1), dtype=np.uint64) | np.uint64(1)
_TERMS = _random.integers(0, 2**63, (SIGNATURE_BYTES, 1), dtype=np.uint64)
_RUN_FACTORS = _random.integers(1, 2**63, _RUN, dtype=np.uint64) | np.uint64(1)


def text_signature(text: str) -> np.ndarray | None:
    """uint8 [64]: what `near_duplicates` compares; None if the text is too short to tell. Case doesn't count."""
    words = _WORD.findall(text.lower())[:_MAX_WORDS]
    hashes = np.array([zlib.crc32(word.encode()) for word in words], np.uint64)
    num_runs = len(hashes) - _RUN + 1
    if num_runs < _MIN_RUNS:
        return None
    runs = sum(hashes[place : place + num_runs] * _RUN_FACTORS[place] for place in range(_RUN))
    # Upper bits only: the lower ones of a product are hardly mixed.
    runs = np.unique(runs ^ (runs >> np.uint64(29)))
    if len(runs) < _MIN_RUNS:
        return None
    smallest = (runs * _FACTORS + _TERMS).min(axis=1)
    return (smallest >> np.uint64(20)).astype(np.uint8)


def near_duplicates(signatures: np.ndarray, groups: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    """Texts that resemble an earlier one of their group.

    Args:
        signatures: uint8 [texts, 64].
        groups: uint64 [texts]; only texts with the same number are compared.
        threshold: similarity from which they count.
    Returns: (text, earlier text, estimated similarity), at most one for each text, in order.
    """
    found: dict[int, tuple[int, float]] = {}
    bands = np.ascontiguousarray(signatures).view(f"u{_BAND_BYTES}").astype(np.uint64)
    for band in bands.T:
        keys = (band * _RUN_FACTORS[0]) ^ groups
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]]) + 1  # places whose key is their predecessor's
        starts = np.ones(len(order), bool)
        starts[same] = False
        first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
        # With the first of a band's texts, and with the one before: two comparisons a text, however many are alike.
        for earlier in (order[first[same]], order[same - 1]):
            _compare(signatures, groups, order[same], earlier, threshold, found)
    return [(text, *found[text]) for text in sorted(found)]


def _compare(signatures, groups, texts, earlier, threshold, found) -> None:
    for start in range(0, len(texts), _COMPARED_AT_ONCE):
        part, other = texts[start : start + _COMPARED_AT_ONCE], earlier[start : start + _COMPARED_AT_ONCE]
        similarity = (signatures[part] == signatures[other]).mean(axis=1)
        for place in np.flatnonzero((similarity >= threshold) & (groups[part] == groups[other])):
            text = int(part[place])
            if text not in found or similarity[place] > found[text][1]:
                found[text] = int(other[place]), float(similarity[place])

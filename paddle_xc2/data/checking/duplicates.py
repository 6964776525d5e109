"""Records and images that are there twice, or nearly."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from paddle_xc2.data.checking.near_duplicates import near_duplicates
from paddle_xc2.data.findings import Finding, add_finding

NEAR_DUPLICATE = 0.8  # share of three-word runs in common


def note_duplicate_images(images: Iterable, findings: dict[str, Finding]) -> None:
    """images: ImageFile."""
    first: dict = {}
    for image in images:
        if image.content is None:
            continue
        earlier = first.setdefault(image.content, image)
        if earlier is not image:
            message = f"{image.path}: the same content as {earlier.path}; remove one if it is not meant"
            add_finding(findings, "duplicate image", False, image.record, message)


def note_duplicates(
    hashes: np.ndarray,
    signatures: np.ndarray,
    has_signature: np.ndarray,
    name: Callable[[int], str],
    findings: dict[str, Finding],
) -> None:
    """Records with the same texts and images as an earlier one, and with nearly the same texts.

    Args:
        hashes: uint64 [records, 2], of texts and images, and of the images; 0 where a record is not compared.
        signatures: uint8 [records, 64], of the texts, where `has_signature` [records].
        name: what to call a record.
    """
    whole, groups = hashes.T
    known = np.flatnonzero(whole)
    _, firsts, inverse = np.unique(whole[known], return_index=True, return_inverse=True)
    earlier = known[firsts[inverse.ravel()]]
    for record, first in zip(known[known != earlier], earlier[known != earlier], strict=True):
        message = f"{name(record)}: the same texts and images as {name(first)}; remove one"
        add_finding(findings, "duplicate record", False, int(record), message)
    compared = known[(known == earlier) & has_signature[known]]
    for text, other, similarity in near_duplicates(signatures[compared], groups[compared], NEAR_DUPLICATE):
        record, first = int(compared[text]), int(compared[other])
        message = (
            f"{name(record)}: nearly the same as {name(first)} (about {similarity:.0%} of their three-word pieces "
            "agree); keep one if that is not meant"
        )
        add_finding(findings, "near-duplicate record", False, record, message)

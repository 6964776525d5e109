import os
import time

import numpy as np
import pytest

from paddle_xc2.files.file_identity import content_identity, file_identity, picture_identity


def test_tells_files_apart(tmp_path):
    content = bytearray(os.urandom(300_000))
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(content)
    other.write_bytes(content)
    assert picture_identity(path) == picture_identity(other)
    for place in (0, -1):
        changed = bytearray(content)
        changed[place] ^= 1
        other.write_bytes(changed)
        assert picture_identity(path) != picture_identity(other)
    other.write_bytes(content + b"x")
    assert picture_identity(path) != picture_identity(other)
    other.write_bytes(os.urandom(300_000))
    assert picture_identity(path) != picture_identity(other)


@pytest.mark.parametrize("size", [0, 1, 4096, 65_536, 65_537])
def test_every_byte_of_a_small_file_counts(tmp_path, size):
    content = bytearray(size)
    (tmp_path / "a").write_bytes(content)
    before = picture_identity(tmp_path / "a")
    for place in range(0, min(size, 65_536), 9973):
        content[place] = 1
        (tmp_path / "a").write_bytes(content)
        if size <= 65_536:
            assert picture_identity(tmp_path / "a") != before
        content[place] = 0


def test_pieces_lie_all_over_a_large_file(tmp_path):
    content = np.zeros(1_000_000, np.uint8)
    content.tofile(tmp_path / "a")
    before = file_identity(tmp_path / "a", 1000, 50)
    for start in range(0, len(content), 50_000):
        changed = content.copy()
        changed[start : start + 50_000] = 1
        changed.tofile(tmp_path / "a")
        assert file_identity(tmp_path / "a", 1000, 50) != before


def test_a_content_and_its_file_are_the_same(tmp_path):
    for content in (b"", b"{}", os.urandom(10_000)):
        (tmp_path / "a").write_bytes(content)
        assert content_identity(content) == file_identity(tmp_path / "a", 10_000, 2)


def test_costs_little(tmp_path):
    """At most a second for 10,000 pictures; 0.75 s were measured on a busy machine."""
    path = tmp_path / "a.jpg"
    path.write_bytes(os.urandom(300_000))
    started = time.process_time()
    for _ in range(1000):
        picture_identity(path)
    assert time.process_time() - started < 0.3

import os
import time

import numpy as np
import pytest

from paddle_xc2.files.file_identity import _identity, model_identity, picture_identity


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
    before = _identity(tmp_path / "a", 1000, 50)
    for start in range(0, len(content), 50_000):
        changed = content.copy()
        changed[start : start + 50_000] = 1
        changed.tofile(tmp_path / "a")
        assert _identity(tmp_path / "a", 1000, 50) != before


def test_what_belongs_to_a_model(tmp_path):
    def written(name, content="x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
        return model_identity(tmp_path)

    before = written("config.json")
    assert written("config.json", "y") != before and written("config.json") == before
    for name in ("model.safetensors", "projector/model.safetensors", "visual_encoder/config.json"):
        after = written(name)
        assert after != before and written(name, "y") != after
        before = model_identity(tmp_path)
    for name in ("README.md", "tokenizer_config.json", "out/config.json", "metrics.jsonl"):
        assert written(name) == before
    os.utime(tmp_path / "config.json", (1, 1))
    assert model_identity(tmp_path) == before


def test_costs_little(tmp_path):
    """At most a second for 10,000 pictures; 0.75 s were measured on a busy machine."""
    path = tmp_path / "a.jpg"
    path.write_bytes(os.urandom(300_000))
    started = time.process_time()
    for _ in range(1000):
        picture_identity(path)
    assert time.process_time() - started < 0.3

"""Reading and writing past the system's cache, and through it where a file system can't do without."""

import errno
import hashlib
import os

import numpy as np
import pytest

from paddle_xc2.checkpoint import direct_io
from paddle_xc2.checkpoint.direct_io import PAGE, PageWriter, page_memory, read_pages


@pytest.fixture(params=["direct", "cached", "refused"])
def way(request, monkeypatch):
    """With O_DIRECT, without, and on a file system that refuses it."""
    if request.param == "cached":
        monkeypatch.setattr(direct_io, "_DIRECT", 0)
    elif request.param == "refused":
        real_open = os.open

        def refusing(path, flags, *mode):
            if flags & direct_io._DIRECT:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real_open(path, flags, *mode)

        monkeypatch.setattr(direct_io.os, "open", refusing)
    monkeypatch.setattr(direct_io, "CHUNK_BYTES", 4 * PAGE)


def random_bytes(num_bytes):
    return np.random.default_rng(num_bytes).bytes(num_bytes)


@pytest.mark.parametrize("num_bytes", [0, 1, PAGE, PAGE + 1, 4 * PAGE, 9 * PAGE - 1])
def test_what_is_written_is_read(way, tmp_path, num_bytes):
    content = random_bytes(num_bytes)
    with PageWriter(tmp_path / "file") as file:
        for start in range(0, num_bytes, 5000):
            file.write(content[start : start + 5000])
    assert (tmp_path / "file").read_bytes() == content
    assert file.sha256.hexdigest() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("offset, num_bytes", [(0, 1), (1, PAGE), (PAGE - 1, 2), (777, 9 * PAGE), (9 * PAGE, 123)])
def test_any_piece_of_a_file(way, tmp_path, offset, num_bytes):
    content = random_bytes(9 * PAGE + 777 + 123)
    (tmp_path / "file").write_bytes(content)
    piece = read_pages(tmp_path / "file", offset, num_bytes, page_memory(num_bytes))
    assert bytes(piece) == content[offset : offset + num_bytes]


def test_a_file_that_is_too_short(way, tmp_path):
    (tmp_path / "file").write_bytes(bytes(100))
    with pytest.raises(ValueError, match="file: became shorter while it was read; is another program writing it"):
        read_pages(tmp_path / "file", 50, 51, page_memory(51))


def test_arrays_are_written_as_they_lie(way, tmp_path):
    array = np.arange(3 * PAGE, dtype=np.uint16).reshape(3, -1)
    with PageWriter(tmp_path / "file") as file:
        file.write(array)
    assert (tmp_path / "file").read_bytes() == array.tobytes()


def test_a_file_that_exists_is_not_replaced(way, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError), PageWriter(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_full_disk_names_the_file(way, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(direct_io.os, "pwrite", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*file'"), PageWriter(tmp_path / "file") as file:
        file.write(bytes(20 * PAGE))


def test_missing_folders(way, tmp_path):
    with pytest.raises(FileNotFoundError), PageWriter(tmp_path / "nowhere" / "file"):
        pass
    with pytest.raises(FileNotFoundError):
        read_pages(tmp_path / "nowhere", 0, 1, page_memory(1))

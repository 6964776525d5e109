"""Large files past the system's cache: what is read or written once needs no room there, and no second copy.

Copying into fresh pages of the cache takes more of a processor than transposing does. Where a file system can't do
without (tmpfs, macOS), the same functions go through the cache.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

PAGE = mmap.PAGESIZE  # what offsets, lengths and addresses are multiples of
CHUNK_BYTES = 16 * 2**20
_DIRECT = getattr(os, "O_DIRECT", 0)


def page_memory(num_bytes: int) -> mmap.mmap:
    """Memory that `read_pages` can read a piece of `num_bytes` into, wherever the piece begins."""
    return mmap.mmap(-1, -(-num_bytes // PAGE) * PAGE + PAGE)


def read_pages(path: Path, offset: int, num_bytes: int, memory: mmap.mmap) -> memoryview:
    """A piece of a file.

    Args:
        offset, num_bytes: where it is; any numbers.
        memory: of `page_memory(num_bytes)`, or larger.
    Returns: the piece, within `memory`. Raises: ValueError if the file ends before it does.
    """
    first, end = offset - offset % PAGE, offset + num_bytes
    for flag in dict.fromkeys((_DIRECT, 0)):
        try:
            descriptor = os.open(path, os.O_RDONLY | flag)
            try:
                position, pages = first, memoryview(memory)[: -(-(end - first) // PAGE) * PAGE]
                while position < end:
                    start = position - first
                    num_read = os.preadv(descriptor, [pages[start : start + CHUNK_BYTES]], position)
                    if not num_read:
                        raise ValueError(f"{path}: became shorter while it was read; is another program writing it?")
                    position += num_read
                return pages[offset - first : end - first]
            finally:
                os.close(descriptor)
        except OSError:
            if not flag:
                raise
    raise AssertionError


class PageWriter:
    """Writes a new file, and takes its SHA-256 on the way: while one chunk is filled, threads write and sum the other.

    A context. At its end, without an error, the file has its length; `sync` it to have it on the disk.
    """

    def __init__(self, path: Path):
        self.path = path
        self.sha256 = hashlib.sha256()
        self._chunks = [mmap.mmap(-1, CHUNK_BYTES) for _ in range(2)]
        self._filled = self._written = 0
        self._threads = ThreadPoolExecutor(2)
        self._pending: list[Future] = []

    def __enter__(self) -> PageWriter:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        if _DIRECT:
            try:
                direct = os.open(self.path, os.O_WRONLY | _DIRECT)
            except OSError:
                return self  # a file system that can't
            os.close(self._descriptor)
            self._descriptor = direct
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self._flush()
                self._wait()
                os.ftruncate(self._descriptor, self._written)
        finally:
            self._threads.shutdown()
            os.close(self._descriptor)

    def write(self, piece: np.ndarray | bytes) -> None:
        """Takes a copy of `piece`, C-contiguous. Raises: OSError, also of an earlier piece's."""
        rest = memoryview(piece).cast("B")
        while rest:
            num_bytes = min(len(rest), CHUNK_BYTES - self._filled)
            self._chunks[0][self._filled : self._filled + num_bytes] = rest[:num_bytes]
            self._filled += num_bytes
            rest = rest[num_bytes:]
            if self._filled == CHUNK_BYTES:
                self._flush()

    def _flush(self) -> None:
        self._wait()
        chunk = memoryview(self._chunks[0])
        # The last chunk is written in whole pages; the file is cut to its length afterwards.
        pages = chunk[: -(-self._filled // PAGE) * PAGE]
        self._pending = [
            self._threads.submit(self._write_pages, pages, self._written),
            self._threads.submit(self.sha256.update, chunk[: self._filled]),
        ]
        self._chunks.reverse()
        self._written += self._filled
        self._filled = 0

    def _write_pages(self, pages: memoryview, offset: int) -> None:
        while pages:
            try:
                num_bytes = os.pwrite(self._descriptor, pages, offset)
            except OSError as error:
                error.filename = str(self.path)
                raise
            pages, offset = pages[num_bytes:], offset + num_bytes

    def _wait(self) -> None:
        pending, self._pending = self._pending, []
        for task in pending:
            task.result()

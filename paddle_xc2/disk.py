"""A disk that is full, can't be written to, or has gone away, and what to do then."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What it says, through no fault of what was to be written.
DISK_ERRORS = {*_NO_ROOM, *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)}


@contextmanager
def writing(path) -> Iterator[None]:
    """A block that writes `path`: if there is no room, the error names it. What goes through a buffer names no file."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


def disk_message(error: OSError) -> str:
    """One of DISK_ERRORS as a message: where, what, and what to do."""
    where = error.filename2 or error.filename  # of two, the second one is written
    if error.errno in _NO_ROOM:
        # Every file that a command writes is named: what is not is what it prints.
        return f"{where or 'the output'}: {error.strerror}; make room there, or write to another disk"
    return f"{where or 'the disk'}: {error.strerror}; mend the disk, or use another one"

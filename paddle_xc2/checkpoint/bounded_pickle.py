"""An unpickler for files of strangers: nothing is executed, and little is built, whatever the pickle asks for.

Python's unpickler in C makes room for as many memoized objects as an instruction of 5 bytes says: 471 bytes take
6.4 GB. The one in Python takes memory for what is there. It is slower, which a dict of tensors doesn't notice: that of
a 7B model has 0.1 MB.
"""

from __future__ import annotations

import pickle

MAX_READS = 2_000_000  # an instruction takes one or two; a dict of tensors has 20 for each tensor
_MAX_LINE = 64 * 2**10
_MAX_PIECE = 64 * 2**20
_HASHABLE = (str, int, float, bool, bytes, type(None))


class TooMuch(ValueError):
    """What no file of tensors has."""


class _BoundedFile:
    """Counts and limits what the unpickler reads. file: with read, seek and tell."""

    def __init__(self, file):
        self.file = file
        self.reads_left = MAX_READS

    def read(self, size: int) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0 or not 0 <= size <= _MAX_PIECE:
            raise TooMuch("its pickle has more instructions, or longer values, than any file of tensors")
        return self.file.read(size)

    def readline(self) -> bytes:
        start = self.file.tell()
        piece = self.read(_MAX_LINE)
        end = piece.find(b"\n") + 1
        if not end:
            raise TooMuch("its pickle has a line without end")
        self.file.seek(start + end)
        return piece[:end]


class BoundedUnpickler(pickle._Unpickler):
    """Builds dicts, lists, tuples, numbers and text; what else a pickle may name, a subclass says in `find_class`.

    Attributes of objects are not set (`build`), sets are lists, and a key of a dict is a plain value: the hash of a
    tuple that holds itself twice on each of 60 levels takes for ever.

    Args:
        file: with read, seek and tell.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file):
        super().__init__(_BoundedFile(file))

    def find_class(self, module, name):
        raise TooMuch(f"its pickle asks for {module}.{name}")

    def build(self, made: object, state: object) -> None:
        """What is done with the state of an object: nothing."""

    def load_build(self):
        state = self.stack.pop()
        self.build(self.stack[-1], state)

    def load_setitem(self):
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self):
        check_keys(self.stack[::2])
        super().load_dict()

    def load_empty_set(self):
        self.append([])

    def load_additems(self):
        items = self.pop_mark()
        self.stack[-1].extend(items)

    def load_frozenset(self):
        items = self.pop_mark()
        self.append(items)

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.EMPTY_SET[0]] = load_empty_set
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def check_keys(keys) -> None:
    """Raises: TooMuch for a key of a dict that is no plain value."""
    for key in keys:
        if not isinstance(key, _HASHABLE):
            raise TooMuch(f"its pickle has a {type(key).__name__} as a name")


def ordered_dict(items=()) -> dict:
    """Stands in for collections.OrderedDict: a dict keeps the order too, and has no attributes."""
    pairs = [tuple(pair) for pair in items]
    check_keys(pair[0] for pair in pairs)
    return dict(pairs)

"""A watch on what would wait for a GPU: no value, count or place of a tensor may come to the host."""

from contextlib import contextmanager

import numpy as np
import paddle
import pytest

METHODS = (
    *("numpy", "item", "tolist", "cpu", "__array__", "__bool__", "__int__", "__float__", "__index__"),
    *("nonzero", "masked_select", "unique"),
)
FUNCTIONS = ("nonzero", "masked_select", "unique", "to_tensor")


class Waited(AssertionError):
    pass


@contextmanager
def no_waiting():
    """Within it, whatever would wait for a device raises Waited."""
    get, copy = paddle.Tensor.__getitem__, paddle.Tensor.copy_

    def get_item(tensor, index):
        for one in index if isinstance(index, tuple) else (index,):
            if isinstance(one, (paddle.Tensor, np.ndarray, list)):
                raise Waited("indexed by an array")
        return get(tensor, index)

    def copy_(tensor, other, blocking):
        if blocking:
            raise Waited("a copy that blocks")
        return copy(tensor, other, blocking)

    with pytest.MonkeyPatch.context() as patch:
        for owner, names in ((paddle.Tensor, METHODS), (paddle, FUNCTIONS)):
            for name in names:
                patch.setattr(owner, name, _forbidden(name))
        patch.setattr(paddle.Tensor, "__getitem__", get_item)
        patch.setattr(paddle.Tensor, "copy_", copy_)
        yield


def _forbidden(name):
    def forbidden(*args, **kwargs):
        raise Waited(name)

    return forbidden

"""Where things are in a batch, known before it is on a device.

Whoever asks a GPU for a count or for places waits until it has done all that it was given. So they are looked up while
the batch is in the memory of the host, once; only a batch of unknown origin is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from paddle_xc2.families.special_tokens import IGNORE_INDEX

# What of a batch a layout is made from, in this order.
DESCRIBED = ("labels", "image_mask", "attention_mask")


@dataclass(frozen=True, eq=False)
class BatchLayout:
    """Attributes:
    image_places: int64 [slots]: which tokens of the flattened batch are image slots, in reading order.
    image_span: of the flattened batch, from the first image slot to the last.
    predicting: int64 [trained tokens]: which tokens of the flattened batch stand before a trained one.
    first_columns: as `first_columns` gives it; None where every row is one sample without padding.
    describes: the tensors that it was made for, as DESCRIBED names them, each with the number of times that it had been
        written to.
    sources: what a copy to the device may still be reading.
    """

    image_places: np.ndarray
    image_span: range
    predicting: np.ndarray
    first_columns: np.ndarray | None
    describes: tuple = ()
    sources: tuple = ()

    @classmethod
    def of(cls, labels=None, image_mask=None, segment_ids=None) -> BatchLayout:
        """Args: those of `VisionLanguageNetwork.forward`, where the last is called attention_mask; as arrays, or as
        tensors, which are waited for.
        """
        columns = None
        if segment_ids is not None and (np.asarray(segment_ids) != 1).any():
            columns = first_columns(np.asarray(segment_ids))
        places = _image_places(image_mask)
        span = range(int(places[0]), int(places[-1]) + 1) if len(places) else range(0)
        return cls(places, span, _predicting(labels), columns)

    def describing(self, *tensors) -> BatchLayout:
        """The same for tensors of which all is known now: DESCRIBED, each a Paddle tensor or None."""
        return replace(self, describes=tuple((tensor, _times_written(tensor)) for tensor in tensors))

    def still_describes(self, *tensors) -> bool:
        """Whether it was made for these, and none was written to since."""
        return len(tensors) == len(self.describes) and all(
            tensor is known and _times_written(tensor) == written
            for tensor, (known, written) in zip(tensors, self.describes, strict=True)
        )


def _times_written(tensor) -> int:
    return 0 if tensor is None else tensor.inplace_version


def _image_places(image_mask) -> np.ndarray:
    return np.flatnonzero(() if image_mask is None else np.asarray(image_mask))


def _predicting(labels) -> np.ndarray:
    if labels is None:
        return np.zeros([0], np.int64)
    trained = np.asarray(labels) != IGNORE_INDEX
    trained[:, 0] = False  # the first token is predicted from nothing
    return np.flatnonzero(trained) - 1


def first_columns(segments: np.ndarray) -> np.ndarray:
    """From which column on keys matter to a query: int64 [columns].

    Args:
        segments: int [rows, columns], the number of the sample that each token belongs to. Those of a sample are
            neighbours.
    Returns: for each column where its own sample begins, in the row where that is first.
    """
    begins = np.concatenate([np.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
    return np.maximum.accumulate(np.where(begins, np.arange(segments.shape[1]), 0), axis=1).min(axis=0)

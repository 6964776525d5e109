"""The samples of a run: those that fit, how long they are, and which were refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from paddle_xc2.data.conversation import Conversation, DataError
from paddle_xc2.data.encode import TooLong
from paddle_xc2.data.image_transform import image_size_of
from paddle_xc2.data.video import is_video

_NUM_UNUSABLE_SHOWN = 20


@dataclass(frozen=True)
class Samples:
    """What is trained or evaluated on.

    Attributes:
        conversations: those that fit max_length, as they were read.
        lengths: int64 [samples, 3]: tokens (image slots included), image tokens, trained tokens of each.
        refused: why each of the others is left out.
        num_shortened: samples that lose turns to fit.
    """

    conversations: list[Conversation]
    lengths: np.ndarray
    refused: list[str]
    num_shortened: int

    def __len__(self) -> int:
        return len(self.conversations)

    @property
    def fingerprint(self) -> str:
        """16 digits of texts, image names and lengths of all samples in order: tell whether it is the same data."""
        digest = hashlib.sha256(self.lengths.tobytes())
        for conversation in self.conversations:
            turns = [(message.role, message.text) for message in conversation.messages]
            digest.update(repr((turns, [image.name for image in conversation.images])).encode())
        return digest.hexdigest()[:16]


def fit_samples(conversations: list[Conversation], processor, leave_out: bool = False) -> Samples:
    """Measures every sample. Of images, only the headers are read.

    Args:
        leave_out: go on without the samples that are too long.
    Raises: ValueError if no sample fits; DataError that lists the images that can't be used, and the samples that are
        too long.
    """
    fitting, lengths, refused, unusable, num_shortened = [], [], [], [], 0
    for conversation in conversations:
        try:
            fitted, example = processor.lay_out(conversation)
            for image in fitted.images:
                if not is_video(image):
                    image_size_of(image, conversation.source)
        except TooLong as error:
            refused.append(str(error))
            continue
        except DataError as error:
            unusable.append(str(error))
            continue
        fitting.append(conversation)
        lengths.append((len(example), int(example.image_mask.sum()), example.num_trained_tokens))
        num_shortened += example.num_dropped_turns > 0
    if unusable:
        raise DataError(_listed(f"{len(unusable)} of {len(conversations)} records can't be used:", unusable))
    if refused and fitting and not leave_out:
        title = (
            f"{len(refused)} of {len(conversations)} samples are too long; truncation leave_out goes on without them:"
        )
        raise DataError(_listed(title, refused))
    if not fitting:
        reason = refused[0] if refused else "the data files hold none"
        raise ValueError(f"no sample is left to train or evaluate on, all {len(refused)} are too long; {reason}")
    return Samples(fitting, np.array(lengths, np.int64), refused, num_shortened)


def _listed(title: str, reasons: list[str]) -> str:
    more = len(reasons) - _NUM_UNUSABLE_SHOWN
    return "\n  ".join([title, *reasons[:_NUM_UNUSABLE_SHOWN], *([f"and {more} more"] if more > 0 else [])])

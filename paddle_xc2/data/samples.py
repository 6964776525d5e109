"""The samples of a run: those that fit, how long they are, and which were refused."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from paddle_xc2.data.conversation import Conversation, DataError
from paddle_xc2.data.encode import TooLong
from paddle_xc2.data.findings import Finding, add_finding, by_frequency, finding_lines, merge_findings
from paddle_xc2.data.images.picture_reading import POSSIBLE_LOSSES
from paddle_xc2.data.images.pictures import ImageMissing, look_at
from paddle_xc2.data.images.video import frame_sheet, is_video
from paddle_xc2.data.missing_images import NUM_LOOKED_FOR, where_they_lie
from paddle_xc2.data.mixture import Dataset, Records
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.worker_processes import made_ahead
from paddle_xc2.families.special_tokens import IGNORE_INDEX
from paddle_xc2.files.file_identity import picture_identity
from paddle_xc2.messages import listed_lines
from paddle_xc2.runtime import usable_cpus

_CHUNK = 256  # samples that a worker measures at a time
_MANY = 2048  # samples that are worth starting workers for


@dataclass(frozen=True)
class Samples:
    """What is trained or evaluated on.

    Attributes:
        conversations: those that fit max_length, as they were read; each is read again when it is asked for.
        lengths: int64 [samples, 3]: tokens (image slots included), image tokens, trained tokens of each.
        dataset_of: int [samples], which of `datasets` each belongs to.
        datasets: where they come from.
        max_length: longest sample that fits.
        fingerprint: 16 digits of texts, image names and lengths of all samples in order: tell whether it is the same
            data.
        refused: why each of the others is left out.
        num_shortened: samples that lose turns to fit.
        notes: oddities that were read in spite of.
        token_ids: int64 [distinct], the tokens that the samples hold.
        trained_ids: int64 [distinct], those of them that are trained.
        contents: 16 digits of what is in the pictures' files, and of the tokens, of all samples in order.
        bad: records that can't be used and are left out, by the rule that they break.
    """

    conversations: Sequence[Conversation]
    lengths: np.ndarray
    dataset_of: np.ndarray
    datasets: tuple[Dataset, ...]
    max_length: int
    fingerprint: str
    refused: list[str]
    num_shortened: int
    notes: Notes
    token_ids: np.ndarray
    trained_ids: np.ndarray
    contents: str = ""
    bad: dict[str, Finding] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.conversations)

    @property
    def has_image(self) -> np.ndarray:
        """bool [samples]."""
        return self.lengths[:, 1] > 0

    @property
    def usable_records(self) -> np.ndarray:
        """int64 [datasets], samples of each data set."""
        return np.bincount(self.dataset_of, minlength=len(self.datasets))


class _Fitting(Sequence):
    """The records with the given indexes."""

    def __init__(self, records: Sequence[Conversation], indexes: np.ndarray):
        self.records = records
        self.indexes = indexes

    def __len__(self) -> int:
        return len(self.indexes)

    def __getitem__(self, index: int) -> Conversation:
        return self.records[int(self.indexes[index])]


@dataclass
class _Measured:
    """Of a chunk of records. `lengths` [fitting, 3]; `refused`: reasons; `tokens`: distinct ids, twice."""

    fitting: list[int]
    lengths: list[tuple[int, int, int]]
    digests: bytes
    contents: bytes
    refused: list[str]
    bad: dict[str, Finding]
    missing: list[tuple[str, Path]]  # images, as of `where_they_lie`
    num_shortened: int
    notes: Notes
    tokens: tuple[np.ndarray, np.ndarray]  # token_ids and trained_ids of Samples


class _Chunks(Sequence):
    """Item i measures the i-th `_CHUNK` records."""

    def __init__(self, records: Sequence[Conversation], processor, decode: bool):
        self.records = records
        self.processor = processor
        self.decode = decode

    def __len__(self) -> int:
        return -(-len(self.records) // _CHUNK)

    def __getitem__(self, chunk: int) -> _Measured:
        none = np.empty(0, np.int64)
        measured = _Measured([], [], b"", b"", [], {}, [], 0, Notes(), (none, none))
        digests, contents, held, trained = [], [], [], []
        is_records = isinstance(self.records, Records)
        for index in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(self.records))):
            try:
                conversation = self.records.read(index, measured.notes) if is_records else self.records[index]
                fitted, example = self.processor.lay_out(conversation)
                for image in fitted.images:
                    if not is_video(image):
                        looked = look_at(image, conversation.source, self.decode, self.processor.reading)
                        for loss in POSSIBLE_LOSSES.keys() & looked.losses:
                            measured.notes.add(POSSIBLE_LOSSES[loss], conversation.source)
                    elif self.decode:
                        frame_sheet(image, conversation.source)
            except TooLong as error:
                measured.refused.append(str(error))
                continue
            except DataError as error:
                add_finding(measured.bad, error.rule, True, index, str(error))
                if isinstance(error, ImageMissing) and error.looked_for:
                    measured.missing.append(error.looked_for)
                continue
            lengths = (len(example), int(example.image_mask.sum()), example.num_trained_tokens)
            turns = [(message.role, message.text) for message in conversation.messages]
            known = repr((turns, [image.name for image in conversation.images], lengths))
            digests.append(hashlib.sha256(known.encode()).digest())
            contents += [picture_identity(image) for image in conversation.images]
            contents.append(hashlib.sha256(example.input_ids.tobytes() + example.labels.tobytes()).digest())
            measured.fitting.append(index)
            measured.lengths.append(lengths)
            measured.num_shortened += example.num_dropped_turns > 0
            held.append(example.input_ids[~example.image_mask])
            trained.append(example.labels[example.labels != IGNORE_INDEX])
        measured.digests, measured.contents = b"".join(digests), b"".join(contents)
        if held:
            measured.tokens = (np.unique(np.concatenate(held)), np.unique(np.concatenate(trained)))
        return measured


def fit_samples(
    records: Records | Sequence[Conversation],
    processor,
    leave_out: bool = False,
    silent: bool = True,
    leave_bad_out: bool = False,
) -> Samples:
    """Measures every sample; many, in one worker process a processor. Of images, only the headers are read.

    Args:
        records: conversations that are no Records are one data set, of which each is trained on once an epoch.
        leave_out: go on without the samples that are too long.
        silent: no progress bar.
        leave_bad_out: go on without the records that can't be used; images are read whole then.
    Raises: ValueError if no sample fits; DataError that lists the records and images that can't be used, or the samples
        that are too long.
    """
    chunks, num_records = _Chunks(records, processor, decode=leave_bad_out), len(records)
    num_workers = usable_cpus() if num_records >= _MANY else 0
    fitting, lengths, refused, bad, missing, num_shortened = [], [], [], {}, [], 0
    notes = records.notes() if isinstance(records, Records) else Notes()
    digest, contents = hashlib.sha256(), hashlib.sha256()
    held, trained = np.empty(0, np.int64), np.empty(0, np.int64)
    # A bar only if it takes long; where nobody watches, a line every now and then.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(
        total=num_records, desc="measuring samples", unit="sample", delay=2.0, mininterval=interval, disable=silent
    ) as bar:
        for measured in made_ahead(chunks, range(len(chunks)), num_workers):
            fitting.append(np.array(measured.fitting, np.int64))
            lengths.append(np.array(measured.lengths, np.int64).reshape(-1, 3))
            refused += measured.refused
            merge_findings(bad, measured.bad)
            missing += measured.missing[: NUM_LOOKED_FOR - len(missing)]
            num_shortened += measured.num_shortened
            notes.update(measured.notes)
            digest.update(measured.digests)
            contents.update(measured.contents)
            held, trained = np.union1d(held, measured.tokens[0]), np.union1d(trained, measured.tokens[1])
            bar.update(min(_CHUNK, num_records - bar.n))
    num_fitting = sum(map(len, fitting))
    num_bad = sum(finding.count for finding in bad.values())
    if missing:
        bad["image missing"].advice = where_they_lie(missing)
    if num_bad and not (leave_bad_out and num_fitting):
        title = f"{num_bad:,} of {num_records:,} records can't be used:"
        hint = [] if leave_bad_out or not num_fitting else ['"bad_records": "leave_out" trains without them']
        raise DataError("\n  ".join([title, *finding_lines(by_frequency(bad.items())), *hint]))
    if refused and num_fitting and not leave_out:
        title = f"{len(refused)} of {num_records} samples are too long; truncation leave_out goes on without them:"
        raise DataError(listed_lines(title, refused))
    if not num_fitting:
        reason = refused[0] if refused else "the data files hold none"
        raise ValueError(f"no sample is left to train or evaluate on, all {len(refused)} are too long; {reason}")
    indexes = np.concatenate(fitting)
    if isinstance(records, Records):
        datasets, dataset_of = records.datasets, records.dataset_of[indexes]
    else:
        datasets, dataset_of = (Dataset.of(records),), np.zeros(num_fitting, np.int32)
    return Samples(
        _Fitting(records, indexes),
        np.concatenate(lengths),
        dataset_of,
        datasets,
        processor.max_length,
        digest.hexdigest()[:16],
        refused,
        num_shortened,
        notes,
        held,
        trained,
        contents.hexdigest()[:16],
        by_frequency(bad.items()),
    )

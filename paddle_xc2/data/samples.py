"""The samples of a run: those that fit, how long they are, and which were refused."""

from __future__ import annotations

import hashlib
import sys
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from paddle_xc2.data.conversation import Conversation, DataError
from paddle_xc2.data.findings import Finding, add_finding, by_frequency, finding_lines, merge_findings
from paddle_xc2.data.images.picture_reading import POSSIBLE_LOSSES
from paddle_xc2.data.judge import Judge, Verdict
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
        content_of: uint32 [samples, 2], the same of each sample: of its pictures, and of its tokens.
        bad: what is wrong with the records that can't be used and are left out, by the rules that they break.
        num_bad: how many these are.
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
    content_of: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.uint32))
    bad: dict[str, Finding] = field(default_factory=dict)
    num_bad: int = 0

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
    """What is known of some records.

    Attributes:
        fitting: indexes of those that can be trained on.
        lengths: of these, as in Samples, one after the other.
        digests, contents: of these, what `fingerprint` and `contents` of Samples are hashes of.
        content_of: of these, as in Samples, one after the other.
        token_ids, trained_ids: of these, as in Samples.
        num_shortened, refused, bad, num_bad, notes: as in Samples.
        missing: images, as of `where_they_lie`.
    """

    fitting: array = field(default_factory=lambda: array("q"))
    lengths: array = field(default_factory=lambda: array("q"))
    digests: list[bytes] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    content_of: array = field(default_factory=lambda: array("I"))
    token_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    trained_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    num_shortened: int = 0
    refused: list[str] = field(default_factory=list)
    bad: dict[str, Finding] = field(default_factory=dict)
    num_bad: int = 0
    missing: list[tuple[str, Path]] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)

    def take(self, index: int, verdict: Verdict) -> None:
        """Counts record `index` by what the judge says of it."""
        if verdict.too_long is not None:
            self.refused.append(str(verdict.too_long))
        for rule, message in verdict.errors:
            add_finding(self.bad, rule, True, index, message)
        self.num_bad += bool(verdict.errors)
        self.missing += verdict.missing
        if verdict.is_usable:
            self._take_fitting(index, verdict)

    def _take_fitting(self, index: int, verdict: Verdict) -> None:
        for looked in verdict.images.values():
            for loss in POSSIBLE_LOSSES.keys() & looked.losses:
                self.notes.add(POSSIBLE_LOSSES[loss], verdict.name)
        conversation, example = verdict.conversation, verdict.example
        lengths = (len(example), int(example.image_mask.sum()), example.num_trained_tokens)
        turns = [(message.role, message.text) for message in conversation.messages]
        known = repr((turns, [image.name for image in conversation.images], lengths))
        self.digests.append(hashlib.sha256(known.encode()).digest())
        pictures = b"".join(picture_identity(image) for image in conversation.images)
        tokens = hashlib.sha256(example.input_ids.tobytes() + example.labels.tobytes()).digest()
        self.contents += [pictures, tokens]
        self.content_of.extend((zlib.crc32(pictures), zlib.crc32(tokens)))
        self.fitting.append(index)
        self.lengths.extend(lengths)
        self.num_shortened += example.num_dropped_turns > 0

    def add(self, other: _Measured) -> None:
        """Adds what is known of the records behind these. Digests are not kept: see `fit_samples`."""
        self.fitting += other.fitting
        self.lengths += other.lengths
        self.content_of += other.content_of
        self.token_ids = np.union1d(self.token_ids, other.token_ids)
        self.trained_ids = np.union1d(self.trained_ids, other.trained_ids)
        self.num_shortened += other.num_shortened
        self.refused += other.refused
        merge_findings(self.bad, other.bad)
        self.num_bad += other.num_bad
        self.missing += other.missing[: NUM_LOOKED_FOR - len(self.missing)]
        self.notes.update(other.notes)


class _Chunks(Sequence):
    """Item i measures the i-th `_CHUNK` records."""

    def __init__(self, records: Sequence[Conversation], judge: Judge):
        self.records = records
        self.judge = judge

    def __len__(self) -> int:
        return -(-len(self.records) // _CHUNK)

    def __getitem__(self, chunk: int) -> _Measured:
        measured, held, trained = _Measured(), [], []
        for index in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(self.records))):
            verdict = self._verdict(index, measured.notes)
            measured.take(index, verdict)
            if verdict.is_usable:
                example = verdict.example
                held.append(example.input_ids[~example.image_mask])
                trained.append(example.labels[example.labels != IGNORE_INDEX])
        if held:
            measured.token_ids, measured.trained_ids = (
                np.unique(np.concatenate(held)),
                np.unique(np.concatenate(trained)),
            )
        return measured

    def _verdict(self, index: int, notes: Notes) -> Verdict:
        if isinstance(self.records, Records):
            return self.judge.of_file(*self.records.locate(index), notes)
        return self.judge.of_conversation(self.records[index])


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
    measured, digest, contents = _Measured(), hashlib.sha256(), hashlib.sha256()
    if isinstance(records, Records):
        measured.notes.update(records.notes())
    chunks = _Chunks(records, Judge(processor, leave_bad_out, leave_out))
    # A bar only if it takes long; where nobody watches, a line every now and then.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(
        total=len(records), desc="measuring samples", unit="sample", delay=2.0, mininterval=interval, disable=silent
    ) as bar:
        for part in made_ahead(chunks, range(len(chunks)), usable_cpus() if len(records) >= _MANY else 0):
            digest.update(b"".join(part.digests))
            contents.update(b"".join(part.contents))
            measured.add(part)
            bar.update(min(_CHUNK, len(records) - bar.n))
    _check_measured(measured, len(records), leave_out, leave_bad_out)
    indexes = np.array(measured.fitting)
    if isinstance(records, Records):
        datasets, dataset_of = records.datasets, records.dataset_of[indexes]
    else:
        datasets, dataset_of = (Dataset.of(records),), np.zeros(len(indexes), np.int32)
    return Samples(
        conversations=_Fitting(records, indexes),
        lengths=np.array(measured.lengths).reshape(-1, 3),
        dataset_of=dataset_of,
        datasets=datasets,
        max_length=processor.max_length,
        fingerprint=digest.hexdigest()[:16],
        refused=measured.refused,
        num_shortened=measured.num_shortened,
        notes=measured.notes,
        token_ids=measured.token_ids,
        trained_ids=measured.trained_ids,
        contents=contents.hexdigest()[:16],
        content_of=np.array(measured.content_of, np.uint32).reshape(-1, 2),
        bad=by_frequency(measured.bad.items()),
        num_bad=measured.num_bad,
    )


def _check_measured(measured: _Measured, num_records: int, leave_out: bool, leave_bad_out: bool) -> None:
    """Raises: as `fit_samples`."""
    if measured.missing:
        measured.bad["image missing"].advice = where_they_lie(measured.missing)
    if measured.num_bad and not (leave_bad_out and measured.fitting):
        title = f"{measured.num_bad:,} of {num_records:,} records can't be used:"
        hint = ['"bad_records": "leave_out" trains without them'] if measured.fitting and not leave_bad_out else []
        raise DataError("\n  ".join([title, *finding_lines(by_frequency(measured.bad.items())), *hint]))
    refused = measured.refused
    if refused and measured.fitting and not leave_out:
        title = f"{len(refused)} of {num_records} samples are too long; truncation leave_out goes on without them:"
        raise DataError(listed_lines(title, refused))
    if not measured.fitting:
        reason = refused[0] if refused else "the data files hold none"
        raise ValueError(f"no sample is left to train or evaluate on, all {len(refused)} are too long; {reason}")

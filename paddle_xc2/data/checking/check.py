"""What check-data finds out about a data set: every record against every rule, by worker processes.

Whether a record can be used says the judge that training asks too (`data/judge.py`). Everything else here is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest, xxh3_128

from paddle_xc2.data.checking.duplicates import note_duplicate_images, note_duplicates
from paddle_xc2.data.checking.near_duplicates import SIGNATURE_BYTES, text_signature
from paddle_xc2.data.conversation import Conversation, DataError
from paddle_xc2.data.findings import Finding, add_finding, by_frequency, merge_findings
from paddle_xc2.data.images.downloads import ImageCache
from paddle_xc2.data.images.picture_reading import LOSSES
from paddle_xc2.data.images.video import is_video
from paddle_xc2.data.judge import Judge, Verdict
from paddle_xc2.data.missing_images import NUM_LOOKED_FOR, where_they_lie
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.picture_marks import unlike_chat
from paddle_xc2.data.records.conversations import ConversationFile, open_conversations
from paddle_xc2.data.worker_processes import map_ranges
from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER
from paddle_xc2.messages import counted

MANY_PIXELS = 25_000_000  # decoding takes about a second
FEW_PIXELS = 14  # side of a released model's ViT patch
FEW_TRAINED = 0.01  # share of a sample's text tokens

_RANGE = 64  # records that a worker checks at a time; of some, each has a dozen large images

_IMAGE_LIKE_TAG = re.compile(r"<\s*/?\s*(?:image|img|image\s*here|image_?\d+)\s*/?\s*>", re.IGNORECASE)
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".mp4")
_HASHED_AT_ONCE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image or video file.

    Attributes:
        width, height: pixels, as it is shown; 0 of a video.
        num_bytes: size of the file.
        content: hash of the file; None if it was not read whole.
        record: the first that shows it.
        losses: by key of `picture_reading.LOSSES`, what of it is not shown.
    """

    path: str
    width: int
    height: int
    num_bytes: int
    content: int | None
    record: int
    losses: dict[str, str] = field(default_factory=dict)


@dataclass
class DataReport:
    """What was found.

    Attributes:
        sources: files that could be read.
        findings: by rule.
        notes: oddities that were read in spite of.
        usable: bool [records]: whether training takes the record.
        lengths: int64 [records, 3]: tokens (image slots included), image tokens, trained tokens; -1 where unknown.
        characters: int64 [records, 2]: of all messages, of the answers; -1 where unknown.
        images: every file that could be read, once.
        num_image_references: how often records show an image.
        max_length: tokens; None if no model was given.
        decoded: whether images were read whole.
    """

    sources: list[ConversationFile]
    findings: dict[str, Finding]
    notes: Notes
    usable: np.ndarray
    lengths: np.ndarray
    characters: np.ndarray
    images: list[ImageFile]
    num_image_references: int
    max_length: int | None
    decoded: bool

    @property
    def has_errors(self) -> bool:
        return any(finding.is_error for finding in self.findings.values())

    def of(self, errors: bool) -> dict[str, Finding]:
        """The findings that are errors, or those that are warnings; the most frequent first."""
        return by_frequency((rule, finding) for rule, finding in self.findings.items() if finding.is_error == errors)

    def locate(self, record: int) -> tuple[ConversationFile, int]:
        """The source of a record that is counted over all sources, and its number there."""
        for source in self.sources:
            if record < len(source.records):
                return source, record
            record -= len(source.records)
        raise IndexError(record)

    def usable_of(self, source: ConversationFile) -> np.ndarray:
        """`usable` of the records of one source."""
        start = sum(len(one.records) for one in self.sources[: self.sources.index(source)])
        return self.usable[start : start + len(source.records)]


def open_sources(files: Iterable[tuple]) -> tuple[list[ConversationFile], dict[str, Finding]]:
    """Files of records.

    Args:
        files: (path, image folder or None), and the columns of a table, if they are known.
    Returns: those that can be read, and what is wrong with the others.
    Raises: FileNotFoundError.
    """
    sources, findings, cache = [], {}, ImageCache()  # one cache, so that a host that is away is waited for once
    for path, image_folder, *columns in files:
        try:
            sources.append(open_conversations(path, image_folder, cache, *columns))
        except DataError as error:
            add_finding(findings, "unreadable file", True, -1, str(error))
    return sources, findings


def check_data(
    sources: list[ConversationFile],
    processor=None,
    leave_out: bool = False,
    decode: bool = True,
    num_workers: int = 0,
    progress: Callable[[int], object] = lambda num_records: None,
) -> DataReport:
    """Checks every record.

    Memory grows by about 150 bytes a record and 400 bytes an image file.

    Args:
        processor: of the model that is to be trained; None checks what holds for every model.
        leave_out: whether training goes on without samples that are too long.
        decode: read images whole; else only their headers.
        num_workers: forked processes; 0 works in this one.
        progress: called with the number of records that were checked since the last call.
    Raises: RuntimeError if a worker is killed.
    """
    checker = _Checker(sources, processor, leave_out, decode)
    report = DataReport(
        sources, {}, Notes(), *_tables(len(checker)), [], 0, processor.max_length if processor else None, decode
    )
    for source in sources:
        report.notes.update(source.records.notes)
    hashes = np.zeros((len(checker), 2), np.uint64)
    signatures = np.zeros((len(checker), SIGNATURE_BYTES), np.uint8)
    has_signature = np.zeros(len(checker), bool)
    images: dict[str, ImageFile] = {}
    missing: list[tuple[str, Path]] = []
    for part, checked in map_ranges(checker, len(checker), num_workers, _RANGE):
        rows = slice(part.start, part.stop)
        report.usable[rows], report.lengths[rows], report.characters[rows] = (
            checked.usable,
            checked.lengths,
            checked.characters,
        )
        hashes[rows], signatures[rows], has_signature[rows] = checked.hashes, checked.signatures, checked.has_signature
        merge_findings(report.findings, checked.findings)
        missing += checked.missing[: NUM_LOOKED_FOR - len(missing)]
        for image in checked.images:
            if image.path not in images:
                images[image.path] = image
                _note_odd_size(image, checker, report.findings)
                for loss, what in image.losses.items():
                    message = f"{checker.name(image.record)}: {image.path}: {what}; {LOSSES[loss]}"
                    add_finding(report.findings, loss, False, image.record, message)
        report.notes.update(checked.notes)
        report.num_image_references += checked.num_image_references
        progress(len(part))
    report.images = list(images.values())
    note_duplicate_images(report.images, report.findings)
    note_duplicates(hashes, signatures, has_signature, checker.name, report.findings)
    if missing:
        report.findings["image missing"].advice = where_they_lie(missing)
    if not report.usable.any() and not report.has_errors:
        message = "no record is left to train on; see the warnings"
        add_finding(report.findings, "nothing to train on", True, -1, message)
    return report


def _tables(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(count, bool), np.full((count, 3), -1, np.int64), np.full((count, 2), -1, np.int64)


@dataclass
class _Checked:
    """What one range of records gives: as in DataReport, and for finding duplicates (0 where there is none):

    hashes: uint64 [records, 2], of texts and images, and of the images.
    signatures: uint8 [records, 64], of the texts; bool [records] tells where there is one.
    """

    usable: np.ndarray
    lengths: np.ndarray
    characters: np.ndarray
    hashes: np.ndarray
    signatures: np.ndarray
    has_signature: np.ndarray
    findings: dict[str, Finding] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    images: list[ImageFile] = field(default_factory=list)
    num_image_references: int = 0
    missing: list[tuple[str, Path]] = field(default_factory=list)  # as of `where_they_lie`


class _Checker:
    """Checks ranges of records; runs in the workers."""

    def __init__(self, sources: list[ConversationFile], processor, leave_out: bool, decode: bool):
        self.sources = sources
        self.judge = Judge(processor, decode, leave_out)
        self.few_pixels = FEW_PIXELS if processor is None else processor.patch_size
        self.starts = np.cumsum([0] + [len(source.records) for source in sources])
        self.known_images: set[Path] = set()  # by this worker

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, record: int) -> tuple[ConversationFile, int]:
        number = int(np.searchsorted(self.starts, record, side="right")) - 1
        return self.sources[number], record - int(self.starts[number])

    def name(self, record: int) -> str:
        source, index = self.locate(record)
        return source.name(index)

    def __call__(self, part: range) -> _Checked:
        checked = _Checked(
            *_tables(len(part)),
            np.zeros((len(part), 2), np.uint64),
            np.zeros((len(part), SIGNATURE_BYTES), np.uint8),
            np.zeros(len(part), bool),
        )
        for row, record in enumerate(part):
            try:
                self._check(record, row, checked)
            except Exception as error:  # a fault of ours: it must not be looked for among so many records
                raise RuntimeError(f"{self.name(record)}: checking failed ({type(error).__name__}: {error})") from error
        return checked

    def _check(self, record: int, row: int, checked: _Checked) -> None:
        verdict = self.judge.of_file(*self.locate(record), checked.notes)
        errors = self.judge.reasons(verdict)
        for rule, message in errors:
            add_finding(checked.findings, rule, True, record, message)
        if verdict.too_long is not None:
            checked.lengths[row, 0] = verdict.too_long.num_tokens
            if self.judge.leave_out:
                add_finding(checked.findings, "left out", False, record, str(verdict.too_long))
        checked.missing += verdict.missing
        checked.num_image_references += len(verdict.references)
        if verdict.messages:
            self._note_texts(verdict, record, row, checked)
        if verdict.example is not None:
            self._note_lengths(verdict, record, row, checked)
        self._note_images(verdict, record, checked)
        checked.usable[row] = verdict.is_usable
        if not errors:  # what is to be mended first may be another record then
            self._remember(verdict.conversation, row, checked)

    def _note_images(self, verdict: Verdict, record: int, checked: _Checked) -> None:
        for path, looked in verdict.images.items():
            if path not in self.known_images:
                self.known_images.add(path)
                content = _hash_file(path) if self.judge.decode and not is_video(path) else None
                image = ImageFile(str(path), *looked.size, path.stat().st_size, content, record, looked.losses)
                checked.images.append(image)

    def _note_lengths(self, verdict: Verdict, record: int, row: int, checked: _Checked) -> None:
        name, example = verdict.name, verdict.example
        checked.lengths[row] = len(example), int(example.image_mask.sum()), example.num_trained_tokens
        if example.num_dropped_turns:
            message = f"{name}: loses its oldest {counted(example.num_dropped_turns, 'turn')} to fit max_length"
            message += ", but no image" if example.image_mask.any() else ""
            add_finding(checked.findings, "shortened", False, record, f"{message}; raise max_length to keep them")
        text_tokens = len(example) - int(example.image_mask.sum())
        if example.num_trained_tokens < FEW_TRAINED * text_tokens:
            message = f"{name}: {example.num_trained_tokens} of {text_tokens} text tokens are trained"
            add_finding(checked.findings, "few trained tokens", False, record, f"{message}; the rest only costs time")

        if difference := unlike_chat(verdict.conversation, self.judge.processor.family):
            add_finding(checked.findings, "asked otherwise", False, record, f"{name}: {difference}")

    def _note_texts(self, verdict: Verdict, record: int, row: int, checked: _Checked) -> None:
        name, messages = verdict.name, verdict.messages
        answers = [message.text for message in messages if message.role == "assistant"]
        checked.characters[row] = sum(len(message.text) for message in messages), sum(map(len, answers))
        for index, message in enumerate(messages):
            for tag in _IMAGE_LIKE_TAG.findall(message.text) if message.role != "assistant" else ():
                if tag != IMAGE_PLACEHOLDER:
                    text = (
                        f"{name}: message {index} holds {tag}, which stays text; write {IMAGE_PLACEHOLDER} if an image "
                        "belongs there, and name the image"
                    )
                    add_finding(checked.findings, "unused image tag", False, record, text)
        for key, value in verdict.record.items() if not verdict.references else ():
            if isinstance(value, list) and value:
                value = value[0]
            if key != "id" and isinstance(value, str) and value.lower().endswith(_IMAGE_SUFFIXES):
                text = f'{name}: "{key}" names {value[:200]}, which is not read; call it "image" if it is meant'
                add_finding(checked.findings, "unread image", False, record, text)

    def _remember(self, conversation: Conversation, row: int, checked: _Checked) -> None:
        # Case and white space don't count.
        texts = [(message.role, " ".join(message.text.lower().split())) for message in conversation.messages]
        paths = [str(image) for image in conversation.images]
        checked.hashes[row] = (
            xxh3_64_intdigest(repr((texts, paths)).encode("utf-8", "surrogatepass")),
            xxh3_64_intdigest(repr(paths).encode("utf-8", "surrogatepass")),
        )
        signature = text_signature("\n".join(text for _, text in texts))
        if signature is not None:
            checked.signatures[row], checked.has_signature[row] = signature, True


def _hash_file(path: Path) -> int:
    digest = xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(_HASHED_AT_ONCE):
            digest.update(block)
    return digest.intdigest()


def _note_odd_size(image: ImageFile, checker: _Checker, findings: dict[str, Finding]) -> None:
    size = f"{checker.name(image.record)}: {image.path}: {image.width} x {image.height} pixels"
    if image.width * image.height > MANY_PIXELS:
        add_finding(findings, "large image", False, image.record, f"{size} take long to decode; make it smaller")
    elif image.width and min(image.width, image.height) < checker.few_pixels:
        add_finding(
            findings, "tiny image", False, image.record, f"{size} hardly show anything; look whether it is meant"
        )

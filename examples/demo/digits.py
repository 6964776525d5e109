"""The demo's data: questions in English and Chinese about real scans of handwritten digits.

The scans are scikit-learn's `load_digits`: 1797 of them, 8 x 8 pixels with 17 grey values. The first 80 % by index are
trained on, the last 20 %, from other writers, are held out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER

COPIES = 16  # training pictures of a scan
FINE_SIZE = 32  # pixels, side of a picture while it is distorted
GREY_LEVELS = 16  # of the scans: 0 is paper, 16 is ink
TRAINING_FILE, EVALUATION_FILE, LESSON_FILE = "train.json", "eval.json", "lesson.json"
LESSON_COPIES = 4  # of the training pictures of a scan, those that the lesson asks about
TRAINING_IMAGES, HELD_OUT_IMAGES = "train", "held_out"

# How far a distorted picture may be from its scan: as far as writers differ.
ROTATION = 12.0  # degrees
SHIFT = 0.1  # of the side
STRETCH = 0.1  # of the size
SLANT = 0.1  # of the height

_CHINESE_DIGITS = "零一二三四五六七八九"


class QuestionKind(NamedTuple):
    """A question that can be asked about any scan.

    Attributes:
        name: what the demo's table calls it.
        language: "English" or "Chinese".
        query: the question, one `<ImageHere>` per picture.
        answer: the digits in the pictures -> the right answer.
        share: of the training records that it stands among.
    """

    name: str
    language: str
    query: str
    answer: Callable[..., str]
    share: float

    @property
    def num_images(self) -> int:
        return self.query.count(IMAGE_PLACEHOLDER)


KINDS = (
    QuestionKind("which digit", "English", "<ImageHere>Which digit is this?", str, 0.38),
    QuestionKind("which digit", "Chinese", "<ImageHere>这是数字几？", lambda digit: _CHINESE_DIGITS[digit], 0.38),
    QuestionKind(
        "even or odd",
        "English",
        "<ImageHere>Is this digit even or odd?",
        lambda digit: ("even", "odd")[digit % 2],
        0.04,
    ),
    QuestionKind(
        "even or odd",
        "Chinese",
        "<ImageHere>这个数字是奇数还是偶数？",
        lambda digit: ("偶数", "奇数")[digit % 2],
        0.04,
    ),
    QuestionKind(
        "which is larger",
        "English",
        "<ImageHere><ImageHere>Which digit is larger, the first or the second?",
        lambda first, second: "the first" if first > second else "the second",
        0.08,
    ),
    QuestionKind(
        "which is larger",
        "Chinese",
        "<ImageHere><ImageHere>哪个数字更大，第一个还是第二个？",
        lambda first, second: "第一个" if first > second else "第二个",
        0.08,
    ),
)
WHICH_DIGIT = KINDS[0]

# What the second stage teaches a model that knows the first ones.
LESSON_KINDS = (
    QuestionKind("left to nine", "English", "<ImageHere>How much more makes nine?", lambda digit: str(9 - digit), 0.5),
    QuestionKind("left to nine", "Chinese", "<ImageHere>再加几等于九？", lambda digit: _CHINESE_DIGITS[9 - digit], 0.5),
)


@dataclass(frozen=True)
class Question:
    """A question about held-out scans, and its answer."""

    kind: QuestionKind
    images: tuple[Path, ...]
    answer: str


@dataclass(frozen=True)
class Scans:
    """Attributes:
    images: float [scans, 8, 8] from 0 to GREY_LEVELS.
    digits: int [scans].
    """

    images: np.ndarray
    digits: np.ndarray

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, part: slice) -> Scans:
        return Scans(self.images[part], self.digits[part])


def load_scans() -> tuple[Scans, Scans]:
    """(training scans, held-out scans)."""
    from sklearn.datasets import load_digits  # of the demo extra

    data = load_digits()
    scans, num_training = Scans(data.images, data.target), int(0.8 * len(data.target))
    return scans[:num_training], scans[num_training:]


def texts() -> list[str]:
    """Every question and every answer: what the demo's tokenizer learns from."""
    found = []
    for kind in KINDS:
        found.append(kind.query.replace(IMAGE_PLACEHOLDER, ""))
        found += [kind.answer(*shown) for shown in permutations(range(10), kind.num_images)]
    return found


def write_training_data(folder: Path, scans: Scans, seed: int) -> None:
    """Writes COPIES pictures of every scan, and TRAINING_FILE with a question about each.

    The first copy shows the scan as it is, the others a distorted one.
    """
    rng = np.random.default_rng(seed)
    (folder / TRAINING_IMAGES).mkdir(parents=True)
    for index, image in enumerate(scans.images):
        plain = picture(image)
        for copy in range(COPIES):
            (plain if copy == 0 else distorted(plain, rng)).save(folder / _training_image(index, copy))
    kinds = rng.choice(len(KINDS), size=[len(scans), COPIES], p=[kind.share for kind in KINDS])
    records = []
    for index, copy in np.ndindex(kinds.shape):
        kind, shown = KINDS[kinds[index, copy]], [(index, copy)]
        if kind.num_images == 2:
            shown.append((rng.choice(np.flatnonzero(scans.digits != scans.digits[index])), rng.integers(COPIES)))
        answer = kind.answer(*(int(scans.digits[i]) for i, _ in shown))
        records.append(_record(kind, [_training_image(*place) for place in shown], answer))
    _write_json(folder / TRAINING_FILE, records)


def write_lesson(folder: Path, scans: Scans, seed: int) -> None:
    """Writes LESSON_FILE: LESSON_KINDS of questions about pictures that `write_training_data` wrote."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(len(LESSON_KINDS), size=[len(scans), LESSON_COPIES], p=[kind.share for kind in LESSON_KINDS])
    records = []
    for index, copy in np.ndindex(kinds.shape):
        kind = LESSON_KINDS[kinds[index, copy]]
        records.append(_record(kind, [_training_image(index, copy)], kind.answer(int(scans.digits[index]))))
    _write_json(folder / LESSON_FILE, records)


def write_held_out(folder: Path, scans: Scans) -> list[Question]:
    """Writes the pictures of the held-out scans, and EVALUATION_FILE with one question about each.

    Returns: every one of KINDS of question about every one of them.
    """
    (folder / HELD_OUT_IMAGES).mkdir(parents=True)
    for index, image in enumerate(scans.images):
        picture(image).save(folder / _held_out_image(index))
    records = []
    for index in range(len(scans)):
        kind = KINDS[index % len(KINDS)]
        shown, answer = _asked(kind, scans, index)
        records.append(_record(kind, [_held_out_image(i) for i in shown], answer))
    _write_json(folder / EVALUATION_FILE, records)
    return held_out_questions(folder, scans, KINDS)


def held_out_questions(folder: Path, scans: Scans, kinds: tuple[QuestionKind, ...]) -> list[Question]:
    """Each of `kinds` of question about each of the held-out scans, whose pictures are in `folder`."""
    questions = []
    for kind in kinds:
        for index in range(len(scans)):
            shown, answer = _asked(kind, scans, index)
            questions.append(Question(kind, tuple(folder / _held_out_image(i) for i in shown), answer))
    return questions


def _asked(kind: QuestionKind, scans: Scans, index: int) -> tuple[list[int], str]:
    """(scans that the question about scan `index` shows, its answer)."""
    shown = [index, _next_other(scans.digits, index)][: kind.num_images]
    return shown, kind.answer(*(int(scans.digits[i]) for i in shown))


def picture(scan: np.ndarray) -> Image.Image:
    """float [8, 8] from 0 to GREY_LEVELS -> grey image of as many pixels, ink white."""
    return Image.fromarray((scan * (255 / GREY_LEVELS)).astype(np.uint8))


def distorted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The same digit as another hand might write it: turned, slanted, stretched and shifted a little."""
    angle = math.radians(rng.uniform(-ROTATION, ROTATION))
    width, height = 1 + rng.uniform(-STRETCH, STRETCH, size=2)
    slant = rng.uniform(-SLANT, SLANT)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    to_source = turn @ np.array([[width, slant], [0.0, height]])
    # In finer pixels: the scans themselves were reduced from 32 x 32.
    fine = image.resize((FINE_SIZE, FINE_SIZE), Image.Resampling.BICUBIC)
    centre = np.full(2, (FINE_SIZE - 1) / 2)
    offset = centre - to_source @ (centre + rng.uniform(-SHIFT, SHIFT, size=2) * FINE_SIZE)
    rows = np.column_stack([to_source, offset]).flatten().tolist()
    fine = fine.transform(fine.size, Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    return fine.resize(image.size, Image.Resampling.BOX)


def _training_image(index: int, copy: int) -> str:
    return f"{TRAINING_IMAGES}/{index:04d}_{copy}.png"


def _held_out_image(index: int) -> str:
    return f"{HELD_OUT_IMAGES}/{index:03d}.png"


def _record(kind: QuestionKind, images: list[str], answer: str) -> dict:
    """A record of an XComposer2 JSON."""
    turns = [{"from": "user", "value": kind.query}, {"from": "assistant", "value": answer}]
    return {"id": images[0], "image": images, "conversations": turns}


def _write_json(file: Path, records: list[dict]) -> None:
    file.write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _next_other(digits: np.ndarray, index: int) -> int:
    """Index of the next scan, in a circle, that shows another digit."""
    following = np.roll(np.arange(len(digits)), -index - 1)
    return int(following[digits[following] != digits[index]][0])

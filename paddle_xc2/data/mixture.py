"""Which files are trained on, how many samples each gives to an epoch, and which these are.

Entries of `dataset.train` in an argument file say it by num_samples or ratio, the lines of a data.txt by a number
(`data_list.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddle_xc2.data.conversation import Conversation, DataError
from paddle_xc2.data.notes import Notes
from paddle_xc2.data.records.conversations import ConversationFile, open_conversations
from paddle_xc2.messages import counted

_MOST_SAMPLES = 10**8  # of one file in an epoch
_MOST_TIMES = 10_000  # that a record comes in an epoch: more is a slip, and planning it alone takes minutes


@dataclass(frozen=True)
class DatasetSpec:
    """One entry of `dataset.train` or `dataset.eval`, or one file of a data.txt.

    Attributes:
        name: a label; the format is recognised from the records.
        files: JSON files.
        image_folder: where relative image paths start; None is each file's own folder.
        num_samples: of all its files together, in every epoch; None asks by ratio.
        ratio: samples of an epoch per record; 1.0 takes each record once.
        columns: of CSV and TSV files, as of `open_records`.
    """

    name: str
    files: tuple[Path, ...]
    image_folder: Path | None = None
    num_samples: int | None = None
    ratio: float = 1.0
    columns: dict[str, str] | None = None

    def quota_of(self, num_records: int) -> int:
        """Samples of an epoch, of so many records that can be used. Raises: ValueError if that is none, or too many."""
        quota = int(num_records * self.ratio) if self.num_samples is None else self.num_samples
        if not num_records:
            raise ValueError(
                f"{self.name}: {', '.join(map(str, self.files))} holds no record that can be trained on; leave it out, "
                "or raise max_length if they are all too long"
            )
        most = min(_MOST_SAMPLES, _MOST_TIMES * num_records)
        if not 1 <= quota <= most:
            share = f"ratio {self.ratio:g} of {counted(num_records, 'record')}"
            said = share if self.num_samples is None else "num_samples"
            raise ValueError(
                f"{self.name}: {said} asks for {quota} samples an epoch, but it must be from 1 to {most}; "
                "change it, or leave the file out (in a data.txt, a number means thousands with given_num true and is "
                "a ratio with given_num false)"
            )
        return quota


@dataclass(frozen=True)
class Dataset:
    """One DatasetSpec, once its files are read.

    Attributes:
        spec: what was asked for.
        num_records: in its files.
        starts_with_image: whether its first record has an image: what upstream takes for all of a file.
    """

    spec: DatasetSpec
    num_records: int
    starts_with_image: bool

    @classmethod
    def of(cls, conversations: Sequence[Conversation]) -> Dataset:
        """Conversations of which each is taken once."""
        return cls(DatasetSpec("data", ()), len(conversations), bool(conversations[0].images))


class Records(Sequence):
    """The records of several data sets, one set after the other. Each is read when it is asked for.

    Attributes:
        datasets: one Dataset for each.
        dataset_of: int32 [records], which of `datasets` a record belongs to.

    Args:
        parts: one or more files of each spec.
    """

    def __init__(self, specs: list[DatasetSpec], parts: list[list[ConversationFile]]):
        self._files = [file for files in parts for file in files]
        self._ends = np.cumsum([len(file) for file in self._files])
        sizes = [sum(map(len, files)) for files in parts]
        for spec, size in zip(specs, sizes, strict=True):
            spec.quota_of(size)  # said now, and not after all of them are measured
        self.datasets = tuple(
            Dataset(spec, size, _starts_with_image(files))
            for spec, size, files in zip(specs, sizes, parts, strict=True)
        )
        self.dataset_of = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

    def __len__(self) -> int:
        return len(self.dataset_of)

    def __getitem__(self, index: int) -> Conversation:
        """Record `index`. Raises: DataError if it can't be used."""
        file, index = self.locate(range(len(self))[index])
        return file[index]

    def locate(self, index: int) -> tuple[ConversationFile, int]:
        """The file of record `index`, and its number there."""
        file = int(np.searchsorted(self._ends, index, side="right"))
        return self._files[file], index - int(self._ends[file - 1] if file else 0)

    def notes(self) -> Notes:
        """What is odd about the files as a whole."""
        notes = Notes()
        for file in self._files:
            notes.update(file.notes)
        return notes


def _starts_with_image(files: list[ConversationFile]) -> bool:
    try:
        return bool(next(file[0] for file in files if len(file)).images)
    except DataError:
        return False  # it is said with all others that can't be used, when they are measured


def load_datasets(specs: list[DatasetSpec]) -> Records:
    """Every record of every file, in the order of the files; none of them is checked yet.

    Raises: FileNotFoundError, DataError, ValueError.
    """
    return Records(
        specs,
        [[open_conversations(file, spec.image_folder, columns=spec.columns) for file in spec.files] for spec in specs],
    )


class Mixture:
    """The samples of each epoch: from every data set exactly as many as are asked of it, shuffled together.

    A data set gives its samples without replacement until it is used up, then again in another order; the next epoch
    goes on where the last one ended: over a run, no two samples of a set differ by more than one in how often they
    come. It is a function of the seed and the epoch alone.

    Args:
        dataset_of: int [samples], which data set a sample belongs to.
        quotas: samples of each data set in an epoch.
        seed: of the draws and of the order.
    """

    def __init__(self, dataset_of: np.ndarray, quotas: Sequence[int], seed: int):
        self.members = _members_of(dataset_of, quotas)
        self.quotas = quotas
        self.seed = seed

    @property
    def num_samples(self) -> int:
        """In an epoch."""
        return sum(self.quotas)

    def draw(self, epoch: int) -> np.ndarray:
        """int64 [num_samples]: the samples of an epoch in the order of training."""
        drawn = np.concatenate([self._draw_from(number, epoch) for number in range(len(self.quotas))])
        return drawn[np.random.default_rng([self.seed, epoch]).permutation(len(drawn))]

    def _draw_from(self, number: int, epoch: int) -> np.ndarray:
        members, quota = self.members[number], self.quotas[number]
        if quota == len(members):
            return members
        stream, start = [], epoch * quota
        for turn in range(start // len(members), (start + quota - 1) // len(members) + 1):
            order = np.random.default_rng([self.seed, number, turn]).permutation(len(members))
            first = turn * len(members)
            stream.append(order[max(0, start - first) : start + quota - first])
        return members[np.concatenate(stream)]


class OfficialMixture:
    """Upstream's sampling (`Mix_dataset` in its `data_mix.py`), with a seed.

    Files are first cut down, or filled up with random repeats, to what is asked of them. A pass takes `batch_size`
    samples, with replacement, from one file. Files whose first record has an image are one pool, the others another;
    within its pool, a file is chosen in proportion to its size. `batch_size` passes take from the first pool, then
    `batch_size + 1` from the second, and so on, whatever was asked of the files; an empty pool leaves all to the other.

    Upstream seeds each process by the first index that it happens to see, and each has a counter of its own. Here one
    counter runs over all passes, and the draws are a function of the seed and the epoch.

    Args: as of Mixture, and
        with_images: of each data set, whether it belongs to the first pool.
        batch_size: samples of a pass.
    """

    def __init__(self, dataset_of, quotas: Sequence[int], with_images: Sequence[bool], batch_size: int, seed: int):
        self.quotas = quotas
        self.batch_size = batch_size
        self.seed = seed
        self.members = [
            _cut_or_filled(members, number, np.random.default_rng([seed, index]))
            for index, (members, number) in enumerate(zip(_members_of(dataset_of, quotas), quotas, strict=True))
        ]
        numbers = range(len(quotas))
        pools = [[number for number in numbers if with_images[number] == images] for images in (True, False)]
        self.pools = [pools[0] or pools[1], pools[1] or pools[0]]

    @property
    def num_samples(self) -> int:
        """In an epoch."""
        return max(1, sum(self.quotas) // self.batch_size) * self.batch_size

    def draw(self, epoch: int) -> np.ndarray:
        """int64 [num_samples]: the samples of an epoch in the order of training."""
        random = np.random.default_rng([self.seed, epoch])
        num_passes = self.num_samples // self.batch_size
        place = (epoch * num_passes + np.arange(num_passes)) % (2 * self.batch_size + 1)
        drawn = np.empty([num_passes, self.batch_size], np.int64)
        for pool, passes in zip(self.pools, (place < self.batch_size, place >= self.batch_size), strict=True):
            sizes = np.array([len(self.members[number]) for number in pool])
            chosen = random.choice(len(pool), size=num_passes, p=sizes / sizes.sum())
            for index, number in enumerate(pool):
                rows = np.flatnonzero(passes & (chosen == index))
                places = random.integers(len(self.members[number]), size=[len(rows), self.batch_size])
                drawn[rows] = self.members[number][places]
        return drawn.reshape(-1)


def _members_of(dataset_of: np.ndarray, quotas: Sequence[int]) -> list[np.ndarray]:
    """The samples of each data set, int64."""
    return [np.flatnonzero(dataset_of == number) for number in range(len(quotas))]


def _cut_or_filled(members: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    if number <= len(members):
        return members if number == len(members) else random.choice(members, number, replace=False)
    return np.concatenate([members, random.choice(members, number - len(members))])

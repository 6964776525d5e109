"""Samples of an epoch -> rows -> batches -> steps, planned from the samples' lengths before any of them is read.

A row is one sample, or several that are packed; a batch is the rows of one forward pass; a step is the batches of one
optimizer step over all processes. The plan of an epoch is a function of lengths, seed and epoch alone: not of workers
or of where a run was interrupted.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from paddle_xc2.data.mixture import Mixture, OfficialMixture

# Samples among which those are chosen that share a row, or a batch of limited size: enough that few tokens of a row
# stay empty (under 1 % for lengths of a few hundred tokens and rows of 4096), few enough that an epoch stays shuffled.
_LOOK_AHEAD = 4096
_GROUPED_STEPS = 50  # steps among whose samples those of similar length are brought together, as Hugging Face's Trainer


@dataclass(frozen=True)
class Layout:
    """How samples become steps.

    Attributes:
        rows_per_step: over all batches and processes; batches, where `batch_tokens` decides what a batch is.
        row_tokens: pack samples into rows of at most so many tokens; None is one sample a row.
        batch_tokens: a batch is as many samples as stay below so many tokens, padding included.
        grouping: "length" brings samples of similar length into a step; "modality" also keeps those with images and
            those without apart, as LLaVA's and XTuner's `group_by_modality_length`.
        drop_last: leave out what does not fill a step at an epoch's end, unless it is all there is.
        largest_first: the first step of all is the one with the largest batch.
    """

    rows_per_step: int
    row_tokens: int | None = None
    batch_tokens: int | None = None
    grouping: Literal["none", "length", "modality"] = "none"
    drop_last: bool = False
    largest_first: bool = True

    @property
    def has_even_epochs(self) -> bool:
        """Whether every epoch has equally many steps, whatever is drawn for it."""
        return self.row_tokens is None and self.batch_tokens is None


@dataclass(frozen=True)
class EpochPlan:
    """The steps of one epoch, all int64.

    Attributes:
        samples: [draws], in the order of training.
        row_ends: [rows], counted in samples.
        batch_ends: [batches], counted in rows; None if the number of rows decides what a batch is.
        step_ends: [steps], counted in rows.
    """

    samples: np.ndarray
    row_ends: np.ndarray
    batch_ends: np.ndarray | None
    step_ends: np.ndarray

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.step_ends)

    def rows_of(self, step: int) -> list[list[int]]:
        """Samples of each row of a step."""
        first, last = _span(self.step_ends, step)
        return [self.samples[slice(*_span(self.row_ends, row))].tolist() for row in range(first, last)]

    def batches_of(self, step: int, batch_size: int, num_ranks: int) -> list[list[list[int]]]:
        """Rows of each batch of a step; the batches of process r are [r::num_ranks]."""
        rows = self.rows_of(step)
        if self.batch_ends is None:
            size = min(batch_size, -(-len(rows) // num_ranks))
            return [rows[start : start + size] for start in range(0, len(rows), size)]
        first, last = _span(self.step_ends, step)
        ends = self.batch_ends[np.searchsorted(self.batch_ends, first, side="right") :]
        ends = ends[: np.searchsorted(ends, last) + 1] - first
        return [rows[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def row_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """int64 [rows]: tokens of each row. tokens: int [samples]."""
        return np.add.reduceat(tokens[self.samples], _starts(self.row_ends))

    def padded_tokens(self, tokens: np.ndarray, batch_size: int, num_ranks: int) -> int:
        """Tokens that are computed in the epoch, padding included."""
        lengths, total = self.row_tokens(tokens), 0
        for step in range(len(self)):
            first, last = _span(self.step_ends, step)
            if self.batch_ends is None:
                size = min(batch_size, -(-(last - first) // num_ranks))
                starts = np.arange(0, last - first, size)
                rows = np.diff(np.append(starts, last - first))
                total += int((np.maximum.reduceat(lengths[first:last], starts) * rows).sum())
        if self.batch_ends is not None:
            starts = _starts(self.batch_ends)
            total = int((np.maximum.reduceat(lengths, starts) * np.diff(starts, append=len(lengths))).sum())
        return total


class StepOrder:
    """Which samples each optimizer step takes, over all epochs.

    Args:
        mixture: draws the samples of each epoch.
        tokens: int [samples], length of each.
        has_image: bool [samples].
        layout: how samples become steps.
        seed: of the order of packed and grouped steps.
    """

    def __init__(self, mixture: Mixture | OfficialMixture, tokens, has_image, layout: Layout, seed: int):
        self.mixture = mixture
        self.tokens = np.asarray(tokens)
        self.has_image = np.asarray(has_image)
        self.layout = layout
        self.seed = seed
        self._plans: dict[int, EpochPlan] = {}
        self._ends: list[int] = []  # where each epoch ends, in steps, as far as known

    def plan_of(self, epoch: int) -> EpochPlan:
        if epoch not in self._plans:
            random = np.random.default_rng([self.seed, epoch, 1])  # not what the mixture draws its order from
            plan = plan_epoch(self.mixture.draw(epoch), self.tokens, self.has_image, self.layout, random)
            if epoch == 0 and self.layout.largest_first:
                plan = with_largest_step_first(plan, self.tokens, self.layout)
            self._plans = {**dict(list(self._plans.items())[-1:]), epoch: plan}
        return self._plans[epoch]

    @property
    def steps_per_epoch(self) -> int | None:
        """None if epochs differ."""
        if not self.layout.has_even_epochs:
            return None
        whole, rest = divmod(self.mixture.num_samples, self.layout.rows_per_step)
        return whole if whole and self.layout.drop_last else whole + bool(rest)

    def end_of_epoch(self, epoch: int) -> int:
        """Steps that are done when an epoch, counted from 0, ends."""
        if self.steps_per_epoch is not None:
            return (epoch + 1) * self.steps_per_epoch
        while len(self._ends) <= epoch:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self.plan_of(len(self._ends))))
        return self._ends[epoch]

    def place_of(self, step: int) -> tuple[int, int]:
        """(epoch, step within it) of a step counted from 0 over all epochs."""
        if self.steps_per_epoch is not None:
            return divmod(step, self.steps_per_epoch)
        epoch = bisect.bisect_right(self._ends, step)
        while self.end_of_epoch(epoch) <= step:
            epoch += 1
        return epoch, step - (self.end_of_epoch(epoch - 1) if epoch else 0)

    def steps_in(self, num_epochs: float) -> int:
        """Steps of so many epochs; a begun one counts."""
        if self.steps_per_epoch is not None:
            return math.ceil(num_epochs * self.steps_per_epoch)
        whole = math.floor(num_epochs)
        done = self.end_of_epoch(whole - 1) if whole else 0
        share = num_epochs - whole
        return done + (math.ceil(share * (self.end_of_epoch(whole) - done)) if share else 0)

    def epochs_after(self, num_steps: int) -> float:
        """Epochs that so many steps are."""
        if self.steps_per_epoch is not None:
            return num_steps / self.steps_per_epoch
        epoch, step = self.place_of(num_steps)
        return epoch + step / len(self.plan_of(epoch)) if step else float(epoch)

    def rows_of(self, step: int) -> list[list[int]]:
        """Samples of each row of a step, counted from 0 over all epochs."""
        epoch, place = self.place_of(step)
        return self.plan_of(epoch).rows_of(place)

    def batches_of(self, step: int, batch_size: int, rank: int = 0, num_ranks: int = 1) -> list[list[list[int]]]:
        """Rows of each batch that a process computes in a step. Some other process's, if there are too few for all."""
        epoch, place = self.place_of(step)
        return self.plan_of(epoch).batches_of(place, batch_size, num_ranks)[rank::num_ranks]


def plan_epoch(order, tokens, has_image, layout: Layout, random: np.random.Generator) -> EpochPlan:
    """The steps of an epoch.

    Args:
        order: int64 [draws], samples as they are drawn.
        tokens, has_image: [samples].
        random: shuffles rows, batches and steps after samples of similar length have come together.
    """
    if layout.row_tokens is not None:
        rows = _packed_rows(order, tokens, layout.row_tokens, random)
        plan = _joined(rows, np.ones(len(rows), np.int64), layout)
        return replace(plan, batch_ends=None)
    if layout.batch_tokens is not None:
        batches = _limited_batches(order, tokens, has_image, layout, random)
        samples = np.concatenate(batches)
        sizes = np.array([len(batch) for batch in batches])
        return _joined([samples[i : i + 1] for i in range(len(samples))], sizes, layout)
    if layout.grouping != "none":
        order = _grouped(order, tokens, has_image, layout, random)
    num_steps, rest = divmod(len(order), layout.rows_per_step)
    if rest and not (layout.drop_last and num_steps):
        num_steps += 1
    samples = order[: num_steps * layout.rows_per_step]
    step_ends = np.minimum(np.arange(1, num_steps + 1) * layout.rows_per_step, len(samples))
    return EpochPlan(samples, np.arange(1, len(samples) + 1), None, step_ends)


def with_largest_step_first(plan: EpochPlan, tokens, layout: Layout) -> EpochPlan:
    """The plan with its first step and the one that holds the largest batch in each other's place.

    Whether memory lasts is seen in step 1 then. The largest batch is the one with the longest row, or by `batch_tokens`
    the one with the most tokens; the last step is looked at only if it is as full as the others. If the first step has
    an equally large one, nothing changes.
    """
    sizes = np.diff(plan.step_ends, prepend=0)
    need = plan.row_tokens(tokens)
    if plan.batch_ends is not None:
        starts = _starts(plan.batch_ends)
        rows = np.diff(starts, append=len(need))
        need = np.repeat(np.maximum.reduceat(need, starts) * rows, rows)
    else:
        need = np.where(np.repeat(sizes, sizes) == sizes[0], need, 0)
    largest = int(np.argmax(np.maximum.reduceat(need, _starts(plan.step_ends))))
    if largest == 0:
        return plan
    steps = [largest, *range(1, largest), 0, *range(largest + 1, len(plan))]
    rows = np.concatenate([np.arange(*_span(plan.step_ends, step)) for step in steps])
    row_sizes = np.diff(plan.row_ends, prepend=0)
    samples = np.concatenate([plan.samples[slice(*_span(plan.row_ends, row))] for row in rows])
    batch_ends = None
    if plan.batch_ends is not None:
        step_of_batch = np.searchsorted(plan.step_ends, plan.batch_ends)
        batch_sizes = np.diff(plan.batch_ends, prepend=0)
        batch_ends = np.cumsum(np.concatenate([batch_sizes[step_of_batch == step] for step in steps]))
    return EpochPlan(samples, np.cumsum(row_sizes[rows]), batch_ends, np.cumsum(sizes[steps]))


def _packed_rows(order, tokens, capacity: int, random) -> list[np.ndarray]:
    """Samples of each row: the longest first, each into the fullest row that has room for it."""
    rows = []
    for start in range(0, len(order), _LOOK_AHEAD):
        ahead = order[start : start + _LOOK_AHEAD]
        bins: list[list[int]] = []
        room: list[tuple[int, int]] = []  # (tokens that are free, row), ascending
        for sample in ahead[np.argsort(-tokens[ahead], kind="stable")].tolist():
            length = int(tokens[sample])
            place = bisect.bisect_left(room, (length, -1))
            if place < len(room):
                free, row = room.pop(place)
                bins[row].append(sample)
            else:
                free, row = capacity, len(bins)
                bins.append([sample])
            bisect.insort(room, (free - length, row))
        rows += [np.array(bins[row]) for row in random.permutation(len(bins))]
    return rows


def _limited_batches(order, tokens, has_image, layout: Layout, random) -> list[np.ndarray]:
    """Samples of each batch: of similar length, as many as stay within the tokens of a batch."""
    batches = []
    for start in range(0, len(order), _LOOK_AHEAD):
        found = []
        for part in _kinds(order[start : start + _LOOK_AHEAD], has_image, layout):
            part = part[np.argsort(-tokens[part], kind="stable")]
            first = 0
            while first < len(part):
                last = first + max(1, layout.batch_tokens // int(tokens[part[first]]))
                found.append(part[first:last])
                first = last
        batches += [found[place] for place in random.permutation(len(found))]
    return batches


def _grouped(order, tokens, has_image, layout: Layout, random) -> np.ndarray:
    """The samples in an order in which every step's are of similar length; the steps are shuffled."""
    size, steps, rest = layout.rows_per_step, [], []
    for kind in _kinds(order, has_image, layout):
        for start in range(0, len(kind), size * _GROUPED_STEPS):
            part = kind[start : start + size * _GROUPED_STEPS]
            part = part[np.argsort(-tokens[part], kind="stable")]
            whole = len(part) // size
            steps += list(part[: whole * size].reshape(whole, size))
            rest.append(part[whole * size :])
    rest = np.concatenate(rest)
    shuffled = [steps[place] for place in random.permutation(len(steps))]
    return np.concatenate([*shuffled, rest[np.argsort(-tokens[rest], kind="stable")]])


def _kinds(samples, has_image, layout: Layout) -> list[np.ndarray]:
    """What may come together: everything, or apart with images and without."""
    if layout.grouping != "modality":
        return [samples]
    return [samples[has_image[samples]], samples[~has_image[samples]]]


def _joined(rows: list[np.ndarray], batch_sizes: np.ndarray, layout: Layout) -> EpochPlan:
    """Rows in order, `batch_sizes` rows a batch, `rows_per_step` batches a step."""
    batch_ends = np.cumsum(batch_sizes)
    step_ends = batch_ends[layout.rows_per_step - 1 :: layout.rows_per_step]
    if len(step_ends) * layout.rows_per_step < len(batch_ends) and not (layout.drop_last and len(step_ends)):
        step_ends = np.append(step_ends, batch_ends[-1])
    rows = rows[: step_ends[-1]]
    row_ends = np.cumsum([len(row) for row in rows])
    return EpochPlan(np.concatenate(rows), row_ends, batch_ends[batch_ends <= step_ends[-1]], step_ends)


def _span(ends: np.ndarray, index: int) -> tuple[int, int]:
    return int(ends[index - 1]) if index else 0, int(ends[index])


def _starts(ends: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], ends[:-1]])

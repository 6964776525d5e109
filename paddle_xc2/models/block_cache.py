"""Keys and values of many rows of different lengths, which come and go while others are decoded.

Memory lies in blocks that a row takes as it grows and gives back when it ends, as in arXiv:2309.06180. A step attends
within each block, then joins the blocks of a row (arXiv:2311.01282): nothing is copied together first, and a long row
costs the short ones nothing.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import paddle

from paddle_xc2.models.key_value_cache import KeyValueCache

BLOCK = 64  # positions
_GROWTH = 1.5  # factor by which the memory grows: it is copied then
_HIDDEN = -1e30


class BlockCache:
    """Stands in a KeyValueCache's place for steps of one token a row: `start_step`, then the model's forward.

    Of each layer float [blocks, kv_heads, BLOCK, head_dim]. Positions of a row that are not filled are zero.

    Attributes:
        rope_steps: of the rows of the step, as of KeyValueCache.
    """

    def __init__(self):
        self._keys: list[paddle.Tensor] = []
        self._values: list[paddle.Tensor] = []
        self._blocks: dict[int, list[int]] = {}  # of each row, in order
        self._lengths: dict[int, int] = {}
        self._rope_steps: dict[int, paddle.Tensor] = {}  # of the rows that have any
        self.rope_steps: paddle.Tensor | None = None
        self._free: list[int] = []
        self._numbers = itertools.count()
        self._step: _Step | None = None

    def __len__(self) -> int:
        """Positions that the longest row of the step had before it."""
        return self._step.longest

    @property
    def num_positions(self) -> int:
        """That there is memory for."""
        return self._capacity * BLOCK

    def add_rows(self, cache: KeyValueCache, starts: list[int]) -> list[int]:
        """Takes over what prompts left in another cache.

        Args:
            starts: of each row of that cache's batch, the first position that is not padding.
        Returns: the rows' numbers here.
        """
        width, batch = len(cache), len(starts)
        numbers = [next(self._numbers) for _ in starts]
        self._make_layers(cache)
        for row, (number, start) in enumerate(zip(numbers, starts, strict=True)):
            self._lengths[number] = width - start
            self._blocks[number] = self._take(num_blocks(width - start))
            if cache.rope_steps is not None:
                self._rope_steps[number] = cache.rope_steps[row : row + 1]
        # Where in the other cache each position of the blocks comes from; behind all of them stands a zero.
        source = np.concatenate([_positions_of(row * width, start, width) for row, start in enumerate(starts)])
        source[source < 0] = batch * width
        source, places = paddle.to_tensor(source), paddle.to_tensor(sum((self._blocks[one] for one in numbers), []))
        for layer in range(len(self._keys)):
            for memory, filled in zip((self._keys, self._values), cache.keys_and_values(layer), strict=True):
                flat = filled.reshape([batch * width, -1])
                flat = paddle.concat([flat, paddle.zeros([1, flat.shape[1]], flat.dtype)])
                content = paddle.gather(flat, source).reshape([len(places), BLOCK, *filled.shape[2:]])
                paddle.scatter_(memory[layer], places, content.transpose([0, 2, 1, 3]))
        return numbers

    def length(self, row: int) -> int:
        """Positions of a row so far."""
        return self._lengths[row]

    def free_row(self, row: int) -> None:
        """Gives a row's blocks back; with the last row, the memory."""
        self._free += self._blocks.pop(row)
        del self._lengths[row]
        self._rope_steps.pop(row, None)
        if not self._blocks:
            self._keys, self._values, self._free = [], [], []

    def start_step(self, rows: list[int]) -> paddle.Tensor:
        """Makes room for one more token in each of the rows, which the next forward brings in this order.

        Returns: position_ids int64 [rows, 1].
        """
        positions = np.array([self._lengths[row] for row in rows])
        full = [row for row in rows if self._lengths[row] % BLOCK == 0]
        if full:
            taken = self._take(len(full))
            self._clear(taken)
            for row, block in zip(full, taken, strict=True):
                self._blocks[row].append(block)
        for row in rows:
            self._lengths[row] += 1
        self.rope_steps = None
        if not self._rope_steps.keys().isdisjoint(rows):
            none = paddle.zeros([1, 1], "int64")
            self.rope_steps = paddle.concat([self._rope_steps.get(row, none) for row in rows])
        blocks = [self._blocks[row] for row in rows]
        self._step = _Step.of(blocks, positions, self._capacity, self._keys[0].shape[1])
        return paddle.to_tensor(positions[:, None])

    def attend(self, layer: int, query, key, value, segments=None):
        """Takes the new token of each row, and has its queries look at all of its row.

        Args:
            query: float [rows, 1, heads, head_dim].
            key, value: float [rows, 1, kv_heads, head_dim].
            segments: None: no row has padding.
        Returns: float [rows, 1, heads, head_dim]. Softmax is float32.
        """
        assert segments is None
        step, (rows, _, heads, head_dim) = self._step, query.shape
        for memory, new in ((self._keys[layer], key), (self._values[layer], value)):
            paddle.scatter_(memory.reshape([-1, head_dim]), step.places, new.reshape([-1, head_dim]))
        keys, values = (step.blocks_of(memory[layer]) for memory in (self._keys, self._values))
        query = (query * (1.0 / math.sqrt(head_dim))).reshape([rows, keys.shape[1], -1, head_dim])
        scores = paddle.matmul(paddle.gather(query, step.owners), keys, transpose_y=True).astype("float32")
        scores = scores + step.bias
        largest = scores.max(axis=-1, keepdim=True)  # within each block
        weights = (scores - largest).exp_()
        sums = weights.sum(axis=-1, keepdim=True)
        out = paddle.matmul(weights.astype(values.dtype), values).astype("float32")
        return step.joined(largest, sums, out).reshape([rows, 1, heads, head_dim]).astype(query.dtype)

    @property
    def _capacity(self) -> int:
        """Number of blocks."""
        return self._keys[0].shape[0] if self._keys else 0

    def _make_layers(self, cache: KeyValueCache) -> None:
        """Memory of no blocks yet, in the other cache's shapes."""
        if not self._keys:
            for layer in range(cache.num_layers):
                keys, values = cache.keys_and_values(layer)
                self._keys.append(paddle.zeros([0, keys.shape[2], BLOCK, keys.shape[3]], keys.dtype))
                self._values.append(paddle.zeros([0, values.shape[2], BLOCK, values.shape[3]], values.dtype))

    def _take(self, count: int) -> list[int]:
        """Blocks from the free ones, of which more are made if need be."""
        if count > len(self._free):
            more = max(count - len(self._free), int(self._capacity * (_GROWTH - 1)))
            self._free += range(self._capacity, self._capacity + more)
            for memory in (self._keys, self._values):
                for layer, blocks in enumerate(memory):
                    memory[layer] = paddle.concat([blocks, paddle.zeros([more, *blocks.shape[1:]], blocks.dtype)])
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def _clear(self, blocks: list[int]) -> None:
        """What another row left, finite or not, must not be multiplied with, not even by 0."""
        places = paddle.to_tensor(blocks)
        for memory in (*self._keys, *self._values):
            paddle.scatter_(memory, places, paddle.zeros([len(blocks), *memory.shape[1:]], memory.dtype))


class _Step(NamedTuple):
    """Where things are in a step; the same for all layers.

    Attributes:
        longest: positions that the longest row had before.
        used: int64 [blocks], those that are looked at; None is all that there are.
        owners: int64 [blocks], the row of the step that each block is looked at for.
        bias: float32 [blocks, 1, 1, BLOCK], what hides the positions that are not filled.
        table: int64 [rows * width], the blocks of each row, by their place in `used`.
        absent: float32 [rows, width, 1, 1, 1], what hides the end of the table's shorter rows.
        places: int64 [rows * kv_heads], where the new keys and values go in memory as [.., head_dim].
    """

    longest: int
    used: paddle.Tensor | None
    owners: paddle.Tensor
    bias: paddle.Tensor
    table: paddle.Tensor
    absent: paddle.Tensor
    places: paddle.Tensor

    @classmethod
    def of(cls, blocks: list[list[int]], positions: np.ndarray, capacity: int, kv_heads: int) -> _Step:
        """Args:
        blocks: of each row.
        positions: int64 [rows], of the new tokens.
        capacity: blocks that there are.
        """
        counts = np.array([len(row) for row in blocks])
        flat = np.concatenate(blocks)
        owner_of = np.repeat(np.arange(len(blocks)), counts)
        order = np.concatenate([np.arange(count) for count in counts])  # of a block within its row
        filled = np.minimum(positions[owner_of] + 1 - order * BLOCK, BLOCK)
        # The products read memory as it lies; where less than half of it matters, that is copied together.
        whole = 2 * len(flat) > capacity
        where, number = (flat, capacity) if whole else (np.arange(len(flat)), len(flat))
        owners, fill = np.zeros(number, np.int64), np.zeros(number, np.int64)
        owners[where], fill[where] = owner_of, filled
        table = np.zeros([len(blocks), counts.max()], np.int64)
        table[owner_of, order] = where
        absent = np.where(np.arange(counts.max()) < counts[:, None], 0.0, _HIDDEN)
        last = np.array([row[-1] for row in blocks])
        places = (last[:, None] * kv_heads + np.arange(kv_heads)) * BLOCK + (positions % BLOCK)[:, None]
        bias = np.where(np.arange(BLOCK) < fill[:, None], 0.0, _HIDDEN)
        return cls(
            int(positions.max()),
            None if whole else paddle.to_tensor(flat),
            paddle.to_tensor(owners),
            paddle.to_tensor(bias[:, None, None].astype("float32")),
            paddle.to_tensor(table.flatten()),
            paddle.to_tensor(absent[:, :, None, None, None].astype("float32")),
            paddle.to_tensor(places.flatten()),
        )

    def blocks_of(self, memory):
        return memory if self.used is None else paddle.gather(memory, self.used)

    def joined(self, largest, sums, out):
        """The rows' results from those of their blocks: float32 [rows, kv_heads, group, head_dim].

        Args:
            largest, sums: float32 [blocks, kv_heads, group, 1], of the scores, and of what softmax divides by.
            out: float32 [blocks, kv_heads, group, head_dim], not yet divided.
        """
        rows, width = self.absent.shape[:2]
        largest, sums, out = (
            paddle.gather(x, self.table).reshape([rows, width, *x.shape[1:]]) for x in (largest, sums, out)
        )
        largest = largest + self.absent
        weights = (largest - largest.max(axis=1, keepdim=True)).exp_()
        return (weights * out).sum(axis=1) / (weights * sums).sum(axis=1)


def num_blocks(num_positions: int) -> int:
    """That so many positions take."""
    return -(-num_positions // BLOCK)


def _positions_of(first: int, start: int, stop: int) -> np.ndarray:
    """`first` + `start` up to `first` + `stop`, and -1 up to the end of the last block: int64 [blocks * BLOCK]."""
    positions = np.full(num_blocks(stop - start) * BLOCK, -1)
    positions[: stop - start] = np.arange(first + start, first + stop)
    return positions

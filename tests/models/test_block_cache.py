import numpy as np
import paddle
import pytest

from paddle_xc2.models import block_cache as module
from paddle_xc2.models.attention import attention
from paddle_xc2.models.block_cache import BlockCache
from paddle_xc2.models.key_value_cache import KeyValueCache

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 8
# float32 on a CPU: 4.8e-7 between attention in blocks and `attention`; 4x.
ATOL = 2e-6


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)


class Rows:
    """A BlockCache, and beside it all keys and values that went in, by row."""

    def __init__(self):
        self.cache, self.history = BlockCache(), {}

    def join(self, *lengths):
        """Prompts of these lengths, as one batch padded on the left."""
        width, prompts = max(lengths), KeyValueCache()
        key, value = (paddle.randn([len(lengths), width, KV_HEADS, HEAD_DIM]) for _ in range(2))
        prompts.append(0, key, value)
        numbers = self.cache.add_rows(prompts, [width - length for length in lengths])
        for row, (number, length) in enumerate(zip(numbers, lengths, strict=True)):
            self.history[number] = (key[row, width - length :], value[row, width - length :])
        return numbers

    def step(self, *numbers, key=None):
        """One token more in these rows; looks whether each sees all of its row and nothing else."""
        query = paddle.randn([len(numbers), 1, HEADS, HEAD_DIM])
        key = paddle.randn([len(numbers), 1, KV_HEADS, HEAD_DIM]) if key is None else key
        value = paddle.randn([len(numbers), 1, KV_HEADS, HEAD_DIM])
        positions = self.cache.start_step(list(numbers))
        assert positions.flatten().tolist() == [len(self.history[number][0]) for number in numbers]
        assert len(self.cache) == int(positions.max())
        out = self.cache.attend(0, query, key, value)
        for row, number in enumerate(numbers):
            new = (key[row], value[row])
            self.history[number] = tuple(map(paddle.concat, zip(self.history[number], new, strict=True)))
            want = attention(query[row : row + 1], *(x.unsqueeze(0) for x in self.history[number]))
            np.testing.assert_allclose(out[row].numpy(), want[0].numpy(), rtol=0, atol=ATOL)

    def leave(self, number):
        self.cache.free_row(number)
        del self.history[number]


def test_each_row_sees_its_own_tokens_as_rows_come_and_go():
    rows = Rows()
    first, second = rows.join(3, 9)
    for _ in range(6):
        rows.step(first, second)
    (third,) = rows.join(1)
    rows.step(third, first, second)
    rows.leave(second)
    fourth, fifth = rows.join(7, 4)  # in blocks that the second row left
    for _ in range(5):
        rows.step(first, third, fourth, fifth)
    for _ in range(3):
        rows.step(fifth)  # the others wait: less than half of the memory is looked at


def test_what_a_row_left_does_not_reach_the_next_one():
    """Not even numbers that are not finite: 0 times NaN is NaN."""
    rows = Rows()
    first, second = rows.join(4, 4)
    rows.cache.start_step([first])
    nan = paddle.full([1, 1, KV_HEADS, HEAD_DIM], float("nan"))
    rows.cache.attend(0, paddle.randn([1, 1, HEADS, HEAD_DIM]), nan, nan)
    rows.leave(first)
    for _ in range(9):
        rows.step(second)


def test_blocks_are_used_again_and_memory_goes_with_the_last_row():
    rows = Rows()
    for _ in range(20):
        (number,) = rows.join(10)
        rows.step(number)
        assert rows.cache.num_positions == 12
        rows.leave(number)
        assert rows.cache.num_positions == 0


def test_memory_is_what_the_rows_take_not_what_the_longest_does():
    rows = Rows()
    rows.join(100)
    rows.join(*[4] * 10)
    assert rows.cache.num_positions <= 1.5 * 140

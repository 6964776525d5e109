import numpy as np
import pytest

from paddle_xc2.data.mixture import Mixture
from paddle_xc2.data.step_order import Layout, StepOrder, plan_epoch

LAYOUTS = {
    "plain": {},
    "plain, last dropped": {"drop_last": True},
    "grouped": {"grouping": "length"},
    "by modality": {"grouping": "modality"},
    "packed": {"row_tokens": 100},
    "packed, last dropped": {"row_tokens": 130, "drop_last": True},
    "limited": {"batch_tokens": 200},
    "limited, by modality": {"batch_tokens": 200, "grouping": "modality"},
}


def order_of(num_samples=40, rows_per_step=4, seed=0, lengths=None, asked=None, **layout):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 101, num_samples) if lengths is None else np.array(lengths)
    mixture = Mixture(np.zeros(len(lengths), int), [asked or len(lengths)], seed)
    return StepOrder(mixture, lengths, random.random(len(lengths)) < 0.5, Layout(rows_per_step, **layout), seed)


def samples_of(order, step):
    return sum(order.rows_of(step), [])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_sample_comes_once_an_epoch(name, seed):
    layout = LAYOUTS[name]
    order = order_of(int(np.random.default_rng(seed).integers(1, 200)), seed=seed, **layout)
    for epoch in range(3):
        first, end = order.end_of_epoch(epoch - 1) if epoch else 0, order.end_of_epoch(epoch)
        drawn = [sample for step in range(first, end) for sample in samples_of(order, step)]
        assert len(drawn) == len(set(drawn)) and end > first
        if not layout.get("drop_last"):
            assert sorted(drawn) == list(range(len(order.tokens)))
        assert len(order.plan_of(epoch)) == end - first
        assert order.place_of(first) == (epoch, 0) and order.place_of(end - 1) == (epoch, end - 1 - first)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_processes_share_the_batches_of_a_step(name, num_ranks):
    order = order_of(57, rows_per_step=6, **LAYOUTS[name])
    for step in range(order.end_of_epoch(1)):
        shares = [order.batches_of(step, 2, rank, num_ranks) for rank in range(num_ranks)]
        rows = [row for share in shares for batch in share for row in batch]
        assert sorted(rows) == sorted(order.rows_of(step))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        if not LAYOUTS[name].get("batch_tokens"):
            assert all(len(batch) <= 2 for share in shares for batch in share)


@pytest.mark.parametrize("name", LAYOUTS)
def test_steps_are_the_same_from_wherever_they_are_asked_for(name):
    layout = LAYOUTS[name]
    whole = order_of(**layout)
    steps = [whole.rows_of(step) for step in range(whole.end_of_epoch(3))]
    for step in (len(steps) - 1, 0, len(steps) // 2):
        assert order_of(**layout).rows_of(step) == steps[step]
    assert order_of(seed=1, **layout).rows_of(5) != steps[5]


def test_default_order_is_the_drawn_one():
    order = order_of(13, lengths=[5] * 13)
    drawn = [order.mixture.draw(epoch).tolist() for epoch in range(2)]
    assert [samples_of(order, step) for step in range(8)] == [
        epoch[start : start + 4] for epoch in drawn for start in (0, 4, 8, 12)
    ]
    assert all(len(row) == 1 for row in order.rows_of(0))


def test_drop_last():
    assert order_of(10, drop_last=True).steps_per_epoch == 2
    assert order_of(3, drop_last=True).steps_per_epoch == 1  # it is all there is
    assert order_of(8, drop_last=True).steps_per_epoch == 2
    assert order_of(10).steps_per_epoch == 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", LAYOUTS)
def test_first_step_holds_the_largest_batch(name, seed):
    """Among steps that are full; the others keep their places."""
    layout = LAYOUTS[name]
    order, plain = order_of(61, seed=seed, **layout), order_of(61, seed=seed, largest_first=False, **layout)

    def need(step):
        batches = order.batches_of(step, 1)
        return max(
            sum(len(batch) for batch in batches[i : i + 1]) * max(map(row_tokens, batches[i]))
            for i in range(len(batches))
        )

    def row_tokens(row):
        return order.tokens[row].sum()

    full = [
        step for step in range(order.end_of_epoch(0)) if len(order.batches_of(step, 1)) == order.layout.rows_per_step
    ]
    assert need(0) == max(map(need, full))
    moved = [step for step in range(order.end_of_epoch(1)) if order.rows_of(step) != plain.rows_of(step)]
    assert len(moved) in (0, 2) and moved[:1] in ([], [0]) and all(step < order.end_of_epoch(0) for step in moved)
    if moved:
        assert order.rows_of(0) == plain.rows_of(moved[1]) and order.rows_of(moved[1]) == plain.rows_of(0)


def test_an_equally_large_first_step_stays():
    lengths = [7, 7, 7, 3, 7, 7, 7, 7, 7, 7]
    plain = order_of(lengths=lengths, rows_per_step=2, largest_first=False)
    assert [order_of(lengths=lengths, rows_per_step=2).rows_of(step) for step in range(5)] == [
        plain.rows_of(step) for step in range(5)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_packed_rows_are_full_and_never_too_full(seed):
    lengths = np.clip(np.random.default_rng(seed).lognormal(3, 0.7, 3000), 1, 200).astype(int)
    order = order_of(lengths=lengths, rows_per_step=2, row_tokens=200)
    plan = order.plan_of(0)
    rows = plan.row_tokens(lengths)
    assert rows.max() <= 200 and rows.sum() == lengths.sum()
    assert lengths.sum() / (200 * len(rows)) > 0.99
    assert plan.padded_tokens(lengths, 1, 1) == lengths.sum()


@pytest.mark.parametrize("seed", range(5))
def test_limited_batches_stay_within_their_tokens(seed):
    lengths = np.clip(np.random.default_rng(seed).lognormal(3, 0.7, 3000), 1, 200).astype(int)
    order = order_of(lengths=lengths, rows_per_step=3, batch_tokens=400)
    total = 0
    for step in range(order.end_of_epoch(0)):
        batches = order.batches_of(step, batch_size=1)
        assert len(batches) == 3 or step == order.end_of_epoch(0) - 1
        for batch in batches:
            padded = max(lengths[sample] for (sample,) in batch) * len(batch)
            assert padded <= 400
            total += padded
    assert total == order.plan_of(0).padded_tokens(lengths, 1, 1)
    assert lengths.sum() / total > 0.9


def test_grouped_steps_are_of_similar_length():
    plain, grouped = order_of(400, largest_first=False), order_of(400, grouping="length")
    lengths = plain.tokens
    spread = [
        np.mean([np.ptp(lengths[samples_of(order, step)]) for step in range(order.end_of_epoch(0))])
        for order in (plain, grouped)
    ]
    assert spread[1] < spread[0] / 10
    padded = [order.plan_of(0).padded_tokens(lengths, 4, 1) for order in (plain, grouped)]
    assert lengths.sum() <= padded[1] < padded[0]
    firsts = [lengths[samples_of(grouped, step)[0]] for step in range(grouped.end_of_epoch(0))]
    assert firsts != sorted(firsts, reverse=True)  # the steps are shuffled


@pytest.mark.parametrize("layout", [{}, {"batch_tokens": 200}])
def test_modalities_stay_apart(layout):
    order = order_of(400, grouping="modality", **layout)
    last = order.end_of_epoch(0) - 1
    mixed = [
        batch
        for step in range(last)
        for batch in order.batches_of(step, 4)
        if len({bool(order.has_image[sample]) for (sample,) in batch}) > 1
    ]
    assert len(mixed) <= (0 if layout else 1)  # what fills no step of its own kind


def test_padding_of_plain_batches():
    order = order_of(lengths=[4, 4, 4, 10, 10, 10], largest_first=False)
    plan = plan_epoch(np.arange(6), order.tokens, order.has_image, order.layout, None)
    assert plan.padded_tokens(order.tokens, batch_size=4, num_ranks=1) == 4 * 10 + 2 * 10
    assert plan.padded_tokens(order.tokens, batch_size=2, num_ranks=1) == 2 * 4 + 4 * 10
    assert plan.padded_tokens(order.tokens, batch_size=4, num_ranks=2) == 2 * 4 + 2 * 10 + 2 * 10


def test_epochs_of_unequal_length_are_counted():
    order = order_of(300, asked=90, rows_per_step=2, row_tokens=100)
    ends = [order.end_of_epoch(epoch) for epoch in range(6)]
    assert order.steps_per_epoch is None and len(set(np.diff(ends))) > 1
    assert order.steps_in(3) == ends[2] and order.steps_in(1.5) == ends[0] + -(-(ends[1] - ends[0]) // 2)
    assert order.epochs_after(ends[1]) == 2.0 and 1 < order.epochs_after(ends[1] - 1) < 2
    assert order_of(300, asked=90, rows_per_step=2, row_tokens=100).place_of(ends[4]) == (5, 0)

import json
from pathlib import Path

import pytest

from paddle_xc2.data.mixture import DatasetSpec, StepOrder, load_datasets


def test_files_follow_one_another(tmp_path):
    for name in "abc":
        turns = [{"from": "user", "value": f"question {name}"}, {"from": "assistant", "value": "answer"}]
        (tmp_path / f"{name}.json").write_text(json.dumps([{"conversations": turns}]))
    specs = [
        DatasetSpec("first", (tmp_path / "b.json", tmp_path / "a.json")),
        DatasetSpec("second", (tmp_path / "c.json",)),
    ]
    assert [sample.messages[0].text[-1] for sample in load_datasets(specs)] == ["b", "a", "c"]


def test_missing_file():
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        load_datasets([DatasetSpec("x", (Path("nowhere.json"),))])


def test_every_epoch_takes_each_sample_once_in_another_order():
    order = StepOrder(10, 4, seed=3)
    assert order.steps_per_epoch == 3
    epochs = [
        [sample for step in range(3 * epoch, 3 * epoch + 3) for sample in order.samples_of(step)] for epoch in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert [len(order.samples_of(step)) for step in range(3)] == [4, 4, 2]


def test_order_depends_on_the_seed_alone():
    assert StepOrder(10, 4, seed=3).samples_of(4) == StepOrder(10, 4, seed=3).samples_of(4)
    assert StepOrder(100, 4, seed=3).samples_of(4) != StepOrder(100, 4, seed=4).samples_of(4)


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_processes_share_the_samples_of_a_step(num_processes):
    order = StepOrder(13, 6, seed=0)
    for step in range(6):
        shares = [order.samples_of(step, rank, num_processes) for rank in range(num_processes)]
        assert sorted(sum(shares, [])) == sorted(order.samples_of(step))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_drop_last():
    assert StepOrder(10, 4, seed=0, drop_last=True).steps_per_epoch == 2
    assert StepOrder(3, 4, seed=0, drop_last=True).steps_per_epoch == 1  # it is all there is
    assert StepOrder(8, 4, seed=0, drop_last=True).steps_per_epoch == 2

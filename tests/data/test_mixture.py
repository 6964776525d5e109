from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from paddle_xc2.data.mixture import DatasetSpec, Mixture, OfficialMixture, load_datasets
from tests.data.conftest import write_records


def test_files_follow_one_another(files):
    specs = [DatasetSpec("first", (files / "b.json", files / "a.json")), DatasetSpec("second", (files / "c.json",))]
    records = load_datasets(specs)
    assert [sample.messages[0].text[-1] for sample in records] == list("bbaccc") and len(records) == 6
    assert records[-1].source.endswith("c.json[2]") and records.dataset_of.tolist() == [0, 0, 0, 1, 1, 1]
    assert [(dataset.spec.name, dataset.num_records) for dataset in records.datasets] == [("first", 3), ("second", 3)]
    assert not any(dataset.starts_with_image for dataset in records.datasets)
    with pytest.raises(IndexError):
        records[6]


def test_first_record_tells_whether_a_file_has_images(files, tmp_path):
    (tmp_path / "picture.png").touch()
    write_records(tmp_path / "d.json", image="picture.png")
    datasets = load_datasets([DatasetSpec(name, (files / f"{name}.json",)) for name in "ad"]).datasets
    assert [dataset.starts_with_image for dataset in datasets] == [False, True]


def test_missing_file():
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        load_datasets([DatasetSpec("x", (Path("nowhere.json"),))])


def test_quota_that_asks_for_nothing(files):
    with pytest.raises(
        ValueError, match="short: ratio 0.1 of 2 records asks for 0 samples an epoch, but it must be from"
    ):
        load_datasets([DatasetSpec("short", (files / "b.json",), ratio=0.1)])
    with pytest.raises(ValueError, match="num_samples asks for 1000000000 samples"):
        load_datasets([DatasetSpec("b", (files / "b.json",), num_samples=10**9)])
    (files / "none.json").write_text("[]")
    with pytest.raises(ValueError, match="none: .*none.json holds no record that can be trained on"):
        load_datasets([DatasetSpec("none", (files / "none.json",))])


# data.txt


def random_mixture(seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 30, random.integers(1, 5))
    asked = [int(random.integers(1, 80)) for _ in sizes]
    dataset_of = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return dataset_of, sizes, asked


@pytest.mark.parametrize("seed", range(20))
def test_quotas_are_exact_and_nothing_repeats_before_all_have_come(seed):
    dataset_of, sizes, asked = random_mixture(seed)
    mixture = Mixture(dataset_of, asked, seed)
    seen = Counter()
    for epoch in range(5):
        drawn = mixture.draw(epoch)
        assert len(drawn) == mixture.num_samples == sum(asked)
        assert np.bincount(dataset_of[drawn], minlength=len(sizes)).tolist() == asked
        seen.update(drawn.tolist())
        for number in range(len(sizes)):
            counts = [seen[sample] for sample in np.flatnonzero(dataset_of == number).tolist()]
            assert max(counts) - min(counts) <= 1
    assert not np.array_equal(mixture.draw(0), mixture.draw(1)) or len(np.unique(drawn)) == 1
    np.testing.assert_array_equal(Mixture(dataset_of, asked, seed).draw(4), drawn)  # whatever was drawn before


def test_whole_files_are_shuffled_as_one():
    """The order that runs without quotas have always had."""
    mixture = Mixture(np.repeat([0, 1], [4, 9]), [4, 9], seed=3)
    for epoch in range(3):
        np.testing.assert_array_equal(mixture.draw(epoch), np.random.default_rng([3, epoch]).permutation(13))


def test_order_depends_on_the_seed():
    zeros = np.zeros(100, int)
    assert not np.array_equal(Mixture(zeros, [50], 3).draw(0), Mixture(zeros, [50], 4).draw(0))


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_official_pattern(batch_size):
    """B passes from files with images, then B + 1 from the others, whatever is asked; each pass from one file."""
    dataset_of = np.repeat([0, 1, 2, 3], [50, 10, 40, 5])
    asked, with_images = [100, 10, 20, 60], [True, False, False, True]
    mixture = OfficialMixture(dataset_of, asked, with_images, batch_size, seed=1)
    passes = np.concatenate([mixture.draw(epoch) for epoch in range(40)]).reshape(-1, batch_size)
    assert len(mixture.draw(0)) == mixture.num_samples == sum(asked) // batch_size * batch_size
    files = dataset_of[passes]
    assert (files == files[:, :1]).all()
    has_image = np.isin(files[:, 0], [0, 3])
    period = 2 * batch_size + 1
    assert has_image.tolist() == [index % period < batch_size for index in range(len(passes))]
    assert (files[has_image, 0] == 0).mean() == pytest.approx(100 / 160, abs=0.05)
    assert (files[~has_image, 0] == 2).mean() == pytest.approx(20 / 30, abs=0.05)
    # 20 of the 40 samples of the third file are left; those that stay come back, as drawn with replacement.
    assert len(np.unique(passes[files == 2])) == 20 and len(np.unique(passes[files == 0])) == 50
    again = OfficialMixture(dataset_of, asked, with_images, batch_size, seed=1)
    np.testing.assert_array_equal(again.draw(7), mixture.draw(7))
    assert not np.array_equal(OfficialMixture(dataset_of, asked, with_images, batch_size, 2).draw(7), mixture.draw(7))


def test_official_epoch_leaves_samples_out():
    """63 % of a single file are seen in an epoch, as draws with replacement give."""
    drawn = OfficialMixture(np.zeros(5000, int), [5000], [True], 1, seed=0).draw(0)
    assert len(np.unique(drawn)) / 5000 == pytest.approx(1 - np.exp(-1), abs=0.02)


def test_a_record_comes_ten_thousand_times_an_epoch_at_most():
    assert DatasetSpec("a", (), num_samples=20_000).quota_of(2) == 20_000
    with pytest.raises(ValueError, match="asks for 20001 samples an epoch, but it must be from 1 to 20000"):
        DatasetSpec("a", (), num_samples=20_001).quota_of(2)

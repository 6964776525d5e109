import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.mixture import DatasetSpec, Mixture, OfficialMixture, load_datasets, read_data_list


def write_records(path, number=1, image=None):
    turns = [{"from": "user", "value": f"question {path.stem}"}, {"from": "assistant", "value": "answer"}]
    path.write_text(json.dumps([{"conversations": turns, **({"image": image} if image else {})}] * number))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """a.json, b.json and c.json of 1, 2 and 3 records; the working directory is another."""
    for number, name in enumerate("abc", start=1):
        write_records(tmp_path / f"{name}.json", number)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


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


def quotas(specs):
    return [(spec.name, spec.num_samples, spec.ratio) for spec in specs]


def test_data_list_in_every_spelling(files):
    (files / "two words").mkdir()
    write_records(files / "two words" / "d.json")
    path = files / "data.txt"
    path.write_bytes(
        b"\xef\xbb\xbf# all of it\r\na.json   0.02\r\n\r\n  'two words/d.json'\t1e0 # a thousand\r\n"
        + f"{files}/b.json 10\r\nc.json\r\n\r\n".encode()
    )
    assert quotas(read_data_list(path, given_num=True)) == [
        ("a", 20, 1.0),
        ("d", 1000, 1.0),
        ("b", 10000, 1.0),
        ("c", None, 1.0),
    ]
    assert quotas(read_data_list(path, given_num=False)) == [
        ("a", None, 0.02),
        ("d", None, 1.0),
        ("b", None, 10.0),
        ("c", None, 1.0),
    ]


def test_thousands_are_cut_as_upstream_cuts_them(files):
    path = files / "data.txt"
    for number in ("1.001", "0.0015", "0.29", "7"):
        path.write_text(f"a.json {number}")
        assert read_data_list(path, given_num=True)[0].num_samples == int(float(number) * 1000)


def test_paths_start_from_the_list_or_the_working_directory(files):
    write_records(files / "elsewhere" / "a.json", 7)
    write_records(files / "elsewhere" / "d.json", 8)
    (files / "data.txt").write_text("a.json\nd.json\n")
    specs = read_data_list(files / "data.txt", given_num=True, image_folder=Path("pictures"))
    assert [dataset.num_records for dataset in load_datasets(specs).datasets] == [1, 8]
    assert all(spec.image_folder == Path("pictures") for spec in specs)


def test_one_file_on_several_lines_is_summed(files):
    path = files / "data.txt"
    path.write_text(f"a.json 1\nb.json 2\n{files}/a.json 0.5\n")
    assert quotas(read_data_list(path, given_num=True)) == [("a", 1500, 1.0), ("b", 2000, 1.0)]
    assert quotas(read_data_list(path, given_num=False)) == [("a", None, 1.5), ("b", None, 2.0)]
    path.write_text("a.json\na.json\n")
    assert quotas(read_data_list(path, given_num=True)) == [("a", None, 2.0)]
    path.write_text("a.json 1\na.json\n")
    with pytest.raises(DataError, match="line 2: a.json stands both with and without a number"):
        read_data_list(path, given_num=True)


def test_files_of_one_name_keep_their_folders(files):
    write_records(files / "elsewhere" / "a.json")
    (files / "data.txt").write_text("a.json\nelsewhere/a.json\nb.json")
    specs = read_data_list(files / "data.txt", given_num=True)
    assert [spec.name for spec in specs] == ["a.json", "elsewhere/a.json", "b"]


def test_lines_that_cannot_be_used_are_told_together(files):
    path = files / "data.txt"
    path.write_text("a.json ten\nmy file.json 3\n'a.json 3\na.json -1\na.json nan\na.json 0\nb.json inf")
    with pytest.raises(DataError) as caught:
        read_data_list(path, given_num=True)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 7 lines can't be used:"
    assert lines[1] == '  line 1: "ten" is no number; write `path number`, quotes around spaces'
    assert lines[2] == '  line 2: "my file.json 3" has 3 words; write `path number`, quotes around spaces'
    assert lines[3] == "  line 3: No closing quotation"
    assert lines[4] == "  line 4: the number -1 must be above 0; put a # before a file to leave out"
    assert len(lines) == 8
    path.write_text("a.json ten\n" * 25)
    with pytest.raises(DataError, match="and 5 more$"):
        read_data_list(path, given_num=True)


def test_data_list_that_is_none(files):
    with pytest.raises(FileNotFoundError, match="no.txt: there is no such data list"):
        read_data_list(files / "no.txt", given_num=True)
    path = files / "data.txt"
    for raw, said in (
        (b"# nothing\n\n", "the list names no file; write lines like"),
        (b"a.json \xff", "byte 7 is not UTF-8"),
        (b"#" * (2**20 + 1), "1,048,577 bytes are too many for a list of files"),
    ):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=said):
            read_data_list(path, given_num=True)
    path.write_text("a.json\nx.json 3\ny.json\n")
    with pytest.raises(
        FileNotFoundError, match=r"files are missing: x.json \(line 2\), y.json \(line 3\) \(looked for f"
    ):
        read_data_list(path, given_num=True)


# Drawing


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


def test_a_list_made_on_windows(files, monkeypatch):
    (files / "sub dir").mkdir()
    (files / "sub dir" / "a.json").write_bytes((files / "a.json").read_bytes())
    (files / "data.txt").write_text('"sub dir\\a.json" 2\nsub\\ dir/a.json\n', encoding="utf-8")
    specs = read_data_list(files / "data.txt", given_num=False)
    assert [spec.files for spec in specs] == [(files / "sub dir" / "a.json",)]
    (files / "data.txt").write_text("sub\\b.json 2\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"subb.json \(line 1\)"):
        read_data_list(files / "data.txt", given_num=False)


def test_a_record_comes_ten_thousand_times_an_epoch_at_most():
    assert DatasetSpec("a", (), num_samples=20_000).asked_of(2) == 20_000
    with pytest.raises(ValueError, match="asks for 20001 samples an epoch, but it must be from 1 to 20000"):
        DatasetSpec("a", (), num_samples=20_001).asked_of(2)

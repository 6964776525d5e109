import re

import pytest

from paddle_xc2.training.arguments import (
    FinetuneArguments,
    dataset_specs,
)


def test_data_files_are_found_beside_the_argument_file(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "config").mkdir()
    for path in ("here/a.json", "config/a.json", "config/b.json"):
        (tmp_path / path).write_text("[]")
    monkeypatch.chdir(tmp_path / "here")
    entries = {"train": [{"name": "x", "data_files": ["a.json", "b.json"], "image_folder": "pictures"}]}
    (spec,) = dataset_specs(FinetuneArguments(dataset=entries), "train", tmp_path / "config" / "sft.json")
    assert [path.resolve() for path in spec.files] == [tmp_path / "here/a.json", tmp_path / "config/b.json"]
    assert spec.name == "x" and str(spec.image_folder) == "pictures"
    assert dataset_specs(FinetuneArguments(dataset=entries), "eval", "sft.json") == []


def test_image_folder_for_all_entries(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    arguments = FinetuneArguments(data_path=str(tmp_path / "a.json"), image_folder="pictures")
    (spec,) = dataset_specs(arguments, "train", "sft.json")
    assert str(spec.image_folder) == "pictures"


def test_quotas_of_dataset_entries(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.json").write_text("[]")
    entries = [{"name": "a", "num_samples": 7}, {"ratio": 2}, {"num_samples": None, "ratio": None}]
    entries = [{"data_files": f"{name}.json", **entry} for name, entry in zip("abc", entries, strict=True)]
    specs = dataset_specs(FinetuneArguments(dataset={"train": entries}), "train", tmp_path / "sft.json")
    assert [(spec.num_samples, spec.ratio) for spec in specs] == [(7, 1.0), (None, 2.0), (None, 1.0)]


@pytest.mark.parametrize(("given_num", "quota"), [(True, (20, 1.0)), (False, (None, 0.02))])
def test_data_list_as_data_path(tmp_path, given_num, quota):
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "data.txt").write_text("a.json 0.02\n")
    arguments = FinetuneArguments(data_path="data.txt", given_num=given_num, image_folder="pictures")
    (spec,) = dataset_specs(arguments, "train", tmp_path / "sft.json")
    assert (spec.num_samples, spec.ratio) == quota and str(spec.image_folder) == "pictures"
    assert dataset_specs(arguments, "eval", tmp_path / "sft.json") == []


def test_missing_data_files_are_told_together(tmp_path):
    arguments = FinetuneArguments(dataset={"train": [{"data_files": ["a.json", "b.json"]}]})
    with pytest.raises(FileNotFoundError, match="data files of dataset.train are missing: a.json, b.json"):
        dataset_specs(arguments, "train", tmp_path / "sft.json")


def test_files_are_named_as_other_programs_name_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data sets").mkdir()
    (tmp_path / "data sets" / "a.json").write_text("[]", encoding="utf-8")
    for name in (f"file://{tmp_path}/data%20sets/a.json", "data sets\\a.json", "~/data sets/a.json"):
        arguments = FinetuneArguments(data_path=name, image_folder="~/data sets", output_dir=f"file://{tmp_path}/out")
        (spec,) = dataset_specs(arguments, "train", tmp_path / "run.json")
        assert spec.files[0].samefile(tmp_path / "data sets" / "a.json")
        assert spec.image_folder == tmp_path / "data sets" and arguments.output_dir == str(tmp_path / "out")


@pytest.mark.parametrize("entry", [None, True, 7, "x", [], ["a"], {"train": 7}, {"train": [7]}, {"eval": {"a": []}}])
def test_datasets_of_other_types(entry, message):
    assert '"dataset' in message({"data_path": None, "dataset": entry}) or entry is None


@pytest.mark.parametrize("place", ["name", "data_files", "image_folder", "num_samples", "ratio", "chat_template", "x"])
@pytest.mark.parametrize("value", [True, 7.5, [1], {"a": [2]}, float("nan"), "a" * 100_000, 10**400], ids=range(7))
def test_entries_of_other_types(load, place, value):
    values = {"data_path": None, "dataset": {"train": [{"data_files": "a.json", place: value}]}}
    try:
        load(values)
    except ValueError as error:
        assert f'"{place}"' in str(error) or f".{place}" in str(error)
        assert len(str(error)) < 500


def test_quotas_have_bounds(message):
    values = {"data_path": None, "dataset": {"train": [{"data_files": "a.json", "num_samples": 10**12}]}}
    assert "but must be above 0 and at most 100000000" in message(values)


def test_columns_of_tables(load, tmp_path):
    (tmp_path / "a.csv").write_text("photo,q,reply\n", encoding="utf-8")
    entry = {"data_files": str(tmp_path / "a.csv"), "columns": "answer=reply"}
    columns = {"question": "q"}
    for keys, want in (
        ({"data_path": None, "dataset": {"train": [entry]}, "columns": columns}, {"answer": "reply"}),
        ({"data_path": None, "dataset": {"train": [{**entry, "columns": columns}]}}, columns),
        ({"data_path": entry["data_files"], "columns": columns}, columns),
    ):
        arguments = load(keys)
        (spec,) = dataset_specs(arguments, "train", tmp_path / "sft.json")
        assert spec.columns == want
    for keys, message in (
        (
            {"data_path": None, "dataset": {"train": [{**entry, "columns": "q"}]}},
            '"dataset.train[0].columns": columns are "q"; write image=',
        ),
        ({"data_path": "a.json", "columns": columns}, '"columns" is set, but none of the data files is a table'),
        (
            {"data_path": None, "dataset": {"train": [{**entry, "columns": 7}]}},
            'columns" is 7, expected a text or an object or null',
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            load(keys)


def test_how_to_train_without_evaluation_is_said(load, tmp_path):
    dataset = {"eval": [{"name": "b", "data_files": "path/to/b.json"}]}
    by_epoch = load({"dataset": dataset, "evaluation_strategy": "epoch"})
    with pytest.raises(FileNotFoundError, match='to train without evaluation, set "evaluation_strategy": "no"'):
        dataset_specs(by_epoch, "eval", tmp_path / "sft.json")
    asked_for = load({"dataset": dataset, "do_eval": True})
    with pytest.raises(FileNotFoundError) as error:
        dataset_specs(asked_for, "eval", tmp_path / "sft.json")
    assert "without evaluation" not in str(error.value)
    assert dataset_specs(load({"dataset": dataset}), "eval", tmp_path / "sft.json") == []

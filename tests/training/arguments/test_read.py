import json

import pytest

from paddle_xc2.training.arguments import (
    KEYS,
    NEUTRAL,
    SYNONYMS,
    dataset_specs,
    load_arguments,
)


def test_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no.json: there is no such file"):
        load_arguments(tmp_path / "no.json")


def test_invalid_json_names_line_and_column(tmp_path):
    path = tmp_path / "sft.json"
    path.write_text('{\n  "bf16": true,\n  "fp16" false\n}')
    with pytest.raises(ValueError, match=r"sft.json.* line 3, column 10"):
        load_arguments(path)


def test_unknown_key_names_the_nearest(message):
    text = message({"lora_rnak": 8})
    assert text.endswith('sft.json: unknown argument "lora_rnak"; did you mean "lora_rank"?')


def test_all_wrong_keys_are_told_at_once(message):
    text = message({"learning_rat": 1, "bf16": "yes", "prefix_tuning": True}, ["--save_stepz", "3"])
    lines = text.splitlines()
    assert len(lines) == 4
    assert 'did you mean "learning_rate"' in lines[0]
    assert '"bf16" is "yes", expected true or false' in lines[1]
    assert '"prefix_tuning": true: prefix tuning is not supported yet' in lines[2]
    assert lines[3] == 'command line: unknown argument "save_stepz"; did you mean "save_steps"?'


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_steps", 1.5, "a whole number"),
        ("max_steps", True, "a whole number"),
        ("learning_rate", "1e-5", "a number"),
        ("learning_rate", float("nan"), "a number"),
        ("output_dir", 3, "a text or null"),
        ("freeze_include", "vit.*", "a list of texts or null"),
        ("dataset", [], "an object or null"),
        ("save_total_limit", "1", "a whole number or null"),
        ("lora_rank", 4.5, "a whole number"),
        ("lora_alpha", "x", "a number"),
        ("lora_dropout", "x", "a number"),
        ("lora_target_modules", "vit", "a list of texts or null"),
    ],
)
def test_wrong_type(name, value, expected, message):
    assert f'"{name}" is {json.dumps(value)}, expected {expected}' in message({name: value})


def test_one_name_twice(tmp_path):
    path = tmp_path / "sft.json"
    path.write_text('{"output_dir": "a", "data_path": "b.json", "seed": 1, "seed": 2}')
    with pytest.raises(ValueError, match='sft.json: "seed" stands there twice, as 1 and as 2; keep one of them'):
        load_arguments(path)
    path.write_text('\ufeff{"output_dir": "a", "data_path": "b.json", "seed": 2, "seed": 2}', encoding="utf-8")
    assert load_arguments(path).seed == 2


def test_two_names_with_different_values(load, message):
    text = message({"batch_size": 2, "per_device_train_batch_size": 1})
    assert '"batch_size" is 2 and "per_device_train_batch_size" is 1, but they are two names for one thing' in text
    assert load({"batch_size": 2, "per_device_train_batch_size": 2}).per_device_train_batch_size == 2


def test_overrides(load):
    words = ["--learning_rate", "2e-4", "--bf16", "True", "--recompute", "--max_steps=7", "--hd_num", "-1"]
    words += ["--freeze_include", "vit.*", "output.*", "--save_total_limit", "null", "--output-dir", "other"]
    words += ["--batch_size", "3", "--resume_from_checkpoint", "auto"]
    arguments = load({"learning_rate": 1e-5, "per_device_train_batch_size": 1, "save_total_limit": 2}, words)
    assert (arguments.learning_rate, arguments.bf16, arguments.recompute, arguments.max_steps) == (2e-4, True, True, 7)
    assert arguments.freeze_include == ["vit.*", "output.*"] and arguments.save_total_limit is None
    assert arguments.output_dir == "other" and arguments.per_device_train_batch_size == 3
    assert arguments.resume_from_checkpoint == "auto" and arguments.hd_num == -1


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--learning_rate", ".1"], "learning_rate", 0.1),
        (["--fix_vit", "no"], "fix_vit", False),
        (["--fix_vit", "1"], "fix_vit", True),
        (["--freeze_include", '["a", "b"]'], "freeze_include", ["a", "b"]),
        (["--freeze_include", "null"], "freeze_include", None),
        (["--resume_from_checkpoint", "true"], "resume_from_checkpoint", "auto"),
        (["--resume_from_checkpoint", "false"], "resume_from_checkpoint", False),
        (["--device", "null"], "device", None),
        (["--output_dir", "7"], "output_dir", "7"),
        (["--max_steps", "1e3"], "max_steps", 1000),
    ],
)
def test_words_become_values(load, words, name, value):
    loaded = getattr(load({}, words), name)
    assert loaded == value and type(loaded) is type(value)


def test_dataset_on_the_command_line(load):
    arguments = load({"data_path": None}, ["--dataset", '{"train": [{"data_files": ["a.json", "b.json"]}]}'])
    assert arguments.dataset["train"][0]["data_files"] == ["a.json", "b.json"]


def test_word_without_a_key(message):
    assert message({}, ["7"]) == 'command line: "7" stands before any --key on the command line'


def test_image_folder_on_the_command_line_wins_over_the_entries_of_the_file(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("image,question,answer\n")
    entries = [{"data_files": "a.csv", "image_folder": "one"}, {"data_files": "b.csv", "columns": "image=x,answer=y"}]
    path = tmp_path / "sft.json"
    path.write_text(json.dumps({"output_dir": "out", "dataset": {"train": entries}}))
    in_file = dataset_specs(load_arguments(path), "train", path)
    assert [spec.image_folder and str(spec.image_folder) for spec in in_file] == ["one", None]
    over = dataset_specs(load_arguments(path, ["--image_folder", "two"]), "train", path)
    assert [str(spec.image_folder) for spec in over] == ["two", "two"]
    assert [spec.columns for spec in over] == [spec.columns for spec in in_file]
    first, second = dataset_specs(load_arguments(path, ["--columns", "image=p,answer=q"]), "train", path)
    assert first.columns == second.columns != in_file[1].columns and first.image_folder == in_file[0].image_folder


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 10**400], ids=("nan", "inf", "-inf", "huge")
)
def test_numbers_that_are_none(value, message):
    said = message({"learning_rate": value, "max_steps": value})
    assert '"learning_rate" is ' in said and '"max_steps" is ' in said and len(said) < 600


_OTHER_TYPES = [None, True, 7, 1.5, "x", [], [1], {}, {"a": 1}, "a" * 100_000, [["x"] * 9000]]


@pytest.mark.parametrize("value", _OTHER_TYPES, ids=range(len(_OTHER_TYPES)))
def test_values_of_other_types_are_told_or_taken(load, value):
    """Every key is given values of every type: none ends in anything but a message that is short."""
    for name in (*KEYS, *SYNONYMS, *NEUTRAL, "dataset_of_mine"):
        try:
            load({name: value})
        except ValueError as error:
            assert len(str(error)) < 1500, name


def test_a_name_that_is_near_to_none(message):
    assert message({"colour": 1}).endswith('"colour"; `paddle-xc2 finetune --help` lists the keys')
    assert message({"x" * 100_000: 1}).count("x") < 200


def test_a_file_of_a_great_many_keys(message):
    said = message({f"key{number}": 1 for number in range(60)})
    assert said.endswith("\nand 10 more") and said.count("\n") == 50
    assert "has 2,002 keys; this is not an argument file" in message({f"key{n}": 1 for n in range(2000)})


def test_deep_json_on_the_command_line(message):
    assert '"dataset" is "[[[' in message({}, ["--dataset", "[" * 100_000])
    assert '"seed" is ' in message({}, ["--seed", "9" * 5000])


def test_data_on_the_command_line_replaces_that_of_the_file(load, message):
    dataset = {"train": [{"name": "a", "data_files": "a.json"}], "eval": [{"name": "b", "data_files": "b.json"}]}
    arguments = load({"dataset": dataset}, ["--data_path", "mine.json"])
    assert (arguments.data_path, arguments.dataset) == ("mine.json", {"eval": dataset["eval"]})
    arguments = load({"data_path": "a.json"}, ["--dataset", json.dumps(dataset)])
    assert (arguments.data_path, arguments.dataset) == (None, dataset)
    arguments = load({"dataset": dataset}, ["--data_path", "mine.json", "--dataset", "null"])
    assert (arguments.data_path, arguments.dataset) == ("mine.json", None)
    assert "both name training data" in message({"dataset": dataset, "data_path": "a.json"})

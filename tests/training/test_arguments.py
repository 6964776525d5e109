import json
import re
from dataclasses import MISSING, fields
from typing import get_args, get_type_hints

import pytest

from paddle_xc2.training.arguments import (
    DECLARED,
    KEYS,
    NEUTRAL,
    SYNONYMS,
    USE_INSTEAD,
    WITHOUT_EFFECT,
    FinetuneArguments,
    dataset_specs,
    describe_keys,
    load_arguments,
)
from paddle_xc2.training.arguments.other_names import paddlenlp_defaults

# The argument file of PaddleMIX's XComposer2 document, as it stands there.
PADDLEMIX_FILE = {
    "model_name_or_path": "internlm/internlm-xcomposer2-7b",
    "dataset": {
        "train": [{"name": "chatml_dataset", "data_files": "path/to/train.json"}],
        "eval": [{"name": "chatml_dataset", "data_files": "path/to/eval.json"}],
    },
    "mixtoken": False,
    "output_dir": "./checkpoints/internlm_xcomposer_sft_ckpts",
    "overwrite_output_dir": True,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "eval_accumulation_steps": 8,
    "num_train_epochs": 1,
    "learning_rate": 1e-05,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "warmup_ratio": 0.01,
    "lr_scheduler_type": "cosine",
    "logging_steps": 1,
    "save_steps": 100,
    "evaluation_strategy": "epoch",
    "save_strategy": "epoch",
    "max_length": 4096,
    "bf16": True,
    "fp16_opt_level": "O1",
    "do_train": True,
    "do_eval": False,
    "disable_tqdm": True,
    "load_best_model_at_end": False,
    "eval_with_do_generation": False,
    "skip_memory_metrics": False,
    "save_total_limit": 1,
}

# Every further key of PaddleMIX's argument classes with its default, and what its files set.
PADDLEMIX_DEFAULTS = {
    "freeze_include": None,
    "freeze_exclude": ["*vit*"],
    "benchmark": False,
    "profiler_options": None,
    "warmup_start_lr": 1e-6,
    "eta_min": 1e-5,
    "lr_scheduler_name": "CosineDecayWithWarmup",
    "group_by_modality_length": False,
    "mm_projector_lr": None,
    "task_name": None,
    "src_length": 1024,
    "save_generation_output": False,
    "lazy": False,
    "chat_template": None,
    "splits": None,
    "use_flash_attention": False,
    "lora": False,
    "lora_path": None,
    "lora_rank": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_modules": None,
    "prefix_tuning": False,
    "num_prefix_tokens": 128,
    "from_aistudio": False,
    "save_to_aistudio": False,
    "aistudio_repo_id": None,
    "aistudio_repo_private": True,
    "aistudio_repo_license": "Apache License 2.0",
    "aistudio_token": None,
    "neftune": False,
    "neftune_noise_alpha": 5.0,
    "text_model_name_or_path": None,
    "top_k": 1,
    "top_p": 1.0,
    "recompute": True,
    "tensor_parallel_degree": 1,
    "sharding": "",
    "sharding_parallel_degree": -1,
    "pipeline_parallel_degree": 1,
    "device": "gpu",
}


@pytest.fixture
def load(tmp_path):
    """Loads an argument file of the given keys, beside what a run needs."""

    def load_keys(values=(), overrides=()):
        path = tmp_path / "sft.json"
        path.write_text(json.dumps({"output_dir": "out", "data_path": "train.json", **dict(values)}))
        return load_arguments(path, list(overrides))

    return load_keys


def message(load, values=(), overrides=()):
    with pytest.raises(ValueError) as caught:
        load(values, overrides)
    return str(caught.value)


def test_paddlemix_file_as_it_stands(tmp_path):
    path = tmp_path / "sft_argument.json"
    path.write_text(json.dumps(PADDLEMIX_FILE))
    arguments = load_arguments(path)
    for name, value in PADDLEMIX_FILE.items():
        if name in KEYS:
            assert getattr(arguments, name) == value, name
        else:
            assert name in NEUTRAL or name in WITHOUT_EFFECT, name


def test_shipped_files(root):
    files = sorted((root / "config").glob("*.json"))
    assert {"sft_argument", "sft_tiny"} <= {file.stem for file in files}
    for file in files:
        load_arguments(file)
    full = load_arguments(root / "config" / "sft_argument.json")
    assert full.bf16 and full.recompute and not full.fix_vit
    assert not load_arguments(root / "config" / "sft_tiny.json").bf16


def test_every_key_of_paddlemix_is_accepted(load):
    arguments = load(PADDLEMIX_DEFAULTS)
    assert arguments.recompute and arguments.freeze_exclude == ["*vit*"] and arguments.device == "gpu"


def test_defaults_are_upstreams_recipe(load):
    arguments = load()
    assert (arguments.learning_rate, arguments.weight_decay, arguments.adam_beta2) == (1e-5, 0.1, 0.95)
    assert (arguments.lr_scheduler_type, arguments.warmup_ratio, arguments.max_grad_norm) == ("cosine", 0.01, 1.0)
    assert not arguments.fix_vit and not arguments.fix_sampler


def test_upstreams_names(load):
    values = {
        "given_num": False,
        "img_size": 224,
        "hd_num": -1,
        "fix_vit": True,
        "fix_sampler": False,
        "use_lora": False,
        "lora_r": 64,
        "gradient_checkpointing": True,
        "batch_size": 4,
    }
    arguments = load(values)
    assert (arguments.img_size, arguments.hd_num, arguments.fix_vit) == (224, -1, True)
    assert arguments.recompute and arguments.per_device_train_batch_size == 4
    assert all(target in KEYS or target in NEUTRAL or target in WITHOUT_EFFECT for target in SYNONYMS.values())


def test_every_key_is_documented():
    text = describe_keys()
    for name, item in KEYS.items():
        assert f" {name} = {json.dumps(item.default)}: " in text, name
    assert "eval_accumulation_steps: evaluation keeps no logits" in text


def test_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no.json: there is no such file"):
        load_arguments(tmp_path / "no.json")


def test_invalid_json_names_line_and_column(tmp_path):
    path = tmp_path / "sft.json"
    path.write_text('{\n  "bf16": true,\n  "fp16" false\n}')
    with pytest.raises(ValueError, match=r"sft.json.* line 3, column 10"):
        load_arguments(path)


def test_unknown_key_names_the_nearest(load):
    text = message(load, {"lora_rnak": 8})
    assert text.endswith('sft.json: unknown argument "lora_rnak"; did you mean "lora_rank"?')


def test_all_wrong_keys_are_told_at_once(load):
    text = message(load, {"learning_rat": 1, "bf16": "yes", "prefix_tuning": True}, ["--save_stepz", "3"])
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
def test_wrong_type(load, name, value, expected):
    assert f'"{name}" is {json.dumps(value)}, expected {expected}' in message(load, {name: value})


def test_one_name_twice(tmp_path):
    path = tmp_path / "sft.json"
    path.write_text('{"output_dir": "a", "data_path": "b.json", "seed": 1, "seed": 2}')
    with pytest.raises(ValueError, match='sft.json: "seed" stands there twice, as 1 and as 2; keep one of them'):
        load_arguments(path)
    path.write_text('\ufeff{"output_dir": "a", "data_path": "b.json", "seed": 2, "seed": 2}', encoding="utf-8")
    assert load_arguments(path).seed == 2


def test_two_names_with_different_values(load):
    text = message(load, {"batch_size": 2, "per_device_train_batch_size": 1})
    assert '"batch_size" is 2 and "per_device_train_batch_size" is 1, but they are two names for one thing' in text
    assert load({"batch_size": 2, "per_device_train_batch_size": 2}).per_device_train_batch_size == 2


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("prefix_tuning", True, "prefix tuning is not supported yet"),
        ("tensor_parallel_degree", 2, "splitting a model over processes is not supported yet"),
        ("sharding", "stage2", "splitting a model over processes is not supported yet"),
        (
            "report_to",
            ["visualdl", "wandb"],
            '"report_to" names "wandb", but knows only visualdl, tensorboard and none',
        ),
        ("eta_min", 0.1, "use lr_scheduler_type"),
        ("minimum_eval_times", 3, "PaddleNLP has this key, but it is not used here"),
        ("unheard_of", None, "unknown argument"),
    ],
)
def test_capability_that_is_missing(load, name, value, said):
    assert said in message(load, {name: value})


def test_keys_of_paddlenlp_at_their_defaults_are_accepted(load):
    load({"past_index": -1, "use_async_save": False, "dataloader_num_workers": 2})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"truncation": "left"}, '"truncation" is "left", but must be one of refuse, turns, leave_out'),
        ({"evaluation_strategy": "often"}, "must be one of no, steps, epoch"),
        ({"lr_scheduler_type": "cosin"}, "must be one of cosine, linear"),
        ({"fp16_opt_level": "O3"}, "must be one of O1, O2"),
        ({"gradient_accumulation_steps": 0}, '"gradient_accumulation_steps" is 0, but must be at least 1'),
        ({"save_total_limit": 0}, "must be at least 1"),
        ({"model_name_or_path": ""}, '"model_name_or_path" is empty: the folder or the released name'),
        ({"img_size": 0}, '"img_size" is 0, but must be at least 1'),
        ({"adam_epsilon": 0}, '"adam_epsilon" is 0, but must be above 0'),
        ({"scale_loss": -1}, '"scale_loss" is -1, but must be above 0'),
        ({"seed": 2**32}, '"seed" is 4294967296, but must be at most 4294967295'),
        ({"lr_scheduler_type": "polynomial", "power": -1}, '"power" is -1, but must be at least 0'),
        (
            {"lr_scheduler_type": "polynomial", "lr_end": 1, "learning_rate": 0.1},
            '"lr_end" is 1, but must be below "learning_rate", which is 0.1',
        ),
        (
            {"lr_scheduler_type": "constant", "warmup_steps": 3},
            '"constant", which has no warm-up; set that to constant_with_warmup, or leave warmup_steps out',
        ),
        (
            {"do_train": False, "do_eval": True, "evaluation_inputs": ["What?"]},
            '"evaluation_inputs" are asked before, during and after training, but "do_train" is false',
        ),
        ({"top_p": 0.0}, '"top_p" is 0, but must be above 0 and at most 1'),
        ({"eval_with_do_generation": True}, '"eval_with_do_generation" is true, but nothing is evaluated; set evalua'),
        ({"save_generation_output": True}, "but nothing is generated; set eval_with_do_generation to true"),
        (
            {"save_generation_output": True, "do_train": False, "do_eval": True, "output_dir": None},
            '"output_dir" is missing: the folder that save_generation_output writes to',
        ),
        (
            {"metric_for_best_model": "rouge"},
            '"metric_for_best_model" is "rouge", but must be one of loss, exact_match, choice_accuracy, rouge_l, bleu',
        ),
        (
            {"load_best_model_at_end": True, "metric_for_best_model": "eval_anls"},
            '"metric_for_best_model" is "anls", which needs eval_with_do_generation; set it to true',
        ),
        (
            {"load_best_model_at_end": True},
            "which needs do_train, and an evaluation_strategy and a save_strategy other",
        ),
        (
            {"load_best_model_at_end": True, "save_total_limit": 1},
            '"save_total_limit" is 1, but with load_best_model_at_end there are two checkpoints to keep, the best and ',
        ),
        ({"warmup_ratio": 1.0}, "must be from 0 to below 1"),
        ({"num_train_epochs": 0}, '"num_train_epochs" is 0.0, but must be above 0'),
        ({"bf16": True, "fp16": True}, '"bf16" and "fp16" are both true'),
        ({"output_dir": None}, '"output_dir" is missing'),
        ({"do_train": False}, "there is nothing to do"),
        ({"evaluation_strategy": "epoch"}, '"evaluation_strategy" asks for evaluation, but "dataset" has no eval'),
        ({"do_eval": True}, '"do_eval" asks for evaluation'),
        ({"max_tokens_per_batch": 0}, '"max_tokens_per_batch" is 0, but must be at least 1'),
        ({"mixtoken": True, "group_by_length": True}, '"mixtoken" and "group_by_length" are both set, but packed rows'),
        (
            {"mixtoken": True, "group_by_modality_length": True},
            '"mixtoken" and "group_by_modality_length" are both set',
        ),
        ({"mixture": "upstream"}, '"mixture" is "upstream", but must be "official" or null; quotas are set by num_sam'),
        ({"mixture": "official", "mixtoken": True}, '"official", whose order of samples leaves no room for "mixtoken"'),
        ({"mixture": "official", "max_tokens_per_batch": 9}, 'leaves no room for "max_tokens_per_batch"; keep one'),
        ({"data_path": None}, "training data is missing"),
        ({"dataset": {"train": [{"data_files": "a.json"}]}}, "both name training data"),
        ({"dataset": {"test": []}}, '"dataset" has a part "test"; it may have train and eval'),
        ({"dataset": {"eval": {"data_files": "a.json"}}}, '"dataset.eval" must be a list of objects'),
        ({"dataset": {"eval": [{"name": "a"}]}}, '"dataset.eval[0].data_files" is missing'),
        (
            {"dataset": {"eval": [{"data_file": "a"}]}},
            'unknown key "data_file" in dataset.eval[0]; did you mean "data_files"?',
        ),
        (
            {"dataset": {"eval": [{"data_files": 3}]}},
            '"dataset.eval[0].data_files" is 3, expected a text or a list of texts',
        ),
        ({"dataset": {"eval": [{"data_files": "a", "ratio": 0.5}]}}, '"dataset.eval[0].ratio": all of the evaluation'),
        (
            {"dataset": {"train": [{"data_files": "a", "ratio": 0.5, "num_samples": 3}]}},
            '"dataset.train[0]" has both num_samples and ratio; keep one of them',
        ),
        ({"dataset": {"train": [{"data_files": "a", "ratio": -0.5}]}}, 'train[0].ratio" is -0.5, but must be above 0'),
        (
            {"dataset": {"train": [{"data_files": "a", "num_samples": 0.5}]}},
            '"dataset.train[0].num_samples" is 0.5, expected a whole number or null',
        ),
    ],
)
def test_values_that_do_not_hold_together(load, values, said):
    assert said in message(load, values)


@pytest.mark.parametrize(
    ("value", "names"),
    [(None, ()), ("none", ()), ([], ()), ("visualdl", ("visualdl",)), (["tensorboard", "visualdl"],) * 2],
)
def test_report_to(load, value, names):
    assert load({"report_to": value}).reporters == tuple(names)


def test_what_best_means():
    assert FinetuneArguments().best_metric == ("eval_loss", False)
    assert FinetuneArguments(metric_for_best_model="eval_loss").best_metric == ("eval_loss", False)
    assert FinetuneArguments(metric_for_best_model="bleu").best_metric == ("eval_bleu", True)
    assert FinetuneArguments(greater_is_better=True).best_metric == ("eval_loss", True)


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


def test_paths_at_home(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    names = ("model_name_or_path", "lora_path", "output_dir", "resume_from_checkpoint", "logging_dir")
    arguments = load({"lora": True, **{name: f"~/{name}" for name in names}})
    assert all(getattr(arguments, name) == f"/home/somebody/{name}" for name in names)


def test_dataset_on_the_command_line(load):
    arguments = load({"data_path": None}, ["--dataset", '{"train": [{"data_files": ["a.json", "b.json"]}]}'])
    assert arguments.dataset["train"][0]["data_files"] == ["a.json", "b.json"]


def test_word_without_a_key(load):
    assert message(load, {}, ["7"]) == 'command line: "7" stands before any --key on the command line'


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


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"use_dora": True}, '"use_dora" is true, which is for LoRA; set "lora": true, or leave it out'),
        ({"lora_path": "a"}, '"lora_path" is "a", which is for LoRA'),
        ({"lora": True, "lora_alpha": 0}, '"lora_alpha" is 0, but must be above 0'),
        ({"lora": True, "lora_r": 0}, '"lora_rank" is 0, but must be at least 1'),
        ({"lora": True, "lora_dropout": 1}, '"lora_dropout" is 1, but must be from 0 to below 1'),
        ({"lora": True, "lora_target_modules": []}, '"lora_target_modules" is empty; leave it out'),
        ({"learning_rate": 0, "vit_lr": 1e-5}, '"vit_lr" is 1e-05, but "learning_rate" is 0; freeze parts instead'),
    ],
)
def test_lora_keys_that_can_not_be_taken(load, values, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        load(values)


def test_lora_defaults_and_synonyms(load):
    arguments = load({"use_lora": True, "lora_r": 8, "use_rslora": True})
    assert arguments.lora and arguments.lora_rank == 8 and arguments.rslora
    assert arguments.learning_rate == 5e-5 and arguments.fix_vit and arguments.fix_sampler
    assert load({"lora": True, "fix_vit": False, "learning_rate": 1e-4}).fix_vit is False


def test_files_are_named_as_other_programs_name_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data sets").mkdir()
    (tmp_path / "data sets" / "a.json").write_text("[]", encoding="utf-8")
    for name in (f"file://{tmp_path}/data%20sets/a.json", "data sets\\a.json", "~/data sets/a.json"):
        arguments = FinetuneArguments(data_path=name, image_folder="~/data sets", output_dir=f"file://{tmp_path}/out")
        (spec,) = dataset_specs(arguments, "train", tmp_path / "run.json")
        assert spec.files[0].samefile(tmp_path / "data sets" / "a.json")
        assert spec.image_folder == tmp_path / "data sets" and arguments.output_dir == str(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lora_rank", 10**6, "at most 4096"),
        ("max_length", 10**12, "at most 1048576"),
        ("per_device_train_batch_size", 10**9, "at most 16384"),
        ("dataloader_num_workers", 10**5, "at most 256"),
        ("img_size", 10**5, "at most 4096"),
        ("learning_rate", 1e308, "at most 10"),
        ("num_train_epochs", 1e300, "at most 100000"),
        ("scale_loss", 1e300, "above 0 and at most 1.09951e+12"),
        ("hd_num", -2, "at least -1"),
        ("quantization", "int8", "nf4, or null"),
    ],
)
def test_every_number_has_bounds(load, name, value, said):
    written = f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else value
    assert message(load, {"lora": True, name: value}).endswith(f'"{name}" is {written}, but must be {said}')


def test_no_number_is_without_bounds():
    def is_number(name):
        kind = get_type_hints(FinetuneArguments)[name]
        return any(option in (int, float) for option in (kind, *get_args(kind)))

    assert [n for n in KEYS if is_number(n) and DECLARED[n].most is None and DECLARED[n].below is None] == []
    for name, item in KEYS.items():
        assert DECLARED[name].complaint(item.default) is None, name


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 10**400], ids=("nan", "inf", "-inf", "huge")
)
def test_numbers_that_are_none(load, value):
    said = message(load, {"learning_rate": value, "max_steps": value})
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


@pytest.mark.parametrize("entry", [None, True, 7, "x", [], ["a"], {"train": 7}, {"train": [7]}, {"eval": {"a": []}}])
def test_datasets_of_other_types(load, entry):
    assert '"dataset' in message(load, {"data_path": None, "dataset": entry}) or entry is None


@pytest.mark.parametrize("place", ["name", "data_files", "image_folder", "num_samples", "ratio", "chat_template", "x"])
@pytest.mark.parametrize("value", [True, 7.5, [1], {"a": [2]}, float("nan"), "a" * 100_000, 10**400], ids=range(7))
def test_entries_of_other_types(load, place, value):
    values = {"data_path": None, "dataset": {"train": [{"data_files": "a.json", place: value}]}}
    try:
        load(values)
    except ValueError as error:
        assert f'"{place}"' in str(error) or f".{place}" in str(error)
        assert len(str(error)) < 500


def test_quotas_have_bounds(load):
    values = {"data_path": None, "dataset": {"train": [{"data_files": "a.json", "num_samples": 10**12}]}}
    assert "but must be above 0 and at most 100000000" in message(load, values)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lr", "use learning_rate"),
        ("epochs", "use num_train_epochs"),
        ("batch", "use per_device_train_batch_size"),
        ("nproc", "the launcher decides how many processes train"),
        ("deepspeed", "nothing is split over devices here; recompute, lora and quantization save memory"),
        ("push_to_hub", "nothing is uploaded"),
        ("dry_run", "paddle-xc2 finetune CONFIG.json --plan says what the run would do"),
        ("LR", "use learning_rate"),
    ],
)
def test_words_of_the_field(load, name, said):
    assert message(load, {name: 1}).partition(f'unknown argument "{name}"; ')[2].startswith(said)


def test_what_to_use_instead_is_a_key():
    for name, said in USE_INSTEAD.items():
        assert name not in KEYS and name not in SYNONYMS and name not in NEUTRAL, name
        if said.startswith("use "):
            assert re.findall(r"\w+", said)[1] in (*KEYS, "lora", "device", "quantization", "dataset"), name


def test_a_name_that_is_near_to_none(load):
    assert message(load, {"colour": 1}).endswith('"colour"; `paddle-xc2 finetune --help` lists the keys')
    assert message(load, {"x" * 100_000: 1}).count("x") < 200


def test_a_file_of_a_great_many_keys(load):
    said = message(load, {f"key{number}": 1 for number in range(60)})
    assert said.endswith("\nand 10 more") and said.count("\n") == 50
    assert "has 2,002 keys; this is not an argument file" in message(load, {f"key{n}": 1 for n in range(2000)})


def test_deep_json_on_the_command_line(load):
    assert '"dataset" is "[[[' in message(load, {}, ["--dataset", "[" * 100_000])
    assert '"seed" is ' in message(load, {}, ["--seed", "9" * 5000])


def test_keys_of_paddlenlp_are_read_from_its_source():
    """Its class, which takes seconds to import, has the same keys, and the same defaults where they are written out."""
    from paddlenlp.trainer import TrainingArguments

    ours = paddlenlp_defaults()
    theirs = {item.name: None if item.default is MISSING else item.default for item in fields(TrainingArguments)}
    assert ours.keys() == theirs.keys()
    computed = {"scale_loss", "expert_max_capacity"}
    assert {name: ours[name] for name in theirs if name not in computed} == {
        name: value for name, value in theirs.items() if name not in computed
    }


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


def test_data_on_the_command_line_replaces_that_of_the_file(load):
    dataset = {"train": [{"name": "a", "data_files": "a.json"}], "eval": [{"name": "b", "data_files": "b.json"}]}
    arguments = load({"dataset": dataset}, ["--data_path", "mine.json"])
    assert (arguments.data_path, arguments.dataset) == ("mine.json", {"eval": dataset["eval"]})
    arguments = load({"data_path": "a.json"}, ["--dataset", json.dumps(dataset)])
    assert (arguments.data_path, arguments.dataset) == (None, dataset)
    arguments = load({"dataset": dataset}, ["--data_path", "mine.json", "--dataset", "null"])
    assert (arguments.data_path, arguments.dataset) == ("mine.json", None)
    assert "both name training data" in message(load, {"dataset": dataset, "data_path": "a.json"})


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

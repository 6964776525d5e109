import json
import re
from dataclasses import MISSING, fields

import pytest

from paddle_xc2.training.arguments import (
    KEYS,
    NEUTRAL,
    SYNONYMS,
    USE_INSTEAD,
    WITHOUT_EFFECT,
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
def test_capability_that_is_missing(name, value, said, message):
    assert said in message({name: value})


def test_keys_of_paddlenlp_at_their_defaults_are_accepted(load):
    load({"past_index": -1, "use_async_save": False, "dataloader_num_workers": 2})


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
def test_words_of_the_field(name, said, message):
    assert message({name: 1}).partition(f'unknown argument "{name}"; ')[2].startswith(said)


def test_what_to_use_instead_is_a_key():
    for name, said in USE_INSTEAD.items():
        assert name not in KEYS and name not in SYNONYMS and name not in NEUTRAL, name
        if said.startswith("use "):
            assert re.findall(r"\w+", said)[1] in (*KEYS, "lora", "device", "quantization", "dataset"), name


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

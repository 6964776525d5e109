import json
from typing import get_args, get_type_hints

import pytest

from paddle_xc2.training.arguments import (
    DECLARED,
    KEYS,
    NEUTRAL,
    SYNONYMS,
    WITHOUT_EFFECT,
    FinetuneArguments,
    describe_keys,
)


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


def test_what_best_means():
    assert FinetuneArguments().best_metric == ("eval_loss", False)
    assert FinetuneArguments(metric_for_best_model="eval_loss").best_metric == ("eval_loss", False)
    assert FinetuneArguments(metric_for_best_model="bleu").best_metric == ("eval_bleu", True)
    assert FinetuneArguments(greater_is_better=True).best_metric == ("eval_loss", True)


def test_paths_at_home(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    names = ("model_name_or_path", "lora_path", "output_dir", "resume_from_checkpoint", "logging_dir")
    arguments = load({"lora": True, **{name: f"~/{name}" for name in names}})
    assert all(getattr(arguments, name) == f"/home/somebody/{name}" for name in names)


def test_lora_defaults_and_synonyms(load):
    arguments = load({"use_lora": True, "lora_r": 8, "use_rslora": True})
    assert arguments.lora and arguments.lora_rank == 8 and arguments.rslora
    assert arguments.learning_rate == 5e-5 and arguments.fix_vit and arguments.fix_sampler
    assert load({"lora": True, "fix_vit": False, "learning_rate": 1e-4}).fix_vit is False


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
def test_every_number_has_bounds(name, value, said, message):
    written = f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else value
    assert message({"lora": True, name: value}).endswith(f'"{name}" is {written}, but must be {said}')


def test_no_number_is_without_bounds():
    def is_number(name):
        kind = get_type_hints(FinetuneArguments)[name]
        return any(option in (int, float) for option in (kind, *get_args(kind)))

    assert [n for n in KEYS if is_number(n) and DECLARED[n].most is None and DECLARED[n].below is None] == []
    for name, item in KEYS.items():
        assert DECLARED[name].complaint(item.default) is None, name

from dataclasses import replace
from typing import get_args, get_origin

import pytest

from paddle_xc2.training.arguments import DECLARED, KEYS
from paddle_xc2.training.arguments.finetune_arguments import TYPES
from paddle_xc2.training.arguments.key import MAY_CHANGE, key


def test_number_of_steps(samples, plan_of):
    plan = plan_of(samples, num_train_epochs=3)
    assert (plan.layout.rows_per_step, plan.num_steps, plan.warmup_steps) == (4, 12, 1)
    assert plan_of(samples, num_train_epochs=0.1).num_steps == 1
    assert plan_of(samples, num_train_epochs=1.5).num_steps == 6
    assert plan_of(samples, max_steps=7, warmup_ratio=0.5).warmup_steps == 4
    assert plan_of(samples, warmup_steps=3, warmup_ratio=0.0).warmup_steps == 3
    assert plan_of(samples, lr_scheduler_type="constant", warmup_ratio=0.5).warmup_steps == 0
    assert replace(plan, num_processes=2).num_steps == 6


def test_weights_are_cast_in_o2_only(samples, plan_of):
    assert plan_of(samples, precision="bfloat16").weight_dtype == "float32"
    assert plan_of(samples, precision="bfloat16", fp16_opt_level="O2").weight_dtype == "bfloat16"
    assert plan_of(samples, fp16_opt_level="O2").weight_dtype == "float32"


def test_settings_that_must_match(samples, plan_of):
    settings = plan_of(samples).resume_settings
    assert settings == plan_of(samples, logging_steps=5, dataloader_num_workers=2, save_steps=1).resume_settings
    assert settings == plan_of(samples, per_device_train_batch_size=4, gradient_accumulation_steps=1).resume_settings
    for change in ({"seed": 1}, {"learning_rate": 1e-4}, {"max_steps": 9}, {"fix_vit": True}, {"warmup_steps": 2}):
        assert settings != plan_of(samples, **change).resume_settings, change
    assert settings != plan_of(samples, per_device_train_batch_size=1).resume_settings
    assert settings != plan_of(samples, precision="bfloat16").resume_settings


def test_settings_of_mixtures_and_packing(samples, plan_of):
    settings = plan_of(samples).resume_settings
    for change in (
        {"mixtoken": True},
        {"mixtoken": True, "max_tokens_per_batch": 4000},
        {"max_tokens_per_batch": 200},
        {"group_by_length": True},
        {"group_by_modality_length": True},
        {"mixture": "official"},
    ):
        assert settings != plan_of(samples, **change).resume_settings, change
    spec = replace(samples.datasets[0].spec, num_samples=12)
    fewer = replace(samples, datasets=(replace(samples.datasets[0], spec=spec),))
    assert settings != plan_of(fewer).resume_settings


# Keys whose result is in the samples, in the precision, or in the base model, which a plan is given.
GIVEN_TO_THE_PLAN = {
    *("dataset", "data_path", "given_num", "image_folder", "columns", "max_length", "truncation", "bad_records"),
    *("bf16", "fp16", "allow_precision_fallback", "model_name_or_path"),
}
# Where any other value would be refused, or come to the same.
OTHER_VALUES = {
    **{"max_steps": 9, "warmup_ratio": 0.5, "warmup_steps": 3, "max_tokens_per_batch": 1000},
    **{"fix_vit": False, "fix_sampler": False},
}


def another_value(name):
    """A value that is not the key's default."""
    default, kinds = KEYS[name].default, get_args(TYPES[name]) or (TYPES[name],)
    if DECLARED[name].choices:
        return next(choice for choice in DECLARED[name].choices if choice != default)
    if bool in kinds:
        return not default
    if list[str] in kinds or list in map(get_origin, kinds):
        return ["other"]
    return next({int: 7, float: 0.125, str: "official", dict: {}}[kind] for kind in kinds)


@pytest.mark.parametrize("name", sorted(DECLARED.keys() - GIVEN_TO_THE_PLAN))
def test_every_key_says_what_it_means_for_going_on(samples, plan_of, name):
    """A key that decides how training goes on and does not say so would be changed in silence."""
    plan = plan_of(samples, samples, lora=name != "lora")
    other = replace(plan.arguments, **{name: OTHER_VALUES.get(name, another_value(name))})
    same = plan.resume_settings == replace(plan, arguments=other).resume_settings
    assert same == (DECLARED[name].resume is MAY_CHANGE)


def test_a_key_without_a_word_on_going_on_can_not_be_declared():
    with pytest.raises(TypeError, match="resume"):
        key(1, "forgotten")

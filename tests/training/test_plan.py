from dataclasses import replace


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


def test_course(samples, plan_of):
    course = plan_of(samples).course
    assert course == plan_of(samples, logging_steps=5, dataloader_num_workers=2, save_steps=1).course
    assert course == plan_of(samples, per_device_train_batch_size=4, gradient_accumulation_steps=1).course
    for change in ({"seed": 1}, {"learning_rate": 1e-4}, {"max_steps": 9}, {"fix_vit": True}, {"warmup_steps": 2}):
        assert course != plan_of(samples, **change).course, change
    assert course != plan_of(samples, per_device_train_batch_size=1).course
    assert course != plan_of(samples, precision="bfloat16").course


def test_course_of_mixtures_and_packing(samples, plan_of):
    course = plan_of(samples).course
    for change in (
        {"mixtoken": True},
        {"mixtoken": True, "max_tokens_per_batch": 4000},
        {"max_tokens_per_batch": 200},
        {"group_by_length": True},
        {"group_by_modality_length": True},
        {"mixture": "official"},
    ):
        assert course != plan_of(samples, **change).course, change
    spec = replace(samples.datasets[0].spec, num_samples=12)
    fewer = replace(samples, datasets=(replace(samples.datasets[0], spec=spec),))
    assert course != plan_of(fewer).course

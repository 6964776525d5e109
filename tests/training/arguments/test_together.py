import re

import pytest


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
def test_values_that_do_not_hold_together(values, said, message):
    assert said in message(values)


@pytest.mark.parametrize(
    ("value", "names"),
    [(None, ()), ("none", ()), ([], ()), ("visualdl", ("visualdl",)), (["tensorboard", "visualdl"],) * 2],
)
def test_report_to(load, value, names):
    assert load({"report_to": value}).reporters == tuple(names)


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

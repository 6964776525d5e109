"""Keys that other programs have: what they mean here, which of them ask for nothing, and what to use instead."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

# Switches of other programs, and the key and value that they stand for.
SWITCHES = {"load_in_4bit": ("quantization", "nf4")}


class Neutral(NamedTuple):
    """A key that may only be set to what asks for nothing, and what to tell who sets it otherwise."""

    values: tuple
    otherwise: str


_NOT_YET = "is not supported yet"
_PARALLEL = f"splitting a model over processes {_NOT_YET}; leave it out (data parallel training works)"
_OTHER_SCHEDULER = "PaddleMIX reads it for other models only; use lr_scheduler_type, learning_rate and warmup_ratio"

NEUTRAL = {
    "prefix_tuning": Neutral((False,), f"prefix tuning {_NOT_YET}"),
    "neftune": Neutral((False,), f"NEFTune {_NOT_YET}"),
    "chat_template": Neutral((None,), "the template belongs to the model family and is always used; leave it out"),
    "src_length": Neutral((None, 1024), "questions have no limit of their own; max_length holds for the whole sample"),
    "task_name": Neutral((None,), "name files under dataset instead"),
    "splits": Neutral((None,), "name files under dataset.train and dataset.eval instead"),
    "text_model_name_or_path": Neutral((None,), "the tokenizer stands beside the model"),
    "from_aistudio": Neutral((False,), "download the model and give its directory as model_name_or_path"),
    "save_to_aistudio": Neutral((False,), "upload output_dir by hand"),
    "profiler_options": Neutral((None,), f"the profiler {_NOT_YET}"),
    "warmup_start_lr": Neutral((1e-6,), _OTHER_SCHEDULER),
    "eta_min": Neutral((1e-5,), _OTHER_SCHEDULER),
    "lr_scheduler_name": Neutral(("CosineDecayWithWarmup",), _OTHER_SCHEDULER),
    "optim": Neutral(("adamw",), f"another optimizer than adamw {_NOT_YET}"),
    "sharding": Neutral(("", False, None), _PARALLEL),
    "sharding_parallel_degree": Neutral((-1, 1), _PARALLEL),
    "tensor_parallel_degree": Neutral((-1, 1), _PARALLEL),
    "pipeline_parallel_degree": Neutral((-1, 1), _PARALLEL),
    "sep_parallel_degree": Neutral((-1, 1), _PARALLEL),
    "context_parallel_degree": Neutral((-1, 1), _PARALLEL),
}

# Keys that can't change what a run gives, and why.
WITHOUT_EFFECT = {
    "eval_accumulation_steps": "evaluation keeps no logits that would have to be moved away",
    "use_flash_attention": "the fastest attention of the device is taken in any case",
    "lazy": "images are always read when they are needed",
    "num_prefix_tokens": "belongs to prefix_tuning",
    "neftune_noise_alpha": "belongs to neftune",
    "aistudio_repo_id": "belongs to save_to_aistudio",
    "aistudio_repo_private": "belongs to save_to_aistudio",
    "aistudio_repo_license": "belongs to save_to_aistudio",
    "aistudio_token": "belongs to save_to_aistudio",
    "prediction_loss_only": "eval_with_do_generation says whether answers are generated",
    "unified_checkpoint": "checkpoints have one format",
    "run_name": "output_dir names the run",
    "remove_unused_columns": "records have no columns",
}

# What people from elsewhere look for, and what does it here.
_LORA = 'with "lora": true'
_BATCH = "use per_device_train_batch_size, of one forward pass, and gradient_accumulation_steps"
_LAUNCH = (
    "the launcher decides how many processes train: python -m paddle.distributed.launch --gpus 0,1 "
    "tools/supervised_finetune.py CONFIG.json"
)
_SAVE_MEMORY = "nothing is split over devices here; recompute, lora and quantization save memory"
_NO_HUB = "nothing is uploaded; upload output_dir by hand"
_REPORT = "report_to shows the course of a run: visualdl or tensorboard"
_BEST_ATTENTION = "the fastest attention of the device is taken in any case; leave it out"
_PLAN = "paddle-xc2 finetune CONFIG.json --plan says what the run would do, and stops"
_ONE_WAY = "fine-tuning is supervised, in the model's own template; leave it out"
USE_INSTEAD = {
    **dict.fromkeys(("model", "model_path", "model_name", "base_model", "pretrained"), "use model_name_or_path"),
    **dict.fromkeys(("data", "train_data", "train_file", "train_files", "dataset_path", "train_json"), "use data_path"),
    **dict.fromkeys(
        ("eval_data", "val_data", "valid_data", "validation_file", "eval_file", "val_dataset", "eval_dataset"),
        'use dataset: {"train": [...], "eval": [{"data_files": ...}]}',
    ),
    **dict.fromkeys(("image_dir", "image_root", "images_dir", "media_dir"), "use image_folder"),
    **dict.fromkeys(("output", "out", "out_dir", "work_dir", "save_dir", "output_path"), "use output_dir"),
    **dict.fromkeys(("overwrite", "force"), "use overwrite_output_dir"),
    **dict.fromkeys(("resume", "resume_from", "load_from"), "use resume_from_checkpoint"),
    **dict.fromkeys(("lr", "base_lr", "max_lr"), "use learning_rate"),
    **dict.fromkeys(("lr_scheduler", "scheduler", "lr_schedule", "scheduler_type"), "use lr_scheduler_type"),
    **dict.fromkeys(("warmup", "warmup_steps_ratio"), "use warmup_ratio, or warmup_steps"),
    **dict.fromkeys(("wd", "l2"), "use weight_decay"),
    **dict.fromkeys(("betas", "beta1", "beta2"), "use adam_beta1 and adam_beta2"),
    **dict.fromkeys(("clip_grad", "clip_grad_norm", "grad_clip", "gradient_clip_val", "max_norm"), "use max_grad_norm"),
    **dict.fromkeys(("epoch", "epochs", "num_epochs", "n_epochs", "max_epochs"), "use num_train_epochs"),
    **dict.fromkeys(("steps", "num_steps", "total_steps", "max_iters", "iterations"), "use max_steps"),
    **dict.fromkeys(("batch", "bs", "train_batch_size", "micro_batch_size", "global_batch_size", "batchsize"), _BATCH),
    **dict.fromkeys(("eval_batch_size", "val_batch_size"), "use per_device_eval_batch_size"),
    **dict.fromkeys(
        ("grad_accum", "accumulation_steps", "accumulative_counts", "gradient_accumulation"),
        "use gradient_accumulation_steps",
    ),
    **dict.fromkeys(
        ("max_seq_length", "max_seq_len", "seq_len", "seq_length", "model_max_length", "cutoff_len", "context_length"),
        "use max_length",
    ),
    **dict.fromkeys(("num_workers", "workers", "preprocessing_num_workers"), "use dataloader_num_workers"),
    **dict.fromkeys(("image_size", "resolution", "max_pixels"), "use img_size"),
    **dict.fromkeys(("max_tiles", "hd", "max_dynamic_patch"), "use hd_num"),
    **dict.fromkeys(("freeze_vit", "freeze_vision", "freeze_vision_tower", "tune_vision"), "use fix_vit"),
    **dict.fromkeys(("freeze_projector", "tune_projector", "tune_mm_mlp_adapter", "freeze_aligner"), "use fix_sampler"),
    **dict.fromkeys(("r", "rank", "lora_dim"), f"use lora_rank, {_LORA}"),
    **dict.fromkeys(("alpha",), f"use lora_alpha, {_LORA}"),
    **dict.fromkeys(("dropout",), f"use lora_dropout, {_LORA}"),
    **dict.fromkeys(("target_modules", "lora_target", "lora_targets"), f"use lora_target_modules, {_LORA}"),
    **dict.fromkeys(("adapter", "adapter_path", "adapters", "peft_path"), "use lora_path"),
    **dict.fromkeys(("peft", "finetuning_type", "train_type", "tuner_type"), 'use "lora": true, or leave it out'),
    **dict.fromkeys(("qlora", "load_in_8bit", "quant_bits", "quantization_bit"), f'use "quantization": "nf4" {_LORA}'),
    **dict.fromkeys(("dtype", "torch_dtype", "precision", "mixed_precision", "amp"), "use bf16 or fp16"),
    **dict.fromkeys(("cuda", "use_cuda", "gpu", "use_cpu", "no_cuda"), 'use "device": "gpu" or "cpu"'),
    **dict.fromkeys(("nproc", "nproc_per_node", "num_processes", "num_gpus", "gpus", "ngpus", "world_size"), _LAUNCH),
    **dict.fromkeys(("nnodes", "node_rank", "master_addr", "master_port", "rdzv_endpoint"), _LAUNCH),
    **dict.fromkeys(("deepspeed", "zero", "zero_stage", "zero3", "fsdp", "offload", "megatron"), _SAVE_MEMORY),
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_token", "hub_strategy", "save_to_hub"), _NO_HUB),
    **dict.fromkeys(("wandb", "use_wandb", "wandb_project", "swanlab", "mlflow"), _REPORT),
    **dict.fromkeys(("flash_attn", "flash_attention", "attn_implementation", "sdpa"), _BEST_ATTENTION),
    **dict.fromkeys(("log_every", "log_interval", "print_freq"), "use logging_steps"),
    **dict.fromkeys(("save_every", "save_interval", "checkpoint_every"), "use save_steps, and save_strategy"),
    **dict.fromkeys(("eval_every", "eval_interval", "val_every"), "use eval_steps, and evaluation_strategy"),
    **dict.fromkeys(("packing", "pack", "group_texts"), "use mixtoken"),
    **dict.fromkeys(("dry_run", "dryrun", "plan", "check_only"), _PLAN),
    **dict.fromkeys(("stage", "task", "tuning_method", "template", "prompt_template"), _ONE_WAY),
}


@cache
def paddlenlp_defaults() -> dict[str, Any]:
    """Keys of PaddleNLP's TrainingArguments with their defaults, None for one that is computed.

    Read from its source: importing it takes seconds, and an argument file is judged before anything is imported.
    """
    package = find_spec("paddlenlp")
    if package is None or package.origin is None:
        return {}
    source = (Path(package.origin).parent / "trainer" / "training_args.py").read_text(encoding="utf-8")
    return {
        ast.unparse(item.target): _default_of(item.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"
        for item in node.body
        if isinstance(item, ast.AnnAssign)
    }


def _default_of(value: ast.expr | None) -> Any:
    """The literal of `= 3` or `= field(default=3, ...)`."""
    if isinstance(value, ast.Call):
        value = next((given.value for given in value.keywords if given.arg == "default"), None)
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None

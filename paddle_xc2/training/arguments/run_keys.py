"""Keys of the argument file about how it is trained: batches, optimizer, precision, and what is written."""

from __future__ import annotations

from dataclasses import dataclass

from paddle_xc2.training.arguments.key import MAY_CHANGE, MUST_MATCH, RESULT_MUST_MATCH, key


@dataclass
class BatchArguments:
    """Batch and schedule"""

    per_device_train_batch_size: int = key(
        1,
        "samples in one forward pass; with mixtoken, rows.",
        least=1,
        most=2**14,
        also=("batch_size",),
        resume=RESULT_MUST_MATCH,
    )
    mixtoken: bool = key(
        False,
        "pack several samples into each row of up to max_length tokens, instead of padding. Attention stays within a "
        "sample: the loss is that of the same samples one by one.",
        resume=MUST_MATCH,
    )
    max_tokens_per_batch: int | None = key(
        None,
        "samples of similar length are put into one forward pass up to so many tokens, padding included, and "
        "per_device_train_batch_size is not looked at; with mixtoken, the tokens of a row.",
        least=1,
        most=2**24,
        resume=MUST_MATCH,
    )
    group_by_length: bool = key(
        False, "a step takes samples of similar length, so that little is padded.", resume=MUST_MATCH
    )
    group_by_modality_length: bool = key(
        False,
        "the same, and samples with images and without are not in one step.",
        resume=MUST_MATCH,
    )
    gradient_accumulation_steps: int = key(
        1,
        "forward passes in one step; the loss is the mean over all their trained tokens.",
        least=1,
        most=2**14,
        resume=RESULT_MUST_MATCH,
    )
    per_device_eval_batch_size: int = key(
        1, "samples in one forward pass of the evaluation.", least=1, most=2**14, resume=MAY_CHANGE
    )
    num_train_epochs: float = key(1.0, "passes over the training data.", most=1e5, resume=RESULT_MUST_MATCH)
    max_steps: int = key(
        -1, "steps to train; if positive, num_train_epochs is not looked at.", most=10**8, resume=RESULT_MUST_MATCH
    )
    seed: int = key(42, "of the order of samples and of dropout.", least=0, most=2**32 - 1, resume=MUST_MATCH)


@dataclass
class OptimizerArguments:
    """Optimizer (AdamW)"""

    learning_rate: float | None = key(
        None,
        "highest learning rate, per step; null is 5e-5 with lora, else 1e-5, as upstream.",
        least=0,
        most=10,
        resume=MUST_MATCH,
    )
    vit_lr: float | None = key(
        None,
        "the same for the vision encoder; null is learning_rate.",
        least=0,
        most=10,
        resume=MUST_MATCH,
    )
    mm_projector_lr: float | None = key(None, "the same for the projector.", least=0, most=10, resume=MUST_MATCH)
    plora_lr: float | None = key(None, "the same for PLoRA's matrices.", least=0, most=10, resume=MUST_MATCH)
    separators_lr: float | None = key(
        None, "the same for the separators between tiles.", least=0, most=10, resume=MUST_MATCH
    )
    embeddings_lr: float | None = key(
        None,
        "the same for the embedding and the output head, whole or in rows.",
        least=0,
        most=10,
        resume=MUST_MATCH,
    )
    weight_decay: float = key(
        0.1,
        "AdamW's, times the learning rate; matrices only, not biases and norm weights.",
        least=0,
        most=10,
        resume=MUST_MATCH,
    )
    adam_beta1: float = key(0.9, "AdamW's decay of the first moment, per step.", least=0, below=1, resume=MUST_MATCH)
    adam_beta2: float = key(0.95, "AdamW's decay of the second moment, per step.", least=0, below=1, resume=MUST_MATCH)
    adam_epsilon: float = key(1e-8, "AdamW's epsilon.", above=0, most=1, resume=MUST_MATCH)
    max_grad_norm: float = key(
        1.0,
        "gradients are scaled down to this global norm; 0 leaves them.",
        least=0,
        most=1e12,
        resume=MUST_MATCH,
    )
    lr_scheduler_type: str = key(
        "cosine",
        "cosine, linear, constant, constant_with_warmup or polynomial.",
        choices=("cosine", "linear", "constant", "constant_with_warmup", "polynomial"),
        resume=MUST_MATCH,
    )
    warmup_ratio: float = key(
        0.01,
        "share of the steps in which the learning rate rises from 0; of constant, none does.",
        least=0,
        below=1,
        resume=RESULT_MUST_MATCH,
    )
    warmup_steps: int = key(
        0,
        "the same as a number of steps; if positive, warmup_ratio is not looked at.",
        least=0,
        most=10**8,
        resume=RESULT_MUST_MATCH,
    )
    num_cycles: float = key(0.5, "waves of the cosine; 0.5 ends at 0.", least=0, most=1e4, resume=MUST_MATCH)
    lr_end: float = key(1e-7, "learning rate at the end of polynomial.", least=0, most=10, resume=MUST_MATCH)
    power: float = key(1.0, "power of polynomial.", least=0, most=100, resume=MUST_MATCH)


@dataclass
class DeviceArguments:
    """Precision, memory, device"""

    bf16: bool = key(False, "compute in bfloat16.", resume=RESULT_MUST_MATCH)
    fp16: bool = key(False, "compute in float16, with loss scaling.", resume=RESULT_MUST_MATCH)
    fp16_opt_level: str = key(
        "O1",
        "with bf16 or fp16. What learns is float32 either way. O1: so is what is frozen, and Paddle casts both for "
        "products. O2: what is frozen is stored in 16 bits, and every layer casts what learns.",
        choices=("O1", "O2"),
        resume=MUST_MATCH,
    )
    scale_loss: float = key(2.0**15, "first loss scale of fp16.", above=0, most=2.0**40, resume=MAY_CHANGE)
    amp_custom_black_list: list[str] | None = key(None, "operators that stay float32.", resume=MUST_MATCH)
    amp_custom_white_list: list[str] | None = key(None, "operators that are cast.", resume=MUST_MATCH)
    allow_precision_fallback: bool = key(
        False, "compute in float32 where the device lacks bf16 or fp16, instead of stopping.", resume=RESULT_MUST_MATCH
    )
    recompute: bool = key(
        False,
        "keep only the inputs of every layer and compute the rest again: less memory, slower steps.",
        also=("gradient_checkpointing",),
        resume=MAY_CHANGE,
    )
    device: str | None = key(None, "cpu, gpu or gpu:N; null takes a GPU if there is one.", resume=MAY_CHANGE)


@dataclass
class OutputArguments:
    """Output"""

    output_dir: str | None = key(
        None, "where everything is written; must be empty, or an earlier run's.", resume=MAY_CHANGE
    )
    overwrite_output_dir: bool = key(
        False,
        "start again where output_dir holds an earlier run; its checkpoints go when the first new one is whole.",
        resume=MAY_CHANGE,
    )
    resume_from_checkpoint: str | bool | None = key(
        None,
        'null goes on where output_dir\'s newest whole checkpoint ends, unless overwrite_output_dir; "auto" does so in '
        "any case; a path takes that checkpoint; false starts again.",
        resume=MAY_CHANGE,
    )
    do_train: bool = key(True, "train.", resume=MAY_CHANGE)
    do_eval: bool = key(False, "evaluate once at the end, if evaluation_strategy is no.", resume=MAY_CHANGE)
    evaluation_strategy: str = key(
        "no",
        "when to compute the loss on dataset.eval: no, steps or epoch.",
        choices=("no", "steps", "epoch"),
        also=("eval_strategy",),
        resume=MAY_CHANGE,
    )
    eval_steps: int | None = key(
        None, "steps between evaluations; null is logging_steps.", least=1, most=10**8, resume=MAY_CHANGE
    )
    max_evaluate_steps: int = key(
        -1, "forward passes of one evaluation; -1 is all of the data.", most=10**8, resume=MAY_CHANGE
    )
    evaluation_inputs: list[str] | None = key(
        None,
        "questions that are asked before and after training; the answers, side by side, are written into "
        "evaluation_samples.jsonl and .md.",
        resume=MAY_CHANGE,
    )
    evaluation_images: str | list[str] | None = key(
        None, "images to these questions: one for all, or one for each.", resume=MAY_CHANGE
    )
    evaluation_freq: int | None = key(
        None,
        "steps after which they are asked again and again; null is only before and after.",
        least=1,
        most=10**8,
        resume=MAY_CHANGE,
    )
    evaluation_max_new_tokens: int = key(600, "longest answer to them.", least=1, most=2**20, resume=MAY_CHANGE)
    eval_with_do_generation: bool = key(
        False,
        "in every evaluation, also have the last answer of every sample generated, and measured by exact_match, "
        "rouge_l and anls, and where they apply bleu, choice_accuracy and box_iou.",
        resume=MAY_CHANGE,
    )
    max_new_tokens: int | None = key(
        None,
        "longest generated answer; null is the longest that the evaluation data expects.",
        least=1,
        most=2**20,
        resume=MAY_CHANGE,
    )
    top_k: int = key(
        1,
        "1 generates the likeliest answer; more draws each token from so many, 0 from all.",
        least=0,
        most=10**6,
        resume=MAY_CHANGE,
    )
    top_p: float = key(
        1.0,
        "if drawn, from the likeliest tokens whose probabilities reach it together.",
        above=0,
        most=1,
        resume=MAY_CHANGE,
    )
    save_generation_output: bool = key(
        False, "write the generated answers with their scores into predictions-STEP.jsonl.", resume=MAY_CHANGE
    )
    load_best_model_at_end: bool = key(
        False,
        "end with the best of the evaluated states instead of the last; its checkpoint is kept. Of equally good ones, "
        "the one with the lowest loss is the best.",
        resume=RESULT_MUST_MATCH,
    )
    metric_for_best_model: str | None = key(
        None, "what best means: loss (null) or one of the measures above.", resume=MAY_CHANGE
    )
    greater_is_better: bool | None = key(None, "null is false for the loss, else true.", resume=MAY_CHANGE)
    save_strategy: str = key(
        "epoch", "when to write a checkpoint: no, steps or epoch.", choices=("no", "steps", "epoch"), resume=MAY_CHANGE
    )
    save_steps: int = key(500, "steps between checkpoints.", least=1, most=10**8, resume=MAY_CHANGE)
    save_total_limit: int | None = key(
        1, "checkpoints to keep; null keeps all.", least=1, most=10**8, resume=MAY_CHANGE
    )
    logging_strategy: str = key(
        "steps", "when to log: steps, epoch or no.", choices=("no", "steps", "epoch"), resume=MAY_CHANGE
    )
    logging_steps: int = key(
        1, "steps between two logged ones; the last one is logged in any case.", least=1, most=10**8, resume=MAY_CHANGE
    )
    logging_first_step: bool = key(False, "log the first step in any case.", resume=MAY_CHANGE)
    report_to: str | list[str] | None = key(
        None,
        "visualdl, tensorboard or a list of these, which show what metrics.jsonl holds; null is neither.",
        resume=MAY_CHANGE,
    )
    logging_dir: str | None = key(
        None, 'folder of their records, with one in it for every run; null is "runs" in output_dir.', resume=MAY_CHANGE
    )
    disable_tqdm: bool = key(False, "a line per logged step instead of the progress bar.", resume=MAY_CHANGE)
    skip_memory_metrics: bool = key(False, "leave memory out of metrics.jsonl.", resume=MAY_CHANGE)
    benchmark: bool = key(False, "only measure: the trained model is not saved.", resume=MAY_CHANGE)

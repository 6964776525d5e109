"""Keys of the argument file about how it is trained: batches, optimizer, precision, and what is written."""

from __future__ import annotations

from dataclasses import dataclass

from paddle_xc2.training.arguments.key import key


@dataclass
class BatchArguments:
    """Batch and schedule"""

    per_device_train_batch_size: int = key(
        1,
        "samples in one forward pass; with mixtoken, rows.",
        least=1,
        most=2**14,
        also=("batch_size",),
    )
    mixtoken: bool = key(
        False,
        "pack several samples into each row of up to max_length tokens, instead of padding. Attention stays within a "
        "sample: the loss is that of the same samples one by one.",
        course=True,
    )
    max_tokens_per_batch: int | None = key(
        None,
        "samples of similar length are put into one forward pass up to so many tokens, padding included, and "
        "per_device_train_batch_size is not looked at; with mixtoken, the tokens of a row.",
        least=1,
        most=2**24,
        course=True,
    )
    group_by_length: bool = key(False, "a step takes samples of similar length, so that little is padded.", course=True)
    group_by_modality_length: bool = key(
        False,
        "the same, and samples with images and without are not in one step.",
        course=True,
    )
    gradient_accumulation_steps: int = key(
        1,
        "forward passes in one step; the loss is the mean over all their trained tokens.",
        least=1,
        most=2**14,
    )
    per_device_eval_batch_size: int = key(1, "samples in one forward pass of the evaluation.", least=1, most=2**14)
    num_train_epochs: float = key(1.0, "passes over the training data.", most=1e5)
    max_steps: int = key(-1, "steps to train; if positive, num_train_epochs is not looked at.", most=10**8)
    seed: int = key(42, "of the order of samples and of dropout.", least=0, most=2**32 - 1, course=True)


@dataclass
class OptimizerArguments:
    """Optimizer (AdamW)"""

    learning_rate: float | None = key(
        None,
        "highest learning rate, per step; null is 5e-5 with lora, else 1e-5, as upstream.",
        least=0,
        most=10,
        course=True,
    )
    vit_lr: float | None = key(
        None,
        "the same for the vision encoder; null is learning_rate.",
        least=0,
        most=10,
        course=True,
    )
    mm_projector_lr: float | None = key(None, "the same for the projector.", least=0, most=10, course=True)
    plora_lr: float | None = key(None, "the same for PLoRA's matrices.", least=0, most=10, course=True)
    separators_lr: float | None = key(None, "the same for the separators between tiles.", least=0, most=10, course=True)
    embeddings_lr: float | None = key(
        None,
        "the same for the embedding and the output head, whole or in rows.",
        least=0,
        most=10,
        course=True,
    )
    weight_decay: float = key(
        0.1,
        "AdamW's, times the learning rate; matrices only, not biases and norm weights.",
        least=0,
        most=10,
        course=True,
    )
    adam_beta1: float = key(0.9, "AdamW's decay of the first moment, per step.", least=0, below=1, course=True)
    adam_beta2: float = key(0.95, "AdamW's decay of the second moment, per step.", least=0, below=1, course=True)
    adam_epsilon: float = key(1e-8, "AdamW's epsilon.", above=0, most=1, course=True)
    max_grad_norm: float = key(
        1.0,
        "gradients are scaled down to this global norm; 0 leaves them.",
        least=0,
        most=1e12,
        course=True,
    )
    lr_scheduler_type: str = key(
        "cosine",
        "cosine, linear, constant, constant_with_warmup or polynomial.",
        choices=("cosine", "linear", "constant", "constant_with_warmup", "polynomial"),
        course=True,
    )
    warmup_ratio: float = key(
        0.01,
        "share of the steps in which the learning rate rises from 0; of constant, none does.",
        least=0,
        below=1,
    )
    warmup_steps: int = key(
        0,
        "the same as a number of steps; if positive, warmup_ratio is not looked at.",
        least=0,
        most=10**8,
    )
    num_cycles: float = key(0.5, "waves of the cosine; 0.5 ends at 0.", least=0, most=1e4, course=True)
    lr_end: float = key(1e-7, "learning rate at the end of polynomial.", least=0, most=10, course=True)
    power: float = key(1.0, "power of polynomial.", least=0, most=100, course=True)


@dataclass
class DeviceArguments:
    """Precision, memory, device"""

    bf16: bool = key(False, "compute in bfloat16.")
    fp16: bool = key(False, "compute in float16, with loss scaling.")
    fp16_opt_level: str = key(
        "O1",
        "with bf16 or fp16. What learns is float32 either way. O1: so is what is frozen, and Paddle casts both for "
        "products. O2: what is frozen is stored in 16 bits, and every layer casts what learns.",
        choices=("O1", "O2"),
        course=True,
    )
    scale_loss: float = key(2.0**15, "first loss scale of fp16.", above=0, most=2.0**40)
    amp_custom_black_list: list[str] | None = key(None, "operators that stay float32.")
    amp_custom_white_list: list[str] | None = key(None, "operators that are cast.")
    allow_precision_fallback: bool = key(
        False,
        "compute in float32 where the device lacks bf16 or fp16, instead of stopping.",
    )
    recompute: bool = key(
        False,
        "keep only the inputs of every layer and compute the rest again: less memory, slower steps.",
        also=("gradient_checkpointing",),
    )
    device: str | None = key(None, "cpu, gpu or gpu:N; null takes a GPU if there is one.")


@dataclass
class OutputArguments:
    """Output"""

    output_dir: str | None = key(None, "where everything is written; must be empty, or an earlier run's.")
    overwrite_output_dir: bool = key(
        False,
        "start again where output_dir holds an earlier run; its checkpoints go when the first new one is whole.",
    )
    resume_from_checkpoint: str | bool | None = key(
        None,
        'null goes on where output_dir\'s newest whole checkpoint ends, unless overwrite_output_dir; "auto" does so in '
        "any case; a path takes that checkpoint; false starts again.",
    )
    do_train: bool = key(True, "train.")
    do_eval: bool = key(False, "evaluate once at the end, if evaluation_strategy is no.")
    evaluation_strategy: str = key(
        "no",
        "when to compute the loss on dataset.eval: no, steps or epoch.",
        choices=("no", "steps", "epoch"),
        also=("eval_strategy",),
    )
    eval_steps: int | None = key(None, "steps between evaluations; null is logging_steps.", least=1, most=10**8)
    max_evaluate_steps: int = key(-1, "forward passes of one evaluation; -1 is all of the data.", most=10**8)
    evaluation_inputs: list[str] | None = key(
        None,
        "questions that are asked before and after training; the answers, side by side, are written into "
        "evaluation_samples.jsonl and .md.",
    )
    evaluation_images: str | list[str] | None = key(None, "images to these questions: one for all, or one for each.")
    evaluation_freq: int | None = key(
        None,
        "steps after which they are asked again and again; null is only before and after.",
        least=1,
        most=10**8,
    )
    evaluation_max_new_tokens: int = key(600, "longest answer to them.", least=1, most=2**20)
    eval_with_do_generation: bool = key(
        False,
        "in every evaluation, also have the last answer of every sample generated, and measured by exact_match, "
        "rouge_l and anls, and where they apply bleu, choice_accuracy and box_iou.",
    )
    max_new_tokens: int | None = key(
        None,
        "longest generated answer; null is the longest that the evaluation data expects.",
        least=1,
        most=2**20,
    )
    top_k: int = key(
        1,
        "1 generates the likeliest answer; more draws each token from so many, 0 from all.",
        least=0,
        most=10**6,
    )
    top_p: float = key(
        1.0,
        "if drawn, from the likeliest tokens whose probabilities reach it together.",
        above=0,
        most=1,
    )
    save_generation_output: bool = key(
        False,
        "write the generated answers with their scores into predictions-STEP.jsonl.",
    )
    load_best_model_at_end: bool = key(
        False,
        "end with the best of the evaluated states instead of the last; its checkpoint is kept.",
    )
    metric_for_best_model: str | None = key(None, "what best means: loss (null) or one of the measures above.")
    greater_is_better: bool | None = key(None, "null is false for the loss, else true.")
    save_strategy: str = key(
        "epoch",
        "when to write a checkpoint: no, steps or epoch.",
        choices=("no", "steps", "epoch"),
    )
    save_steps: int = key(500, "steps between checkpoints.", least=1, most=10**8)
    save_total_limit: int | None = key(1, "checkpoints to keep; null keeps all.", least=1, most=10**8)
    logging_strategy: str = key("steps", "when to log: steps, epoch or no.", choices=("no", "steps", "epoch"))
    logging_steps: int = key(
        1,
        "steps between two logged ones; the last one is logged in any case.",
        least=1,
        most=10**8,
    )
    logging_first_step: bool = key(False, "log the first step in any case.")
    report_to: str | list[str] | None = key(
        None,
        "visualdl, tensorboard or a list of these, which show what metrics.jsonl holds; null is neither.",
    )
    logging_dir: str | None = key(
        None,
        'folder of their records, with one in it for every run; null is "runs" in output_dir.',
    )
    disable_tqdm: bool = key(False, "a line per logged step instead of the progress bar.")
    skip_memory_metrics: bool = key(False, "leave memory out of metrics.jsonl.")
    benchmark: bool = key(False, "only measure: the trained model is not saved.")

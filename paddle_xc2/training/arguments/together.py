"""Values that are right one by one and contradict each other."""

from __future__ import annotations

from paddle_xc2.data.images.picture_reading import PictureReading
from paddle_xc2.generation.scores import METRICS
from paddle_xc2.messages import in_json, shown
from paddle_xc2.training.arguments.data_files import check_dataset, sample_images
from paddle_xc2.training.arguments.finetune_arguments import DECLARED, KEYS, FinetuneArguments
from paddle_xc2.training.reporting import REPORTERS


def check_together(arguments: FinetuneArguments, wrong: list[str]) -> None:
    """Notes in `wrong` every value that contradicts another."""
    if arguments.max_steps < 1 and arguments.num_train_epochs <= 0:
        wrong.append(f'"num_train_epochs" is {arguments.num_train_epochs}, but must be above 0')
    if arguments.bf16 and arguments.fp16:
        wrong.append('"bf16" and "fp16" are both true; choose one')
    if not arguments.model_name_or_path:
        wrong.append('"model_name_or_path" is empty: the folder or the released name of the model to start from')
    if arguments.do_train and not arguments.output_dir:
        wrong.append('"output_dir" is missing: the folder to write checkpoints and the trained model to')
    if arguments.resume_from_checkpoint is True:
        arguments.resume_from_checkpoint = "auto"
    if not arguments.do_train and not arguments.do_eval:
        wrong.append('"do_train" and "do_eval" are both false: there is nothing to do')
    _check_pictures(arguments, wrong)
    _check_schedule(arguments, wrong)
    _check_questions(arguments, wrong)
    _check_batches(arguments, wrong)
    _check_generation(arguments, wrong)
    for name in set(arguments.reporters) - REPORTERS.keys():
        wrong.append(f'"report_to" names "{shown(name)}", but knows only {", ".join(REPORTERS)} and none')
    _check_lora(arguments, wrong)
    check_dataset(arguments, wrong)


def _check_pictures(arguments: FinetuneArguments, wrong: list[str]) -> None:
    try:
        PictureReading(bool(arguments.exif), arguments.background)
    except ValueError as error:
        wrong.append(str(error))


def _check_schedule(arguments: FinetuneArguments, wrong: list[str]) -> None:
    if arguments.lr_scheduler_type == "polynomial" and arguments.lr_end >= arguments.learning_rate:
        wrong.append(
            f'"lr_end" is {arguments.lr_end:g}, but must be below "learning_rate", which is {arguments.learning_rate:g}'
        )
    if arguments.lr_scheduler_type == "constant" and arguments.warmup_steps:
        wrong.append(
            f'"warmup_steps" is {arguments.warmup_steps}, but "lr_scheduler_type" is "constant", which has no warm-up; '
            "set that to constant_with_warmup, or leave warmup_steps out"
        )


def _check_lora(arguments: FinetuneArguments, wrong: list[str]) -> None:
    if not arguments.lora:
        for name, item in KEYS.items():
            if DECLARED[name].lora_only and (value := getattr(arguments, name)) != item.default:
                wrong.append(f'"{name}" is {in_json(value)}, which is for LoRA; set "lora": true, or leave it out')
    if arguments.quantization and arguments.do_train and not arguments.lora:
        wrong.append('"quantization" is "nf4", but quantized weights don\'t learn; set "lora": true, or leave it out')
    if not arguments.learning_rate:
        for name in ("vit_lr", "mm_projector_lr", "plora_lr", "separators_lr", "embeddings_lr"):
            if getattr(arguments, name):
                wrong.append(f'"{name}" is {getattr(arguments, name)}, but "learning_rate" is 0; freeze parts instead')
    if arguments.train_embeddings and arguments.train_tokens:
        wrong.append('"train_embeddings" and "train_tokens" are both set, but whole tables hold all rows; keep one')
    if arguments.lora_target_modules == []:
        wrong.append('"lora_target_modules" is empty; leave it out for the language model\'s layers')


def _check_questions(arguments: FinetuneArguments, wrong: list[str]) -> None:
    questions, images = arguments.evaluation_inputs or [], sample_images(arguments)
    for name in ("evaluation_images", "evaluation_freq"):
        if getattr(arguments, name) is not None and not questions:
            wrong.append(f'"{name}" is set, but "evaluation_inputs" holds no question to ask')
    if questions and not arguments.do_train:
        wrong.append(
            '"evaluation_inputs" are asked before, during and after training, but "do_train" is false; leave them out, '
            "and ask with paddle-xc2 chat"
        )
    if any(not question.strip() for question in questions):
        wrong.append('"evaluation_inputs" holds an empty question')
    if questions and len(images) not in (0, 1, len(questions)):
        wrong.append(
            f'"evaluation_images" lists {len(images)} images for {len(questions)} questions in "evaluation_inputs"; '
            "give one for all, or one for each"
        )


def _check_generation(arguments: FinetuneArguments, wrong: list[str]) -> None:
    generates = arguments.eval_with_do_generation
    if generates and not arguments.evaluates:
        wrong.append(
            '"eval_with_do_generation" is true, but nothing is evaluated; set evaluation_strategy to steps or epoch, '
            "or do_eval to true"
        )
    if arguments.save_generation_output and not generates:
        wrong.append('"save_generation_output" is true, but nothing is generated; set eval_with_do_generation to true')
    if arguments.save_generation_output and not arguments.output_dir:
        wrong.append('"output_dir" is missing: the folder that save_generation_output writes to')
    name = arguments.best_metric[0].removeprefix("eval_")
    if name not in ("loss", *METRICS):
        wrong.append(
            f'"metric_for_best_model" is {in_json(arguments.metric_for_best_model)}, but must be one of loss, '
            f"{', '.join(METRICS)}"
        )
    if not arguments.load_best_model_at_end:
        return
    if name in METRICS and not generates:
        wrong.append(f'"metric_for_best_model" is "{name}", which needs eval_with_do_generation; set it to true')
    if arguments.evaluation_strategy == "no" or arguments.save_strategy == "no" or not arguments.do_train:
        wrong.append(
            '"load_best_model_at_end" is true, which needs do_train, and an evaluation_strategy and a save_strategy '
            "other than no"
        )
    if arguments.save_total_limit == 1:
        wrong.append(
            '"save_total_limit" is 1, but with load_best_model_at_end there are two checkpoints to keep, the best and '
            "the newest; set it to 2 or more, or to null"
        )


def _check_batches(arguments: FinetuneArguments, wrong: list[str]) -> None:
    groups = [name for name in ("group_by_length", "group_by_modality_length") if getattr(arguments, name)]
    if arguments.mixtoken and groups:
        wrong.append(f'"mixtoken" and "{groups[0]}" are both set, but packed rows are all full; keep one of them')
    if arguments.mixture not in (None, "official"):
        wrong.append(
            f'"mixture" is {in_json(arguments.mixture)}, but must be "official" or null; quotas are set by '
            "num_samples or ratio of an entry of dataset.train, or by a data.txt"
        )
    if arguments.mixture == "official":
        others = [*(["mixtoken"] if arguments.mixtoken else []), *groups]
        others += ["max_tokens_per_batch"] if arguments.max_tokens_per_batch is not None else []
        if others:
            wrong.append(
                f'"mixture" is "official", whose order of samples leaves no room for "{others[0]}"; keep one of them'
            )

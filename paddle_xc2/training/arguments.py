"""The JSON argument file of a fine-tuning run: every key with its default and unit, checked before anything is done.

Keys are PaddleMIX's and PaddleNLP's; the names of upstream's own scripts are understood too (SYNONYMS). A value is
honoured or refused: a key whose capability is missing is accepted where it asks for nothing (NEUTRAL), and keys that
can't change a result are listed as such (WITHOUT_EFFECT).
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
import os
import re
import types
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from paddle_xc2.data.mixture import DatasetSpec, read_data_list
from paddle_xc2.evaluation.metrics import METRICS
from paddle_xc2.json_file import read_json
from paddle_xc2.local_path import find_path, local_path
from paddle_xc2.training.reporting import REPORTERS


@dataclass
class FinetuneArguments:
    """One fine-tuning run. Defaults follow upstream's scripts for full fine-tuning.

    Lengths are in tokens, image slots included; a step is an optimizer step.

    Model:
        model_name_or_path: checkpoint to start from: a directory, or a released name.
        new_tokens: texts that become one token each, as in ["<defect>"], and are saved with the tokenizer. They take
            the place of unused pieces of the vocabulary, and begin as the mean of the tokens that they replace; a text
            that is one token already stays it.
        img_size: pixels, side of the square image; null is the checkpoint's, another size resizes its position table.
        hd_num: tiles that an image may take; null is upstream's number, -1 is for families without tiles.
        pad_image_to_square: of LLaVA: false takes the middle of an image as CLIP does, true pads it to a square; null
            is what the checkpoint was trained with, else padding. It is recorded, and chat then does the same.
        fix_vit: keep the vision encoder as it is; it then runs without a graph. null is true with lora, else false.
        fix_sampler: keep the projector (vision_proj) as it is. null is true with lora, else false.
        freeze_include: patterns of parameter names to freeze, as in ["vit.*"].
        freeze_exclude: patterns of names that learn in spite of fix_vit and fix_sampler; what both lists match stays as
            those say.
    LoRA (defaults of upstream's script):
        lora: train low-rank updates of linear layers instead of the language model; what is saved is an adapter.
        lora_rank: rank of the updates.
        lora_alpha: the updates are scaled by alpha / rank.
        lora_dropout: probability, on what enters the updates; not on DoRA's of the output head, which the loss takes
            as one with its weight.
        lora_target_modules: layers to update: language_model (attention.wqkv, attention.wo, feed_forward.w1, w2 and w3
            of every decoder layer, which is null too), vit, projector, output; or names, ends of names, regular
            expressions.
        rslora: scale by alpha / sqrt(rank) instead.
        use_dora: learn the norm of each output's weights too.
        lora_plus_scale: the second matrix of an update learns this many times as fast (LoRA+).
        vit_lora_rank: rank of the updates of the vision encoder; null is lora_rank.
        vit_lora_alpha: the same for lora_alpha.
        quantization: nf4 keeps the decoder's linear layers in four bits while LoRA learns (QLoRA); each is quantized
            as it is read from the checkpoint.
        lora_path: adapter to go on training, in PEFT's or PaddleNLP's layout; it decides ranks and layers.
        train_plora: train PLoRA's matrices whole beside LoRA. Like the vision encoder and the projector, where fix_vit
            and fix_sampler are false, they are saved with the adapter.
        train_separators: likewise the separators between the tiles of an image.
        train_tokens: tokens whose rows of the embedding and of the output head learn whole; only these rows are saved.
            null is what the training data needs: new_tokens, and the tokens in it that the model never learned, as far
            as its tables show. [] is new_tokens alone.
        train_embeddings: train both tables whole instead.
    Data:
        dataset: {"train": [{"name", "data_files", "image_folder", "num_samples", "ratio"}], "eval": [...]}; data_files
            (one or a list) are looked for from the current folder, then from the argument file's. num_samples, or
            ratio times its records, is how many samples an entry of train gives to an epoch, each record once before
            any comes again; without them, all its records once.
        data_path: upstream's short form of dataset: a JSON file to train on, or a data.txt with a file and its number
            of samples on each line.
        given_num: the numbers in a data.txt are thousands of samples; false: they are ratios of the file's records.
        mixture: null takes exactly what is asked of each file; "official" draws as upstream's code does, with
            replacement and in turn from files with images and files without, whatever is asked of them.
        image_folder: where relative image paths start, if an entry of dataset does not say; null is the data file's
            folder.
        max_length: longest sample; null is the family's.
        truncation: what happens to longer samples: refuse lists them and stops, turns drops their oldest turns,
            leave_out trains without them.
        dataloader_num_workers: processes that read and transform images; 0 does it between the steps.
        dataloader_drop_last: leave out the samples of an epoch that don't fill a step.
    Batch and schedule:
        per_device_train_batch_size: samples in one forward pass; with mixtoken, rows.
        mixtoken: pack several samples into each row of up to max_length tokens, instead of padding. Attention stays
            within a sample: the loss is that of the same samples one by one.
        max_tokens_per_batch: samples of similar length are put into one forward pass up to so many tokens, padding
            included, and per_device_train_batch_size is not looked at; with mixtoken, the tokens of a row.
        group_by_length: a step takes samples of similar length, so that little is padded.
        group_by_modality_length: the same, and samples with images and without are not in one step.
        gradient_accumulation_steps: forward passes in one step; the loss is the mean over all their trained tokens.
        per_device_eval_batch_size: samples in one forward pass of the evaluation.
        num_train_epochs: passes over the training data.
        max_steps: steps to train; if positive, num_train_epochs is not looked at.
        seed: of the order of samples and of dropout.
    Optimizer (AdamW):
        learning_rate: highest learning rate, per step; null is 5e-5 with lora, else 1e-5, as upstream.
        vit_lr: the same for the vision encoder; null is learning_rate.
        mm_projector_lr: the same for the projector.
        plora_lr: the same for PLoRA's matrices.
        separators_lr: the same for the separators between tiles.
        embeddings_lr: the same for the embedding and the output head, whole or in rows.
        weight_decay: AdamW's, times the learning rate; matrices only, not biases and norm weights.
        adam_beta1: AdamW's decay of the first moment, per step.
        adam_beta2: AdamW's decay of the second moment, per step.
        adam_epsilon: AdamW's epsilon.
        max_grad_norm: gradients are scaled down to this global norm; 0 leaves them.
        lr_scheduler_type: cosine, linear, constant, constant_with_warmup or polynomial.
        warmup_ratio: share of the steps in which the learning rate rises from 0; of constant, none does.
        warmup_steps: the same as a number of steps; if positive, warmup_ratio is not looked at.
        num_cycles: waves of the cosine; 0.5 ends at 0.
        lr_end: learning rate at the end of polynomial.
        power: power of polynomial.
    Precision, memory, device:
        bf16: compute in bfloat16.
        fp16: compute in float16, with loss scaling.
        fp16_opt_level: with bf16 or fp16. O1: weights stay float32, products are cast. O2: weights are cast, the
            optimizer keeps float32 copies.
        scale_loss: first loss scale of fp16.
        amp_custom_black_list: operators that stay float32.
        amp_custom_white_list: operators that are cast.
        allow_precision_fallback: compute in float32 where the device lacks bf16 or fp16, instead of stopping.
        recompute: keep only the inputs of every layer and compute the rest again: less memory, slower steps.
        device: cpu, gpu or gpu:N; null takes a GPU if there is one.
    Output:
        output_dir: where everything is written; must be empty, or an earlier run's.
        overwrite_output_dir: start again where output_dir holds an earlier run; its checkpoints go when the first new
            one is whole.
        resume_from_checkpoint: null goes on where output_dir's newest whole checkpoint ends, unless
            overwrite_output_dir; "auto" does so in any case; a path takes that checkpoint; false starts again.
        do_train: train.
        do_eval: evaluate once at the end, if evaluation_strategy is no.
        evaluation_strategy: when to compute the loss on dataset.eval: no, steps or epoch.
        eval_steps: steps between evaluations; null is logging_steps.
        max_evaluate_steps: forward passes of one evaluation; -1 is all of the data.
        evaluation_inputs: questions that are asked before and after training; the answers, side by side, are written
            into evaluation_samples.jsonl and .md.
        evaluation_images: images to these questions: one for all, or one for each.
        evaluation_freq: steps after which they are asked again and again; null is only before and after.
        evaluation_max_new_tokens: longest answer to them.
        eval_with_do_generation: in every evaluation, also have the last answer of every sample generated, and
            measured by exact_match, rouge_l and anls, and where they apply bleu, choice_accuracy and box_iou.
        max_new_tokens: longest generated answer; null is the longest that the evaluation data expects.
        top_k: 1 generates the likeliest answer; more draws each token from so many, 0 from all.
        top_p: if drawn, from the likeliest tokens whose probabilities reach it together.
        save_generation_output: write the generated answers with their scores into predictions-STEP.jsonl.
        load_best_model_at_end: end with the best of the evaluated states instead of the last; its checkpoint is kept.
        metric_for_best_model: what best means: loss (null) or one of the measures above.
        greater_is_better: null is false for the loss, else true.
        save_strategy: when to write a checkpoint: no, steps or epoch.
        save_steps: steps between checkpoints.
        save_total_limit: checkpoints to keep; null keeps all.
        logging_strategy: when to log: steps, epoch or no.
        logging_steps: steps between two logged ones; the last one is logged in any case.
        logging_first_step: log the first step in any case.
        report_to: visualdl, tensorboard or a list of these, which show what metrics.jsonl holds; null is neither.
        logging_dir: folder of their records, with one in it for every run; null is "runs" in output_dir.
        disable_tqdm: a line per logged step instead of the progress bar.
        skip_memory_metrics: leave memory out of metrics.jsonl.
        benchmark: only measure: the trained model is not saved.
    """

    # Model
    model_name_or_path: str = "internlm/internlm-xcomposer2-7b"
    new_tokens: list[str] | None = None
    img_size: int | None = None
    hd_num: int | None = None
    pad_image_to_square: bool | None = None
    fix_vit: bool | None = None
    fix_sampler: bool | None = None
    freeze_include: list[str] | None = None
    freeze_exclude: list[str] | None = None

    # LoRA
    lora: bool = False
    lora_rank: int = 64
    lora_alpha: float = 64.0
    lora_dropout: float = 0.05
    lora_target_modules: list[str] | None = None
    rslora: bool = False
    use_dora: bool = False
    lora_plus_scale: float = 1.0
    vit_lora_rank: int | None = None
    vit_lora_alpha: float | None = None
    quantization: str | None = None
    lora_path: str | None = None
    train_plora: bool = False
    train_separators: bool = False
    train_tokens: list[str] | None = None
    train_embeddings: bool = False

    # Data
    dataset: dict | None = None
    data_path: str | None = None
    given_num: bool = False
    mixture: str | None = None
    image_folder: str | None = None
    max_length: int | None = None
    truncation: str = "refuse"
    dataloader_num_workers: int = 0
    dataloader_drop_last: bool = False

    # Batch and schedule
    per_device_train_batch_size: int = 1
    mixtoken: bool = False
    max_tokens_per_batch: int | None = None
    group_by_length: bool = False
    group_by_modality_length: bool = False
    gradient_accumulation_steps: int = 1
    per_device_eval_batch_size: int = 1
    num_train_epochs: float = 1.0
    max_steps: int = -1
    seed: int = 42

    # Optimizer (AdamW)
    learning_rate: float | None = None
    vit_lr: float | None = None
    mm_projector_lr: float | None = None
    plora_lr: float | None = None
    separators_lr: float | None = None
    embeddings_lr: float | None = None
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.01
    warmup_steps: int = 0
    num_cycles: float = 0.5
    lr_end: float = 1e-7
    power: float = 1.0

    # Precision, memory, device
    bf16: bool = False
    fp16: bool = False
    fp16_opt_level: str = "O1"
    scale_loss: float = 2.0**15
    amp_custom_black_list: list[str] | None = None
    amp_custom_white_list: list[str] | None = None
    allow_precision_fallback: bool = False
    recompute: bool = False
    device: str | None = None

    # Output
    output_dir: str | None = None
    overwrite_output_dir: bool = False
    resume_from_checkpoint: str | bool | None = None
    do_train: bool = True
    do_eval: bool = False
    evaluation_strategy: str = "no"
    eval_steps: int | None = None
    max_evaluate_steps: int = -1
    evaluation_inputs: list[str] | None = None
    evaluation_images: str | list[str] | None = None
    evaluation_freq: int | None = None
    evaluation_max_new_tokens: int = 600
    eval_with_do_generation: bool = False
    max_new_tokens: int | None = None
    top_k: int = 1
    top_p: float = 1.0
    save_generation_output: bool = False
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    save_strategy: str = "epoch"
    save_steps: int = 500
    save_total_limit: int | None = 1
    logging_strategy: str = "steps"
    logging_steps: int = 1
    logging_first_step: bool = False
    report_to: str | list[str] | None = None
    logging_dir: str | None = None
    disable_tqdm: bool = False
    skip_memory_metrics: bool = False
    benchmark: bool = False

    def __post_init__(self):
        for name in ("model_name_or_path", "lora_path", "output_dir", "resume_from_checkpoint", "logging_dir"):
            if isinstance(path := getattr(self, name), str) and (found := local_path(path)) != Path(path):
                setattr(self, name, str(found))
        if self.learning_rate is None:
            self.learning_rate = 5e-5 if self.lora else 1e-5
        if self.fix_vit is None:
            self.fix_vit = self.lora
        if self.fix_sampler is None:
            self.fix_sampler = self.lora

    @property
    def samples_per_pass(self) -> int:
        """Samples that one process trains on in one step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def reporters(self) -> tuple[str, ...]:
        """The names in report_to."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        return tuple(dict.fromkeys(name for name in names if name != "none"))

    @property
    def best_metric(self) -> tuple[str, bool]:
        """Which entry of an evaluation in metrics.jsonl decides what is best, and whether greater is better."""
        name = (self.metric_for_best_model or "loss").removeprefix("eval_")
        greater = name != "loss" if self.greater_is_better is None else self.greater_is_better
        return f"eval_{name}", greater


# Other names for the same key.
SYNONYMS = {
    "from_pretrained": "model_name_or_path",
    "batch_size": "per_device_train_batch_size",
    "gradient_checkpointing": "recompute",
    "eval_strategy": "evaluation_strategy",
    "use_lora": "lora",
    "lora_r": "lora_rank",
    "use_rslora": "rslora",
    "weight_quantize_algo": "quantization",
}

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

KEYS = {item.name: item for item in fields(FinetuneArguments)}
_TYPES = get_type_hints(FinetuneArguments)
_CHOICES = {
    "truncation": ("refuse", "turns", "leave_out"),
    "evaluation_strategy": ("no", "steps", "epoch"),
    "save_strategy": ("no", "steps", "epoch"),
    "logging_strategy": ("no", "steps", "epoch"),
    "lr_scheduler_type": ("cosine", "linear", "constant", "constant_with_warmup", "polynomial"),
    "fp16_opt_level": ("O1", "O2"),
}
_AT_LEAST = {
    "img_size": 1,
    "max_length": 1,
    "max_tokens_per_batch": 1,
    "dataloader_num_workers": 0,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "per_device_eval_batch_size": 1,
    "learning_rate": 0,
    "vit_lr": 0,
    "mm_projector_lr": 0,
    "plora_lr": 0,
    "separators_lr": 0,
    "embeddings_lr": 0,
    "lora_rank": 1,
    "vit_lora_rank": 1,
    "lora_plus_scale": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "warmup_steps": 0,
    "num_cycles": 0,
    "lr_end": 0,
    "power": 0,
    "eval_steps": 1,
    "evaluation_freq": 1,
    "evaluation_max_new_tokens": 1,
    "max_new_tokens": 1,
    "top_k": 0,
    "save_steps": 1,
    "save_total_limit": 1,
    "logging_steps": 1,
    "seed": 0,
}
_ABOVE_0 = ("adam_epsilon", "scale_loss")
_LARGEST_SEED = 2**32 - 1  # of NumPy's generators
_SHARES = ("adam_beta1", "adam_beta2", "warmup_ratio", "lora_dropout")  # from 0 to below 1


def load_arguments(path: str | Path, overrides: list[str] = ()) -> FinetuneArguments:
    """Reads an argument file.

    Args:
        path: JSON file.
        overrides: command-line words `--key value`; they win over the file.
    Returns: the arguments, every value of its type.
    Raises: FileNotFoundError; ValueError that names every key and value that is wrong.
    """
    in_file: list[str] = []
    on_command_line: list[str] = []
    values = _accept_all(read_json(local_path(path)), in_file)
    values.update(_accept_all(_parse_overrides(list(overrides), on_command_line), on_command_line))
    arguments = FinetuneArguments(**values)
    if not in_file and not on_command_line:
        _check_together(arguments, in_file)
    wrong = [f"{path}: {line}" for line in in_file] + [f"command line: {line}" for line in on_command_line]
    if wrong:
        raise ValueError("\n".join(wrong))
    return arguments


def dataset_specs(arguments: FinetuneArguments, part: str, config_path: str | Path) -> list[DatasetSpec]:
    """The data files of "train" or "eval", found from the current folder or from the argument file's.

    Raises: FileNotFoundError naming every file that is nowhere; DataError if a data.txt can't be used.
    """
    if arguments.data_path is not None and part == "train":
        if arguments.data_path.endswith(".txt"):
            folder = arguments.image_folder
            return read_data_list(
                find_file(arguments.data_path, config_path),
                arguments.given_num,
                None if folder is None else local_path(folder),
            )
        entries = [{"data_files": arguments.data_path}]
    else:
        entries = (arguments.dataset or {}).get(part) or []
    specs, missing = [], []
    for entry in entries:
        names = entry["data_files"]
        found = []
        for name in [names] if isinstance(names, str) else names:
            found.append(find_file(name, config_path))
            if not found[-1].is_file():
                missing.append(str(name))
        folder = entry.get("image_folder", arguments.image_folder)
        specs.append(
            DatasetSpec(
                entry.get("name", part),
                tuple(found),
                None if folder is None else local_path(folder),
                entry.get("num_samples"),
                1.0 if entry.get("ratio") is None else float(entry["ratio"]),
            )
        )
    if missing:
        raise FileNotFoundError(
            f"{config_path}: data files of dataset.{part} are missing: {', '.join(missing)} "
            f"(looked for from {Path.cwd()} and {Path(config_path).resolve().parent})"
        )
    return specs


def find_file(name: str, config_path: str | Path) -> Path:
    """A file that an argument file names, from the current folder or else from the argument file's."""
    folders = Path(), local_path(config_path).parent
    return find_path(name, folders, os.path.exists) or local_path(name)


def sample_images(arguments: FinetuneArguments) -> list[str]:
    images = arguments.evaluation_images or []
    return [images] if isinstance(images, str) else images


def describe_keys() -> str:
    """Every key with its default and meaning, for --help."""

    def with_default(found):
        indent, name = found.groups()
        return f"{indent}{name} = {json.dumps(KEYS[name].default)}: " if name in KEYS else found.group()

    keys = re.sub(r"^( *)(\w+): ", with_default, inspect.getdoc(FinetuneArguments), flags=re.MULTILINE)
    others = "\n".join(f"    {name}: {reason}" for name, reason in WITHOUT_EFFECT.items())
    return f"keys of the argument file, with their defaults\n\n{keys}\nAccepted, without effect:\n{others}"


def _accept_all(values: dict, wrong: list[str]) -> dict:
    """The values of KEYS, each of its type; what can't be taken is noted in `wrong`."""
    accepted = {name: _accept(name, value, wrong) for name, value in _rename(values, wrong).items()}
    return {name: value for name, value in accepted.items() if name in KEYS and value is not MISSING}


def _rename(values: dict, wrong: list[str]) -> dict:
    """Synonyms become their key. Two names with different values are noted in `wrong`."""
    renamed, said_as = {}, {}
    for name, value in values.items():
        target, said = SYNONYMS.get(name, name), f'"{name}" is {json.dumps(value)}'
        if name in SWITCHES and isinstance(value, bool):
            target, switched_on = SWITCHES[name]
            value = switched_on if value else None
        if target in renamed and renamed[target] != value:
            wrong.append(f"{said_as[target]} and {said}, but they are two names for one thing; keep one of them")
        renamed[target], said_as[target] = value, said
    return renamed


def _parse_overrides(words: list[str], wrong: list[str]) -> dict:
    """`--key value`, `--key=value`, `--flag`, `--list a b` -> values; text that is no JSON stays text."""
    values: dict[str, Any] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            values[name] = [value] if equals else []
        elif name is None:
            wrong.append(f'"{word}" stands before any --key on the command line')
        else:
            values[name].append(word)
    return {name: _parse_words(SYNONYMS.get(name, name), words) for name, words in values.items()}


def _parse_words(name: str, words: list[str]) -> Any:
    kind = _TYPES.get(name)
    if kind is not None and list in (get_origin(option) for option in (kind, *get_args(kind))):
        if len(words) != 1 or not words[0].startswith("["):
            return None if words == ["null"] else words
    if not words:
        return True
    text = " ".join(words)
    if text.lower() in ("true", "false") or (
        kind in (bool, bool | None) and text.lower() in ("1", "0", "yes", "no", "on", "off")
    ):
        return text.lower() in ("true", "1", "yes", "on")
    if kind in (str, str | None) and text != "null":
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        try:
            return float(text)  # 1e-5 is JSON, 1.e-5 and .1 are not
        except ValueError:
            return None if text.lower() == "none" and kind is not None else text


def _accept(name: str, value: Any, wrong: list[str]) -> Any:
    """The value in the type of its key; MISSING, and a line in `wrong`, if it can't be taken."""
    if name in WITHOUT_EFFECT:
        return value
    if name in NEUTRAL:
        neutral, otherwise = NEUTRAL[name]
        if value not in neutral:
            wrong.append(f'"{name}": {json.dumps(value)}: {otherwise}')
        return value
    if name not in KEYS:
        if name in (paddlenlp := _paddlenlp_defaults()):
            if value != paddlenlp[name]:
                wrong.append(
                    f'"{name}": {json.dumps(value)}: PaddleNLP has this key, but it is not used here; leave it out'
                )
            return value
        known = [*KEYS, *SYNONYMS, *NEUTRAL, *WITHOUT_EFFECT]
        nearest = max(known, key=lambda other: difflib.SequenceMatcher(None, name, other).ratio())
        wrong.append(f'unknown argument "{name}"; did you mean "{nearest}"?')
        return MISSING
    kind = _TYPES[name]
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for option in options:
        if _is(value, option):
            return float(value) if option is float else value
    wrong.append(f'"{name}" is {json.dumps(value)}, expected {" or ".join(_SPOKEN[option] for option in options)}')
    return MISSING


_SPOKEN = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list[str]: "a list of texts",
    dict: "an object",
    types.NoneType: "null",
}


def _is(value: Any, kind: Any) -> bool:
    if kind == list[str]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind in (int, float):
        kinds = (int, float) if kind is float else int
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def _paddlenlp_defaults() -> dict:
    """Keys of PaddleNLP's TrainingArguments with their defaults."""
    from paddlenlp.trainer import TrainingArguments  # takes seconds to import, and is rarely needed here

    return {item.name: None if item.default is MISSING else item.default for item in fields(TrainingArguments)}


def _check_together(arguments: FinetuneArguments, wrong: list[str]) -> None:
    """Notes in `wrong` every value that is out of range or contradicts another."""
    for name, choices in _CHOICES.items():
        if getattr(arguments, name) not in choices:
            wrong.append(f'"{name}" is "{getattr(arguments, name)}", but must be one of {", ".join(choices)}')
    for name, least in _AT_LEAST.items():
        if (value := getattr(arguments, name)) is not None and value < least:
            wrong.append(f'"{name}" is {value}, but must be at least {least}')
    for name in _ABOVE_0:
        if (value := getattr(arguments, name)) <= 0:
            wrong.append(f'"{name}" is {value:g}, but must be above 0')
    if arguments.seed > _LARGEST_SEED:
        wrong.append(f'"seed" is {arguments.seed}, but must be at most {_LARGEST_SEED}')
    for name in _SHARES:
        if not 0 <= getattr(arguments, name) < 1:
            wrong.append(f'"{name}" is {getattr(arguments, name)}, but must be from 0 to below 1')
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
    _check_schedule(arguments, wrong)
    _check_questions(arguments, wrong)
    _check_batches(arguments, wrong)
    _check_generation(arguments, wrong)
    for name in set(arguments.reporters) - REPORTERS.keys():
        wrong.append(f'"report_to" names "{name}", but knows only {", ".join(REPORTERS)} and none')
    _check_lora(arguments, wrong)
    _check_dataset(arguments, wrong)


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


_LORA_ONLY = {
    "rslora": False,
    "use_dora": False,
    "lora_plus_scale": 1.0,
    "lora_path": None,
    "lora_target_modules": None,
    "vit_lora_rank": None,
    "vit_lora_alpha": None,
    "train_tokens": None,
}


def _check_lora(arguments: FinetuneArguments, wrong: list[str]) -> None:
    if not arguments.lora:
        for name, neutral in _LORA_ONLY.items():
            if (value := getattr(arguments, name)) != neutral:
                wrong.append(f'"{name}" is {json.dumps(value)}, which is for LoRA; set "lora": true, or leave it out')
    for name in ("lora_alpha", "vit_lora_alpha"):
        if (value := getattr(arguments, name)) is not None and value <= 0:
            wrong.append(f'"{name}" is {value:g}, but must be above 0')
    if arguments.quantization not in (None, "nf4"):
        wrong.append(f'"quantization" is "{arguments.quantization}", but must be nf4, or null')
    elif arguments.quantization and arguments.do_train and not arguments.lora:
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
    evaluates = arguments.do_eval or arguments.evaluation_strategy != "no"
    generates = arguments.eval_with_do_generation
    if not 0 < arguments.top_p <= 1:
        wrong.append(f'"top_p" is {arguments.top_p}, but must be above 0 and at most 1')
    if generates and not evaluates:
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
            f'"metric_for_best_model" is "{arguments.metric_for_best_model}", but must be one of loss, '
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
            f'"mixture" is {json.dumps(arguments.mixture)}, but must be "official" or null; quotas are set by '
            "num_samples or ratio of an entry of dataset.train, or by a data.txt"
        )
    if arguments.mixture == "official":
        others = [*(["mixtoken"] if arguments.mixtoken else []), *groups]
        others += ["max_tokens_per_batch"] if arguments.max_tokens_per_batch is not None else []
        if others:
            wrong.append(
                f'"mixture" is "official", whose order of samples leaves no room for "{others[0]}"; keep one of them'
            )


def _check_dataset(arguments: FinetuneArguments, wrong: list[str]) -> None:
    if arguments.data_path is not None:
        if arguments.dataset and arguments.dataset.get("train"):
            wrong.append('"data_path" and "dataset.train" both name training data; keep one of them')
    for part, entries in (arguments.dataset or {}).items():
        if part not in ("train", "eval"):
            wrong.append(f'"dataset" has a part "{part}"; it may have train and eval')
        elif not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            wrong.append(
                f'"dataset.{part}" must be a list of objects like {{"name": "mine", "data_files": "{part}.json"}}'
            )
        else:
            for index, entry in enumerate(entries):
                _check_dataset_entry(f"dataset.{part}[{index}]", entry, wrong)
    has = {part: bool((arguments.dataset or {}).get(part)) for part in ("train", "eval")}
    if arguments.do_train and not has["train"] and arguments.data_path is None:
        wrong.append(
            'training data is missing: set "dataset": {"train": [{"name": ..., "data_files": ...}]} or "data_path"'
        )
    if not has["eval"] and (arguments.do_eval or arguments.evaluation_strategy != "no"):
        asked = "do_eval" if arguments.do_eval else "evaluation_strategy"
        wrong.append(
            f'"{asked}" asks for evaluation, but "dataset" has no eval; add it, or set evaluation_strategy to no'
        )


_ENTRY_KEYS = {
    "name": (str,),
    "data_files": (str, list[str]),
    "image_folder": (str, types.NoneType),
    "num_samples": (int, types.NoneType),
    "ratio": (float, types.NoneType),
}
_ENTRY_NEUTRAL = {"chat_template": NEUTRAL["chat_template"]}


def _check_dataset_entry(place: str, entry: dict, wrong: list[str]) -> None:
    for name, value in entry.items():
        if name in _ENTRY_NEUTRAL:
            if value not in (None, *_ENTRY_NEUTRAL[name].values):
                wrong.append(f'"{place}.{name}": {json.dumps(value)}: {_ENTRY_NEUTRAL[name].otherwise}')
        elif name not in _ENTRY_KEYS:
            nearest = max(_ENTRY_KEYS, key=lambda other: difflib.SequenceMatcher(None, name, other).ratio())
            wrong.append(f'unknown key "{name}" in {place}; did you mean "{nearest}"?')
        elif not any(_is(value, kind) for kind in _ENTRY_KEYS[name]):
            expected = " or ".join(_SPOKEN[kind] for kind in _ENTRY_KEYS[name])
            wrong.append(f'"{place}.{name}" is {json.dumps(value)}, expected {expected}')
    if not entry.get("data_files"):
        wrong.append(f'"{place}.data_files" is missing: the JSON file or files')
    _check_quota(place, entry, wrong)


def _check_quota(place: str, entry: dict, wrong: list[str]) -> None:
    given = [name for name in ("num_samples", "ratio") if entry.get(name) is not None]
    if len(given) == 2:
        wrong.append(f'"{place}" has both num_samples and ratio; keep one of them')
    for name in given:
        if any(_is(entry[name], kind) for kind in _ENTRY_KEYS[name]) and entry[name] <= 0:
            wrong.append(f'"{place}.{name}" is {json.dumps(entry[name])}, but must be above 0')
    if given and place.startswith("dataset.eval"):
        wrong.append(
            f'"{place}.{given[0]}": all of the evaluation data is evaluated; leave it out, or set max_evaluate_steps'
        )

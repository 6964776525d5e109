"""What a run is going to do, said before it does it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import paddle

from paddle_xc2.data.encode import Example
from paddle_xc2.data.findings import finding_lines
from paddle_xc2.data.marked_text import marked_pieces
from paddle_xc2.data.mixture import Mixture, OfficialMixture
from paddle_xc2.data.samples import Samples
from paddle_xc2.data.step_order import Layout, StepOrder
from paddle_xc2.families.config import XComposer2Config
from paddle_xc2.messages import GREEN, NUM_LISTED, PLAIN, and_more, counted
from paddle_xc2.models.loss import CHUNK_ELEMENTS
from paddle_xc2.models.nf4 import NUM_BYTES as NF4_BYTES
from paddle_xc2.training.arguments import COURSE, LORA_COURSE, FinetuneArguments
from paddle_xc2.training.learning.parts import PART_LEARNING_RATES, trainable_table
from paddle_xc2.training.outcome import few_steps_line
from paddle_xc2.training.run_folder.start import BASE, EVALUATION, PICTURES, Start
from paddle_xc2.training.sample_answers import Question

PADDLE_BYTES = 550_000_000  # what a process has when Paddle, PaddleNLP and what they bring are imported: measured
_MUCH_PADDING = 0.2  # of what is computed: worth saying how to avoid it


@dataclass(frozen=True)
class Plan:
    """A run, as far as it is decided before the model is loaded.

    Attributes:
        arguments: of the run.
        precision: "float32", "bfloat16" or "float16".
        start: where it begins.
        train: samples to train on, or None if the run only evaluates.
        evaluation: samples to evaluate on, or None.
        num_processes, rank: that train together, and which of them this is.
        questions: sample questions, to be asked before, during and after training.
        base: `model_identity` of the model that LoRA trains on.
    """

    arguments: FinetuneArguments
    precision: str
    start: Start
    train: Samples | None
    evaluation: Samples | None
    num_processes: int = 1
    rank: int = 0
    questions: tuple[Question, ...] = ()
    base: str | None = None

    @cached_property
    def asked(self) -> list[int]:
        """Samples of an epoch, of each data set."""
        usable = self.train.usable_records.tolist()
        return [dataset.spec.asked_of(number) for dataset, number in zip(self.train.datasets, usable, strict=True)]

    @cached_property
    def mixture(self) -> Mixture | OfficialMixture:
        arguments, train = self.arguments, self.train
        if arguments.mixture == "official":
            with_images = [dataset.starts_with_image for dataset in train.datasets]
            batch_size = arguments.per_device_train_batch_size
            return OfficialMixture(train.dataset_of, self.asked, with_images, batch_size, arguments.seed)
        return Mixture(train.dataset_of, self.asked, arguments.seed)

    @cached_property
    def layout(self) -> Layout:
        """How samples become steps. Raises: ValueError if a sample alone exceeds max_tokens_per_batch."""
        arguments, limit = self.arguments, self.arguments.max_tokens_per_batch
        lengths = self.train.lengths[:, 0]
        if limit is not None and lengths.max() > limit:
            longest = self.train.conversations[int(lengths.argmax())].source
            raise ValueError(
                f"{longest}: the sample has {lengths.max()} tokens, more than max_tokens_per_batch {limit}; "
                "raise it, or lower max_length"
            )
        by_tokens = limit is not None and not arguments.mixtoken
        batches_per_step = arguments.gradient_accumulation_steps * self.num_processes
        groups = "length" if arguments.group_by_length else "none"
        return Layout(
            rows_per_step=batches_per_step * (1 if by_tokens else arguments.per_device_train_batch_size),
            row_tokens=(limit or self.train.max_length) if arguments.mixtoken else None,
            batch_tokens=limit if by_tokens else None,
            grouping="modality" if arguments.group_by_modality_length else groups,
            drop_last=arguments.dataloader_drop_last,
            largest_first=arguments.mixture != "official",
        )

    @cached_property
    def order(self) -> StepOrder:
        train = self.train
        return StepOrder(self.mixture, train.lengths[:, 0], train.has_image, self.layout, self.arguments.seed)

    @cached_property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run; a begun one counts."""
        if self.arguments.max_steps > 0:
            return self.arguments.max_steps
        return self.order.steps_in(self.arguments.num_train_epochs)

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises; a begun one counts, as in Hugging Face's Trainer."""
        if self.arguments.lr_scheduler_type == "constant":
            return 0
        return self.arguments.warmup_steps or math.ceil(self.arguments.warmup_ratio * self.num_steps)

    @property
    def computes_in_half(self) -> bool:
        return self.precision != "float32"

    @property
    def weight_dtype(self) -> str:
        """What is computed in, and what is frozen is stored in; what learns is float32 (training/optimizer.py)."""
        return self.precision if self.arguments.fp16_opt_level == "O2" else "float32"

    @cached_property
    def course(self) -> dict:
        """Everything that decides how the run goes, as JSON values.

        How the samples of a step are spread over batches and processes is not in it: that changes last digits only.
        """
        return {
            "training data": self.train.fingerprint,
            "samples of each data set": self.asked,
            f"{'batches' if self.layout.batch_tokens else 'rows'} per step": self.layout.rows_per_step,
            "tokens per row": self.layout.row_tokens,
            "steps": self.num_steps,
            "warm-up steps": self.warmup_steps,
            "precision": self.precision,
            **{name: getattr(self.arguments, name) for name in COURSE},
            "lora": self.arguments.lora or None,
            **{name: getattr(self.arguments, name) for name in LORA_COURSE if self.arguments.lora},
            PICTURES: self.train.contents,
            **({BASE: self.base} if self.arguments.lora else {}),
            **({EVALUATION: self._evaluation_data} if self.arguments.load_best_model_at_end else {}),
        }

    @property
    def _evaluation_data(self) -> str:
        """Which step is the best one depends on it."""
        return f"{self.evaluation.fingerprint}-{self.evaluation.contents}"


def plan_lines(
    plan: Plan,
    config: XComposer2Config,
    learning: dict[str, tuple[int, int]],
    device: str,
    device_memory: int,
    token_rows: Sequence[str] = (),
) -> list[str]:
    """The plan as text.

    Args:
        config: of the model.
        learning: what `set_trainable` returned.
        device: name of what computes.
        device_memory: bytes that it has.
        token_rows: lines on which rows of the token tables learn.
    """
    arguments = plan.arguments
    first, *others = trainable_table(learning)
    rows = [
        ("model", f"{arguments.model_name_or_path} ({config.family.name}, {config.img_size} pixels)"),
        ("precision", f"{plan.precision} on {device}"),
        ("trained", first),
        *(("", line) for line in others),
        *_lora_rows(arguments),
        *(("" if index else "tokens", line) for index, line in enumerate(token_rows)),
        *_sample_rows("samples", plan.train),
        *_mixture_rows(plan),
        *(_sample_rows("evaluation", plan.evaluation) if plan.evaluation else ()),
        ("step", _step_line(plan)),
        ("", _filling_line(plan)),
        ("schedule", _schedule_line(plan)),
        *(("", line) for line in [few_steps_line(plan)] if line),
        ("checkpoints", _checkpoint_line(arguments)),
        *_memory_rows(expected_memory(plan, config, learning), device_memory),
    ]
    if plan.start.checkpoint:
        rows.append(("goes on", f"after step {plan.start.step}, from {plan.start.checkpoint}"))
    return [f"{name:<12} {text}".rstrip() for name, text in rows]


def _mixture_rows(plan: Plan) -> list[tuple[str, str]]:
    """What each data set gives to the first epoch, if there is anything to tell."""
    train = plan.train
    if len(train.datasets) == 1 and plan.asked == [len(train)] and plan.arguments.mixture is None:
        return []
    drawn = plan.mixture.draw(0)
    counts = np.bincount(train.dataset_of[drawn], minlength=len(plan.asked))
    unique = np.bincount(train.dataset_of[np.unique(drawn)], minlength=len(plan.asked))
    header = ("data set", "records", "asked", "drawn", "unique")
    table = [header] + [
        (dataset.spec.name, *(f"{number:,}" for number in numbers))
        for dataset, *numbers in zip(
            train.datasets,
            [dataset.num_records for dataset in train.datasets],
            plan.asked,
            counts.tolist(),
            unique.tolist(),
            strict=True,
        )
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    ]
    return [("an epoch", lines[0]), *(("", line) for line in lines[1:])]


def _lora_rows(arguments: FinetuneArguments) -> list[tuple[str, str]]:
    if not arguments.lora:
        return []
    rows = []
    if arguments.lora_path:
        rows += [("lora", f"goes on with {arguments.lora_path}, dropout {arguments.lora_dropout:g}")]
    else:
        kind = "DoRA" if arguments.use_dora else "LoRA"
        root = "sqrt(rank)" if arguments.rslora else "rank"
        targets = ", ".join(arguments.lora_target_modules or ["language_model"])
        told = f"{kind} of rank {arguments.lora_rank}, alpha {arguments.lora_alpha:g}"
        if arguments.vit_lora_rank or arguments.vit_lora_alpha:
            rank, alpha = (
                getattr(arguments, f"vit_{key}") or getattr(arguments, key) for key in ("lora_rank", "lora_alpha")
            )
            told += f", of the vision encoder {rank} and {alpha:g}"
        told += f" (scaled by alpha / {root}), "
        rows += [("lora", f"{told}dropout {arguments.lora_dropout:g}, on {targets}")]
    if arguments.quantization:
        rows.append(("", "the decoder's linear layers stay as they are, in four bits: NF4, double quantization"))
    if arguments.lora_plus_scale != 1.0:
        rows.append(("", f"its second matrices learn {arguments.lora_plus_scale:g} times as fast (LoRA+)"))
    if arguments.train_plora or arguments.train_separators:
        rows.append(("", "PLoRA and separators are saved with the adapter, but PEFT does not read them: merge first"))
    return rows


def _step_line(plan: Plan) -> str:
    arguments, layout = plan.arguments, plan.layout
    first = plan.order.plan_of(0)
    tokens, image_tokens, trained = plan.train.lengths[first.samples].sum(axis=0) / len(first)
    num_samples = len(first.samples) / len(first)
    if layout.batch_tokens:
        batch = f"as many a batch as stay within {layout.batch_tokens:,} tokens"
    else:
        batch = f"{arguments.per_device_train_batch_size} a batch"
    if layout.row_tokens:
        rows = counted(layout.rows_per_step, "row")
        of = f"{rows} of up to {layout.row_tokens:,} tokens, about {num_samples:.1f} samples"
    elif layout.batch_tokens:
        of = f"about {num_samples:.1f} samples"
    else:
        of = counted(layout.rows_per_step, "sample")
        tokens, image_tokens, trained = plan.train.lengths[first.samples].mean(axis=0) * layout.rows_per_step
    return (
        f"{of} = {batch} x {arguments.gradient_accumulation_steps} accumulated x {plan.num_processes} "
        f"process{'es' if plan.num_processes > 1 else ''}; on average {tokens:,.0f} tokens, {image_tokens:,.0f} of "
        f"them image tokens, {trained:,.0f} trained"
    )


def _filling_line(plan: Plan) -> str:
    """What share of the computed tokens is padding."""
    first, lengths = plan.order.plan_of(0), plan.train.lengths[:, 0]
    arguments = plan.arguments
    computed = first.padded_tokens(lengths, arguments.per_device_train_batch_size, plan.num_processes)
    padding = 1 - int(lengths[first.samples].sum()) / computed
    told = f"{padding:.1%} of what is computed is padding"
    if plan.layout.row_tokens:
        capacity = plan.layout.row_tokens * len(first.row_ends)
        told += f"; rows are {int(lengths[first.samples].sum()) / capacity:.1%} full"
    elif padding > _MUCH_PADDING:
        told += "; mixtoken packs samples into full rows, group_by_length brings similar lengths together"
    return told


def _schedule_line(plan: Plan) -> str:
    arguments = plan.arguments
    length = counted(plan.num_steps, "step")
    if arguments.max_steps < 1:
        length += f" in {arguments.num_train_epochs:g} epoch{'' if arguments.num_train_epochs == 1 else 's'}"
    return (
        f"{length}, {plan.warmup_steps} of warm-up, then {arguments.lr_scheduler_type} from learning rate "
        f"{arguments.learning_rate:g}{_part_rates(arguments)}; AdamW, "
        f"weight decay {arguments.weight_decay:g}, seed {arguments.seed}"
    )


def _part_rates(arguments: FinetuneArguments) -> str:
    rates = {part: getattr(arguments, key) for part, key in PART_LEARNING_RATES.items()}
    told = [f"{part} {rate:g}" for part, rate in rates.items() if rate is not None]
    return f" ({', '.join(told)})" if told else ""


def _checkpoint_line(arguments: FinetuneArguments) -> str:
    steps = "every step" if arguments.save_steps == 1 else f"every {arguments.save_steps} steps"
    often = {"no": "none", "epoch": "every epoch", "steps": steps}[arguments.save_strategy]
    if arguments.save_strategy != "no" and arguments.save_total_limit:
        often += f", the newest {arguments.save_total_limit} kept"
    return f"{often}, in {arguments.output_dir}"


def _memory_rows(parts: dict[str, float], device_memory: int) -> list[tuple[str, str]]:
    total = sum(parts.values())
    detail = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items())
    rows = [("memory", f"about {_bytes(total)} a process: {detail} (of the longest batch, roughly)")]
    if total > device_memory:
        rows.append(("", f"this is more than the {_bytes(device_memory)} of the device: it will most likely run out"))
    return rows


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def expected_memory(plan: Plan, config: XComposer2Config, learning: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Bytes that training takes in one process, by what takes them."""
    num_parameters = sum(size for _, size in learning.values())
    num_learning = sum(size for size, _ in learning.values())
    num_quantized = num_decoder_weights(config) if plan.arguments.quantization else 0
    stored = 4 if plan.weight_dtype == "float32" else 2
    # What learns is float32. Cast for a product, it is kept for the backward pass, unless that computes it again.
    casts = num_learning * stored if stored < 4 and not plan.arguments.recompute else 0
    num_tokens = _largest_batch(plan)
    # What a decoder layer keeps for the backward pass, per token: fitted to the peaks of 10 float32 steps on a CPU
    # (hidden 256 and 512, intermediate 704 to 2816, 4 and 8 layers, 1024 and 2048 tokens), which it gives within 12 %.
    # In 16 bits, norms and rotary angles stay float32, hence three bytes a number: that is not measured.
    per_token = 16 * config.hidden_size + 5.6 * config.intermediate_size + 19 * config.family.plora_rank
    layer = num_tokens * per_token * (3 if plan.computes_in_half else 4)
    between_layers = num_tokens * config.hidden_size * (2 if plan.computes_in_half else 4)
    num_layers = config.num_hidden_layers
    loss = 3 * 4 * min(num_tokens * config.vocab_size, CHUNK_ELEMENTS)
    # Dequantizing holds one layer's weight at a time.
    dense = config.hidden_size * config.intermediate_size * stored if num_quantized else 0
    return {
        "weights": (num_parameters - num_learning - num_quantized) * stored
        + num_learning * 4
        + num_quantized * NF4_BYTES
        + dense
        + casts,
        "gradients": num_learning * 4,
        "optimizer": num_learning * 8,  # two moments
        "activations": loss + (layer + num_layers * between_layers if plan.arguments.recompute else num_layers * layer),
        **({"Paddle itself": PADDLE_BYTES} if paddle.get_device() == "cpu" else {}),  # on a GPU, the host has it
    }


def _largest_batch(plan: Plan) -> int:
    """Tokens of the largest batch, padding included."""
    layout = plan.layout
    longest = layout.row_tokens or int(plan.train.lengths[:, 0].max())
    return layout.batch_tokens or longest * plan.arguments.per_device_train_batch_size


def num_decoder_weights(config: XComposer2Config) -> int:
    """Numbers in the decoder's linear layers, PLoRA not among them: what `quantization` stores in four bits."""
    attention = (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    return config.num_hidden_layers * config.hidden_size * (attention + 3 * config.intermediate_size)


def _sample_rows(name: str, samples: Samples) -> list[tuple[str, str]]:
    tokens = samples.lengths[:, 0]
    rows = [(name, f"{len(samples):,}, {tokens.mean():,.0f} tokens on average, the longest {tokens.max():,}")]
    if samples.num_shortened:
        rows.append(("", f"{samples.num_shortened} of them lose their oldest turns to fit max_length"))
    rows += [("", str(note)) for note in samples.notes]
    if samples.bad:
        number = sum(finding.count for finding in samples.bad.values())
        rows.append(("", f"{counted(number, 'record')} can't be used and {'is' if number == 1 else 'are'} left out:"))
        rows += [("", f"  {line}") for line in finding_lines(samples.bad)]
    if samples.refused:
        rows.append(("", f"{len(samples.refused)} more are left out because they are too long:"))
        reasons = [*samples.refused[:NUM_LISTED], *and_more(len(samples.refused), NUM_LISTED)]
        rows += [("", f"  {reason}") for reason in reasons]
    return rows


def first_sample_text(example: Example, image_tokens: list[int], tokenizer, colour: bool) -> list[str]:
    """A sample as the model sees it, in pieces: special tokens included, images by their size, what is trained marked.

    Args:
        image_tokens: slots of each image, in order.
        colour: mark by colour; else by the brackets ⟦ ⟧.
    """
    opening, closing = (GREEN, PLAIN) if colour else ("⟦", "⟧")
    pieces = []
    for piece in marked_pieces(example, image_tokens, tokenizer):
        pieces += [opening, piece.text, closing] if piece.kind == "trained" else [piece.text]
    return pieces

"""A plan as text: what a run is going to do, said before it does it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddle_xc2.data.encode import Example
from paddle_xc2.data.findings import finding_lines
from paddle_xc2.data.marked_text import marked_pieces
from paddle_xc2.data.samples import Samples
from paddle_xc2.families.settings import BaseSettings
from paddle_xc2.messages import GREEN, NUM_LISTED, PLAIN, and_more, counted, sized
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.learning.parts import part_learning_rates, trainable_table
from paddle_xc2.training.memory import expected_memory
from paddle_xc2.training.outcome import few_steps_line
from paddle_xc2.training.plan import Plan

_MUCH_PADDING = 0.2  # of what is computed: worth saying how to avoid it


def plan_lines(
    plan: Plan,
    config: BaseSettings,
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
    if len(train.datasets) == 1 and plan.quotas == [len(train)] and plan.arguments.mixture is None:
        return []
    drawn = plan.mixture.draw(0)
    counts = np.bincount(train.dataset_of[drawn], minlength=len(plan.quotas))
    unique = np.bincount(train.dataset_of[np.unique(drawn)], minlength=len(plan.quotas))
    header = ("data set", "records", "asked", "drawn", "unique")
    table = [header] + [
        (dataset.spec.name, *(f"{number:,}" for number in numbers))
        for dataset, *numbers in zip(
            train.datasets,
            [dataset.num_records for dataset in train.datasets],
            plan.quotas,
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
        text = f"{kind} of rank {arguments.lora_rank}, alpha {arguments.lora_alpha:g}"
        if arguments.vit_lora_rank or arguments.vit_lora_alpha:
            rank, alpha = (
                getattr(arguments, f"vit_{key}") or getattr(arguments, key) for key in ("lora_rank", "lora_alpha")
            )
            text += f", of the vision encoder {rank} and {alpha:g}"
        text += f" (scaled by alpha / {root}), "
        rows += [("lora", f"{text}dropout {arguments.lora_dropout:g}, on {targets}")]
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
    text = f"{padding:.1%} of what is computed is padding"
    if plan.layout.row_tokens:
        capacity = plan.layout.row_tokens * len(first.row_ends)
        text += f"; rows are {int(lengths[first.samples].sum()) / capacity:.1%} full"
    elif padding > _MUCH_PADDING:
        text += "; mixtoken packs samples into full rows, group_by_length brings similar lengths together"
    return text


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
    rates = [f"{part.name} {rate:g}" for part, rate in part_learning_rates(arguments).items()]
    return f" ({', '.join(rates)})" if rates else ""


def _checkpoint_line(arguments: FinetuneArguments) -> str:
    steps = "every step" if arguments.save_steps == 1 else f"every {arguments.save_steps} steps"
    often = {"no": "none", "epoch": "every epoch", "steps": steps}[arguments.save_strategy]
    if arguments.save_strategy != "no" and arguments.save_total_limit:
        often += f", the newest {arguments.save_total_limit} kept"
    return f"{often}, in {arguments.output_dir}"


def _memory_rows(parts: dict[str, float], device_memory: int) -> list[tuple[str, str]]:
    total = sum(parts.values())
    detail = ", ".join(f"{name} {sized(size)}" for name, size in parts.items())
    rows = [("memory", f"about {sized(total)} a process: {detail} (of the longest batch, roughly)")]
    if total > device_memory:
        rows.append(("", f"this is more than the {sized(device_memory)} of the device: it will most likely run out"))
    return rows


def _sample_rows(name: str, samples: Samples) -> list[tuple[str, str]]:
    tokens = samples.lengths[:, 0]
    rows = [(name, f"{len(samples):,}, {tokens.mean():,.0f} tokens on average, the longest {tokens.max():,}")]
    if samples.num_shortened:
        rows.append(("", f"{samples.num_shortened} of them lose their oldest turns to fit max_length"))
    rows += [("", str(note)) for note in samples.notes]
    if samples.bad:
        number = counted(samples.num_bad, "record")
        rows.append(("", f"{number} can't be used and {'is' if samples.num_bad == 1 else 'are'} left out:"))
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

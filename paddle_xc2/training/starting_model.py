"""What a run starts from: its processor, its model with what learns beside it, and later the best state of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paddle_xc2.checkpoint.base_fingerprint import base_fingerprint, check_base
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.families.asked_as import AS_TRAINED
from paddle_xc2.files.local_path import local_path
from paddle_xc2.hub.find import resolve_model_path
from paddle_xc2.model import XComposer2ForCausalLM
from paddle_xc2.models.token_rows import merge_rows
from paddle_xc2.text.tokenizer import XComposer2Tokenizer, with_tokens_of_run
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.divergence import check_starting_weights
from paddle_xc2.training.learning.add_lora import add_lora, check_continues, continue_adapter
from paddle_xc2.training.learning.new_tokens import fresh_tokens, learn_token_rows, start_new_tokens
from paddle_xc2.training.plan import Plan
from paddle_xc2.training.run_folder.start import Start


def build_processor(
    arguments: FinetuneArguments, model_dir: Path, start: Start
) -> tuple[XComposer2Processor, XComposer2Tokenizer]:
    """What encodes the samples, and the tokenizer of what the run starts from, without what new_tokens adds.

    Raises: ValueError if new_tokens can't be tokens, or are new and nothing is trained.
    """
    processor = XComposer2Processor.from_pretrained(
        model_dir,
        max_length=arguments.max_length,
        hd_num=arguments.hd_num,
        truncation="turns" if arguments.truncation == "turns" else "refuse",
        image_size=arguments.img_size,
        pad_image_to_square=arguments.pad_image_to_square,
        exif=arguments.exif,
        background=arguments.background,
    )
    adapter = start.checkpoint or arguments.lora_path if arguments.lora else None
    processor.tokenizer, original = with_tokens_of_run(processor.tokenizer, adapter, arguments.new_tokens)
    if not arguments.do_train and fresh_tokens(processor.tokenizer, original, arguments.new_tokens or ()):
        raise ValueError(
            f'"new_tokens" are not all tokens of {arguments.lora_path or arguments.model_name_or_path}, and "do_train" '
            "is false: nothing teaches them; leave new_tokens out"
        )
    return processor, original


def load_model(
    plan: Plan, model_dir: Path, processor: XComposer2Processor, original: XComposer2Tokenizer
) -> XComposer2ForCausalLM:
    """The model in the state to start from. original: the tokenizer of that state."""
    arguments = plan.arguments
    if plan.start.checkpoint and not arguments.lora:
        model = XComposer2ForCausalLM.from_pretrained(plan.start.checkpoint, dtype=plan.weight_dtype)
    else:
        model = XComposer2ForCausalLM.from_pretrained(
            model_dir, dtype=plan.weight_dtype, img_size=arguments.img_size, quantize=arguments.quantization
        )
    is_base = not model.has_adapter  # else nothing is trained
    if arguments.lora and plan.train:
        model.provenance.fingerprint = base_fingerprint(model_dir)  # now: it may be gone when an adapter is saved
    if arguments.lora and (adapter := plan.start.checkpoint or arguments.lora_path):
        if is_base:
            check_base(resolve_model_path(adapter), model_dir, "as model_name_or_path", model.provenance.fingerprint)
        continue_adapter(model, resolve_model_path(adapter), arguments)
        if not plan.start.checkpoint:
            check_continues(model, adapter, arguments)
    elif arguments.lora and plan.train:
        add_lora(model, arguments)
    if plan.train and not plan.start.checkpoint:  # what checkpoints hold has begun already
        if arguments.train_embeddings:
            merge_rows(model)  # those of lora_path: whole tables hold all rows
        if arguments.lora and not arguments.train_embeddings:
            learn_token_rows(model, processor.tokenizer, arguments, plan.train, original)
        else:
            start_new_tokens(model, processor.tokenizer, original, arguments.new_tokens or ())
    check_starting_weights(model, plan.start.checkpoint or arguments.lora_path or model_dir)
    if processor.tokenizer is not original:
        model.provenance.tokenizer = processor.tokenizer
    # Tokenizer and the like are copied from it when saving; a checkpoint may be gone by then.
    model.provenance.directory = model_dir
    is_path = local_path(arguments.model_name_or_path).is_dir()
    model.provenance.name = None if is_path else arguments.model_name_or_path
    # So that chat lays out text and shows images as training did.
    replace(processor.asked_as, chat_layout=AS_TRAINED).record(model.config)
    if arguments.recompute:
        model.recompute_enable()
    else:
        model.recompute_disable()
    model.run_vision_always = plan.num_processes > 1
    return model

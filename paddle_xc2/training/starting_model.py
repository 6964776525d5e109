"""What a run starts from: its processor, and its model with what learns beside it; later on the best state of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from paddle_xc2 import model as front_door
from paddle_xc2.checkpoint.base_fingerprint import base_fingerprint, check_base
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.families.asked_as import AS_TRAINED
from paddle_xc2.hub.directory import ModelDirectory, open_model
from paddle_xc2.model import ModelVerbs
from paddle_xc2.models.token_rows import merge_rows
from paddle_xc2.text.base import BaseTokenizer
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.divergence import check_starting_weights
from paddle_xc2.training.learning.add_lora import add_lora, check_continues, continue_adapter
from paddle_xc2.training.learning.new_tokens import fresh_tokens, learn_token_rows, start_new_tokens
from paddle_xc2.training.plan import Plan
from paddle_xc2.training.run_folder.start import StartingPoint
from paddle_xc2.training.run_processor import run_processor


@dataclass(frozen=True)
class ModelSource:
    """Where the model of a run comes from, and what encodes its samples.

    Attributes:
        directory: of the model that model_name_or_path names.
        learned: what the run goes on with: a checkpoint of it, or the adapter that lora_path names; None for nothing.
        processor: of the run.
        original_tokenizer: of what the run starts from, without what new_tokens adds.
    """

    directory: ModelDirectory
    learned: ModelDirectory | None
    processor: XComposer2Processor
    original_tokenizer: BaseTokenizer


def find_model(arguments: FinetuneArguments, start: StartingPoint, weights: bool = True) -> ModelSource:
    """Finds the model, or fetches it, and builds its processor.

    Args:
        weights: as of `resolve_model_path`.
    Raises: FileNotFoundError if there is none; ValueError if new_tokens can't be tokens, or are new and nothing is
        trained.
    """
    directory = open_model(arguments.model_name_or_path, weights=weights)
    learned = start.checkpoint or (arguments.lora_path if arguments.lora else None)
    learned = None if learned is None else open_model(learned)
    processor, original = run_processor(arguments, directory, learned if arguments.lora else None)
    if not arguments.do_train and fresh_tokens(processor.tokenizer, original, arguments.new_tokens or ()):
        raise ValueError(
            f'"new_tokens" are not all tokens of {arguments.lora_path or arguments.model_name_or_path}, and "do_train" '
            "is false: nothing teaches them; leave new_tokens out"
        )
    return ModelSource(directory, learned, processor, original)


def load_starting_model(plan: Plan, source: ModelSource) -> ModelVerbs:
    """The model in the state to start from, with LoRA and rows of tokens where they learn.

    Raises: FileNotFoundError, ValueError for a checkpoint or an adapter that can't be used; for weights that are not
        finite.
    """
    arguments = plan.arguments
    if source.learned and not arguments.lora:
        model = front_door.load_model(source.learned, dtype=plan.weight_dtype)
    else:
        model = front_door.load_model(
            source.directory, dtype=plan.weight_dtype, img_size=arguments.img_size, quantize=arguments.quantization
        )
    if arguments.lora:
        _take_adapter(model, plan, source)
    if plan.train and not plan.start.checkpoint:  # what checkpoints hold has begun already
        _begin_tokens(model, plan, source)
    check_starting_weights(model, source.learned or source.directory)
    _note_origin(model, source)
    if arguments.recompute:
        model.recompute_enable()
    else:
        model.recompute_disable()
    model.run_vision_always = plan.num_processes > 1
    return model


def _take_adapter(model: ModelVerbs, plan: Plan, source: ModelSource) -> None:
    """Goes on with the adapter of the checkpoint or of lora_path, or begins one."""
    arguments, is_base = plan.arguments, not model.has_adapter
    if plan.train:
        model.provenance.fingerprint = base_fingerprint(source.directory)  # it may be gone when one is saved
    if source.learned:
        if is_base:  # else nothing is trained
            check_base(source.learned, source.directory, "as model_name_or_path", model.provenance.fingerprint)
        continue_adapter(model, source.learned, arguments)
        if not plan.start.checkpoint:
            check_continues(model, arguments.lora_path, arguments)
    elif plan.train:
        add_lora(model, arguments)


def _begin_tokens(model: ModelVerbs, plan: Plan, source: ModelSource) -> None:
    """Gives new tokens their first rows, and lets rows of tokens learn beside LoRA."""
    arguments, tokenizer, original = plan.arguments, source.processor.tokenizer, source.original_tokenizer
    if arguments.train_embeddings:
        merge_rows(model)  # those of lora_path: whole tables hold all rows
    if arguments.lora and not arguments.train_embeddings:
        learn_token_rows(model, tokenizer, arguments, plan.train, original)
    else:
        start_new_tokens(model, tokenizer, original, arguments.new_tokens or ())


def _note_origin(model: ModelVerbs, source: ModelSource) -> None:
    """Notes what is written beside the weights: tokenizer, source, and how the model is asked."""
    if source.processor.tokenizer is not source.original_tokenizer:
        model.provenance.tokenizer = source.processor.tokenizer
    # Tokenizer and the like are copied from it when saving; a checkpoint may be gone by then.
    model.provenance.directory = source.directory
    # So that chat lays out text and shows images as training did.
    replace(source.processor.asked_as, chat_layout=AS_TRAINED).record(model.config)

"""The model of a run without its weights: enough to say what the run would do and need."""

from __future__ import annotations

from dataclasses import replace

import paddle

from paddle_xc2.checkpoint.config_files import load_config
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.hub.weight_files import WEIGHT_SUFFIXES
from paddle_xc2.model import CLASSES, ModelVerbs, family_of
from paddle_xc2.training.learning.add_lora import add_lora, continue_adapter
from paddle_xc2.training.plan import Plan
from paddle_xc2.training.starting_model import ModelSource
from paddle_xc2.weights.load import build_without_memory
from paddle_xc2.weights.position_table import change_image_size


def model_of_shapes(plan: Plan, source: ModelSource) -> ModelVerbs:
    """The run's model, LoRA included, whose parameters have shapes and no values.

    Of the checkpoint only names and shapes of the tensors are read, and of a released one that isn't here not even
    these; an adapter to go on with is read whole. Rows of token tables, of which the values decide which learn, are not
    among what learns.

    Raises: ValueError, FileNotFoundError as loading the model would, but for values that are not looked at.
    """
    arguments = plan.arguments
    base = source.directory.base if source.directory.is_adapter else source.directory
    is_whole = not base.name or any(path.suffix in WEIGHT_SUFFIXES for path in base.path.rglob("*"))
    kind = CLASSES[family_of(base).network].model
    config = load_config(base, read_checkpoint(base) if is_whole else base.tensor_names(), kind.config_class)
    if arguments.img_size is not None:
        change_image_size(config, arguments.img_size)
    model = build_without_memory(kind, config, plan.weight_dtype)
    if arguments.lora:
        with paddle.LazyGuard():
            if source.learned is not None:
                continue_adapter(model, source.learned, arguments)
            else:
                # DoRA's norms come from values; one number for each output of a layer, they don't count.
                add_lora(model, replace(arguments, use_dora=False))
    return model

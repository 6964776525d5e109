"""Checkpoint directory -> model in memory."""

from __future__ import annotations

from pathlib import Path

import paddle

from paddle_xc2.configuration import XComposer2Config
from paddle_xc2.model_path import resolve_model_path
from paddle_xc2.models.clip_vit import resize_position_table
from paddle_xc2.models.xcomposer2 import XComposer2ForCausalLM
from paddle_xc2.weights.balance import balance
from paddle_xc2.weights.checkpoint_files import read_checkpoint
from paddle_xc2.weights.config_files import load_config
from paddle_xc2.weights.lazy_tensor import cast, check_dtype, prevailing_dtype
from paddle_xc2.weights.manifest import verify_manifest
from paddle_xc2.weights.name_map import POSITION_TABLE, layout_of


def load_model(
    path: str | Path, dtype: str | None = None, img_size: int | None = None, verify: bool = False
) -> XComposer2ForCausalLM:
    """A model with the weights of a checkpoint in any layout; tensor by tensor, and ready for inference (`eval`).

    Args:
        path: a directory or a released name.
        dtype: "float32", "bfloat16" or "float16"; None is the checkpoint's own, on a CPU float32.
        img_size: pixels, another image size than the checkpoint's: its position table is resized.
        verify: holds the files against the checkpoint's manifest first, which reads them twice.
    Raises: FileNotFoundError, or ValueError naming the file or the tensors: what is missing, damaged or doesn't fit.
    """
    directory = resolve_model_path(path)
    check_dtype(dtype)
    if verify:
        verify_manifest(directory)
    tensors = read_checkpoint(directory)
    config = load_config(directory, tensors)
    stored_rows = 1 + config.patches_per_side**2
    if img_size is not None:
        _change_image_size(config, img_size)
    if dtype is None:
        dtype = "float32" if paddle.device.get_device() == "cpu" else prevailing_dtype(tensors.values())
    config.dtype = dtype
    model = build_without_memory(config, dtype)
    shapes = parameter_shapes(model)
    shapes[POSITION_TABLE][0] = stored_rows
    fitting = balance(tensors, layout_of(tensors), shapes, directory).parameters
    parameters = dict(model.named_parameters())
    for name, tensor in fitting.items():
        if name == POSITION_TABLE and img_size is not None:
            table = paddle.to_tensor(tensor.load("float32", name))
            values = cast(resize_position_table(table, config.patches_per_side).numpy(), "float32", dtype, name)
        else:
            values = tensor.load(dtype, name)
        parameters[name].set_value(values)
    model.source_dir = directory
    model.eval()
    return model


def _change_image_size(config: XComposer2Config, img_size: int) -> None:
    """Raises: ValueError if the model can't have it."""
    if config.family.tiling and img_size != config.img_size:
        raise ValueError(
            f"img_size is {img_size}, but the tiles of {config.xc2_family} are always {config.img_size} pixels; "
            "leave img_size out, hd_num says how many tiles an image may take"
        )
    config.img_size = img_size
    config.check()


def build_without_memory(config: XComposer2Config, dtype: str = "float32") -> XComposer2ForCausalLM:
    """A model whose parameters have shapes and no values yet; `set_value` gives them memory."""
    default = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        with paddle.LazyGuard():
            return XComposer2ForCausalLM(config)
    finally:
        paddle.set_default_dtype(default)


def parameter_shapes(model: XComposer2ForCausalLM) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}

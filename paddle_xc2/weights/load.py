"""Checkpoint directory -> model in memory."""

from __future__ import annotations

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle

from paddle_xc2 import runtime
from paddle_xc2.checkpoint.adapter_files import read_adapter
from paddle_xc2.checkpoint.balance import balance
from paddle_xc2.checkpoint.base_fingerprint import check_base
from paddle_xc2.checkpoint.config_files import load_config
from paddle_xc2.checkpoint.lazy_tensor import (
    NUMPY_DTYPES,
    BlockBuffer,
    Fingerprint,
    LazyTensor,
    check_dtype,
    prevailing_dtype,
)
from paddle_xc2.checkpoint.manifest import verify_manifest
from paddle_xc2.checkpoint.names import names_of
from paddle_xc2.checkpoint.shapes import parameter_shapes
from paddle_xc2.checkpoint.shards import read_checkpoint, read_shard
from paddle_xc2.families.asked_as import take_settings
from paddle_xc2.families.settings import BaseSettings
from paddle_xc2.hub.directory import ModelDirectory, open_model
from paddle_xc2.hub.generation_settings import check_generation
from paddle_xc2.weights.load_adapter import load_adapter
from paddle_xc2.weights.position_table import change_image_size, resized_table
from paddle_xc2.weights.provenance import Provenance
from paddle_xc2.weights.quantize import check_quantization, fill_quantized, quantizable_layers


def load_checkpoint(
    cls,
    path: str | Path | ModelDirectory,
    dtype: str | None = None,
    img_size: int | None = None,
    verify: bool = False,
    quantize: str | None = None,
    base: str | Path | None = None,
):
    """A model with the weights of a checkpoint in any layout; tensor by tensor, and ready for inference (`eval`).

    Args:
        cls: a class of paddle_xc2/model.py, which is built.
        path: a directory, a released name, or what `open_model` gave. An adapter's directory is a
            model too: its base is loaded first.
        dtype: "float32", "bfloat16" or "float16"; None is the checkpoint's own, or what the device has in its place: a
            V100 float16, a CPU float32.
        img_size: pixels, another image size than the checkpoint's: its position table is resized.
        verify: holds the files against the checkpoint's manifest first, which reads them twice.
        quantize: "nf4" stores the linear layers of the decoder in four bits (models/nf4.py), each as it is read: the
            whole model is never in memory. What is left computes in `dtype`, and they too.
        base: of an adapter, if it is not where the adapter remembers it.
    Raises: FileNotFoundError, or ValueError naming the file or the tensors: what is missing, damaged or doesn't fit;
        for a base that is not the one that the adapter was trained on.
    """
    directory = open_model(path, base)
    check_dtype(dtype)
    check_quantization(quantize)
    if directory.is_adapter:
        return _load_with_adapter(cls, directory, dtype, img_size, verify, quantize)
    if directory.given_base is not None:
        raise ValueError(f"base {directory.given_base} is given, but {directory} is no adapter; leave it out")
    if verify:
        verify_manifest(directory)
    stored = dtype or prevailing_dtype(read_checkpoint(directory).values())  # headers only
    dtype = runtime.choose_weight_dtype(stored, dtype)
    tensors = read_checkpoint(directory, dtype)
    config = load_config(directory, tensors, cls.config_class)
    check_generation(directory.llm)
    shapes, names = parameter_shapes(config), names_of(config.family)  # as they are stored
    if img_size is not None:
        change_image_size(config, img_size)
    config.dtype = dtype
    fitting = balance(tensors, names, names.layout_of(tensors), shapes, directory.path).parameters
    model = build_without_memory(cls, config, dtype)  # of sizes that the files have been seen to hold
    parameters = dict(model.named_parameters())
    quantizable = quantizable_layers(model) if quantize else {}
    if img_size is not None and names.resized is not None:
        fitting[names.resized] = resized_table(fitting[names.resized], config.patches_per_side, names.resized)
    for name in [name for name in fitting if name in quantizable]:
        fill_quantized(model, name, fitting.pop(name))
    _fill_all({name: (parameters[name], tensor) for name, tensor in fitting.items()}, dtype)
    model.provenance = Provenance(directory, quantization=quantize)
    model.eval()
    return model


def _load_with_adapter(cls, directory: ModelDirectory, dtype, img_size, verify, quantize):
    base = directory.base
    adapter = read_adapter(directory, read_shard)  # before the base, which takes longer
    fingerprint = check_base(directory, base)
    settings = directory.origin.settings
    if img_size is None:
        img_size = settings.get("img_size")
    model = load_checkpoint(cls, base, dtype, img_size, verify, quantize)
    take_settings(model.config, settings)
    model.provenance.fingerprint = fingerprint
    load_adapter(model, directory, adapter)
    return model


def _fill_all(pairs: dict, dtype: str) -> None:
    """Gives parameters memory and values. pairs: (parameter, LazyTensor) by name.

    On a CPU two at a time: most of it is that the system clears new memory, page by page, for the one who asks.
    """
    if not paddle.device.get_device().startswith("cpu"):
        for name, (parameter, tensor) in pairs.items():
            _fill(parameter, tensor, dtype, name)
        return
    threads = ThreadPoolExecutor(2)
    try:
        started = [threads.submit(_fill, *pair, dtype, name) for name, pair in pairs.items()]
        for one in started:
            one.result()
    finally:
        threads.shutdown(cancel_futures=True)  # of what is interrupted, or damaged, no more is read


def _fill(parameter, tensor: LazyTensor, dtype: str, name: str) -> None:
    """Gives a parameter memory, and puts the values there; `set_value` would hold all of them twice."""
    memory = paddle.empty(parameter.shape, dtype)
    if memory.place.is_cpu_place():
        tensor.load_into(_numpy_view(memory, dtype), dtype, name)
    else:
        _copy_blocks(memory, tensor, dtype, name)
    memory._share_buffer_to(parameter)


def _copy_blocks(memory, tensor: LazyTensor, dtype: str, name: str) -> None:
    """Fills a Paddle tensor on any device; the host holds two blocks of the values at most."""
    start = 0
    for block in tensor.blocks(dtype, name, BlockBuffer(), Fingerprint()):
        memory._slice(start, start + len(block)).copy_(paddle.to_tensor(block), True)
        start += len(block)


def _numpy_view(tensor, dtype: str) -> np.ndarray:
    """The memory of a Paddle tensor on the CPU, valid while the tensor is; Paddle itself gives copies only."""
    num_bytes = math.prod(tensor.shape) * NUMPY_DTYPES[dtype].itemsize
    memory = (ctypes.c_char * num_bytes).from_address(tensor.data_ptr())
    return np.frombuffer(memory, NUMPY_DTYPES[dtype]).reshape(tensor.shape)


def build_without_memory(cls, config: BaseSettings, dtype: str = "float32"):
    """A model of the class whose parameters have shapes and no values yet, and no memory."""
    default = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        with paddle.LazyGuard():
            return cls(config)
    finally:
        paddle.set_default_dtype(default)

"""Shapes of a model's parameters from its settings alone: files are converted without building a model."""

from __future__ import annotations

from paddle_xc2.checkpoint.qwen_vl_shapes import qwen_vl_shapes
from paddle_xc2.checkpoint.xcomposer2_shapes import xcomposer2_shapes
from paddle_xc2.families.settings import BaseSettings

SHAPES = {"xcomposer2": xcomposer2_shapes, "qwen_vl": qwen_vl_shapes}  # by Family.network


def parameter_shapes(config: BaseSettings) -> dict[str, list[int]]:
    """Of every parameter by its name, in the model's order; tests hold them against the model itself."""
    return SHAPES[config.family.network](config)

"""Shapes of the parameters of common layers, by their names."""

from __future__ import annotations


def linear(name: str, inputs: int, outputs: int) -> dict[str, list[int]]:
    """Of a linear layer with a bias."""
    return {f"{name}.weight": [inputs, outputs], f"{name}.bias": [outputs]}


def layer_norm(name: str, size: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [size], f"{name}.bias": [size]}

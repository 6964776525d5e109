"""Shapes from the settings are those of the model, in every family."""

import pytest

from paddle_xc2.checkpoint.shapes import parameter_shapes
from paddle_xc2.families.settings import ModelSettings
from paddle_xc2.families.table import FAMILIES
from paddle_xc2.model import CLASSES
from paddle_xc2.weights.load import build_without_memory
from tests.tiny import tiny_config


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_shapes_are_the_models(family):
    # Sizes that differ wherever two dimensions may: a swapped pair shows.
    config = tiny_config(xc2_family=family, img_size=None, num_hidden_layers=2)
    model = build_without_memory(CLASSES[config.family.network].model, config)
    expected = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    assert parameter_shapes(config) == expected


def test_released_sizes():
    shapes = parameter_shapes(ModelSettings(xc2_family="xcomposer2-vl-7b"))
    assert shapes["model.layers.31.attention.wqkv.linear.weight"] == [4096, 6144]
    assert shapes["model.layers.0.feed_forward.w2.plora_a.weight"] == [14336, 256]
    assert shapes["vit.position_embedding.weight"] == [1226, 1024]
    assert shapes["output.weight"] == [4096, 92544]

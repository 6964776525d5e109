"""Adapters on one base, one of which is on at a time: changing from one to another copies no weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import paddle
from paddle import nn
from paddle.base.framework import EagerParamBase

from paddle_xc2.models.lora import layer_at, lora_layers, replace_layer
from paddle_xc2.models.token_rows import row_layers
from paddle_xc2.weights.load_adapter import load_adapter, unload_adapter
from paddle_xc2.weights.provenance import AdapterReport


@dataclass
class _Parts:
    """What of a model an adapter puts in another's place.

    Attributes:
        layers: by path.
        parameters: those that it holds whole, by path.
    """

    layers: dict[str, nn.Layer] = field(default_factory=dict)
    parameters: dict[str, EagerParamBase] = field(default_factory=dict)


class SwitchedAdapters:
    """Args:
    model: XComposer2ForCausalLM without an adapter, which nobody else puts one on.
    """

    def __init__(self, model):
        self._model = model
        self._parts: dict[str, _Parts] = {}
        self._base: dict[str, _Parts] = {}  # what each of them replaces
        self._current: str | None = None

    def load(self, name: str, directory) -> AdapterReport:
        """Reads an adapter; it is not on yet. Raises: as `load_adapter`."""
        self.use(None)
        report = load_adapter(self._model, directory)
        layers = lora_layers(self._model) | row_layers(self._model)
        replaced = {path: _parameter(self._model, path) for path in self._model.provenance.replaced}
        with paddle.no_grad():
            copies = {path: EagerParamBase.from_tensor(value.clone()) for path, value in replaced.items()}
        unload_adapter(self._model)
        self._parts[name] = _Parts(layers, copies)
        self._base[name] = _Parts({path: layer_at(self._model, path) for path in layers}, replaced)
        return report

    def use(self, name: str | None) -> None:
        """Puts an adapter on in place of what is on; None is the base alone."""
        if name == self._current:
            return
        if self._current is not None:
            self._put(self._base[self._current])
        if name is not None:
            self._put(self._parts[name])
        self._current = name

    def _put(self, parts: _Parts) -> None:
        for path, layer in parts.layers.items():
            replace_layer(self._model, path, layer)
        for path, parameter in parts.parameters.items():
            owner, _, attribute = path.rpartition(".")
            (layer_at(self._model, owner) if owner else self._model)._parameters[attribute] = parameter


def _parameter(model, path: str):
    owner, _, attribute = path.rpartition(".")
    return (layer_at(model, owner) if owner else model)._parameters[attribute]

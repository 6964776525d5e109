"""XComposer2Config: the settings of a model as PaddleNLP wants to have them."""

from __future__ import annotations

from paddlenlp.transformers import PretrainedConfig

from paddle_xc2.model_settings import ModelSettings


class XComposer2Config(ModelSettings, PretrainedConfig):
    """Configuration of an XComposer2 model; arguments and checks are those of `ModelSettings`."""

    model_type = "internlmxcomposer2"

    def _keep(self, others: dict) -> None:
        PretrainedConfig.__init__(self, **others)

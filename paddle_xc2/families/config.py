"""The settings of a model as PaddleNLP wants to have them: a class for each kind of settings."""

from __future__ import annotations

from paddlenlp.transformers import PretrainedConfig

from paddle_xc2.families.qwen_vl_settings import QwenVLSettings, qwen_vl_settings
from paddle_xc2.families.settings import ModelSettings
from paddle_xc2.families.upstream_settings import settings_of


class XComposer2Config(ModelSettings, PretrainedConfig):
    """Configuration of an XComposer2 model; arguments and checks are those of `ModelSettings`."""

    model_type = "internlmxcomposer2"

    def _keep(self, others: dict) -> None:
        PretrainedConfig.__init__(self, **others)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> XComposer2Config:
        """The content of a config.json, upstream's or ours, with the keys that this package has no use for."""
        settings = settings_of(config_dict, "config.json")
        others = {name: value for name, value in config_dict.items() if not cls.is_taken(name)}
        return super().from_dict({**others, **settings}, **kwargs)


class QwenVLConfig(QwenVLSettings, PretrainedConfig):
    """Configuration of a Qwen-VL model; arguments and checks are those of `QwenVLSettings`."""

    model_type = "qwen"

    def _keep(self, others: dict) -> None:
        PretrainedConfig.__init__(self, **others)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> QwenVLConfig:
        """The content of a config.json, upstream's or ours, with the keys that this package has no use for."""
        settings = qwen_vl_settings(config_dict, "config.json")
        others = {name: value for name, value in config_dict.items() if not cls.is_taken(name)}
        return super().from_dict({**others, **settings}, **kwargs)

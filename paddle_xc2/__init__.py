"""InternLM-XComposer2 on PaddlePaddle: convert, fine-tune, chat.

Importing this package is cheap: Paddle is imported when one of the names below is first used.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "XComposer2Config": "paddle_xc2.families.config",
    "XComposer2ForCausalLM": "paddle_xc2.model",
    "XComposer2Tokenizer": "paddle_xc2.text.tokenizer",
    "XComposer2Processor": "paddle_xc2.data.processor",
    "QwenVLConfig": "paddle_xc2.families.config",
    "QwenVLForCausalLM": "paddle_xc2.model",
    "QwenVLTokenizer": "paddle_xc2.text.qwen_tokenizer",
    "QwenVLProcessor": "paddle_xc2.data.qwen_processor",
    "load_model": "paddle_xc2.model",
    "load_processor": "paddle_xc2.model",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name):
    if name in _HOME:
        import_module("paddle_xc2.runtime").prepare_environment()  # best done before Paddle is imported
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)

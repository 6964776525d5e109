"""Small things that the tests compute with, made on the spot: no download, no file outside the test's own folder."""

import base64
import functools
import io
import json
from pathlib import Path

import sentencepiece

from examples.demo.small_checkpoint import move_pieces_to_end
from paddle_xc2.families.special_tokens import TURN_END, TURN_START

TINY_VOCAB_SIZE = 400

_TEXTS = (
    "What is in the picture?\nThe picture shows the digit 7.",
    "Which digit is larger, the first or the second?\nThe second digit, 9, is larger than 4.",
    "user\nPlease describe this image in detail.\nassistant\nIt is a picture of a small red house near the river.",
    "system\nYou are an assistant that looks at images and answers questions about them in English and Chinese.",
    "图中是哪个数字？\n图中的数字是 3。",
    "请描述这张图片。\n这张图片里有一座红色的小房子。",
    "0 1 2 3 4 5 6 7 8 9 10, 12.50; (yes) and [no]: it's \"quoted\" - that's all!",
)


@functools.lru_cache
def _tiny_tokenizer_model(num_unused: int) -> bytes:
    """A BPE model like InternLM2's: identity normaliser, no dummy prefix, byte fallback, <unk> <s> </s> = 0 1 2.

    [UNUSED_TOKEN_145] and [UNUSED_TOKEN_146] are its last two pieces, as in the released one, after `num_unused` others
    of their kind.
    """
    turn_pieces = (*(f"[UNUSED_TOKEN_{index}]" for index in range(num_unused)), TURN_END, TURN_START)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXTS),
        model_writer=model,
        model_type="bpe",
        vocab_size=TINY_VOCAB_SIZE,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=list(turn_pieces),
        num_threads=1,
        minloglevel=2,
    )
    # The trainer puts user-defined pieces first; InternLM2 has them last.
    return move_pieces_to_end(model.getvalue(), turn_pieces)


def tiny_tokenizer(directory, num_unused: int = 0) -> Path:
    """Writes the tokenizer.model of a vocabulary of TINY_VOCAB_SIZE pieces into `directory`; returns `directory`.

    Args:
        num_unused: pieces that are there for new tokens.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(_tiny_tokenizer_model(num_unused))
    return directory


_QWEN_MERGES = ("th", "in", "er", " t", " th", " the", "us", "user", "as", "an", "ant", "is", "ct", "re", "图中", "图")


def tiny_qwen_vocabulary() -> bytes:
    """A qwen.tiktoken of our own: the 256 bytes and a few pieces; behind it come Qwen's 217 special tokens."""
    pieces = [bytes([byte]) for byte in range(255, -1, -1)]  # a piece of one byte is not the id of that value
    pieces += [piece.encode() for piece in _QWEN_MERGES]
    return b"".join(base64.b64encode(piece) + f" {rank}\n".encode() for rank, piece in enumerate(pieces))


def tiny_qwen_config(**changes):
    """QwenVLConfig of a model that computes in milliseconds: 4 tokens an image, sizes that differ.

    Args:
        changes: arguments of QwenVLConfig to set otherwise; those of `visual` one by one as `visual_width` and so on.
            Those of XComposer2Config that it hasn't are left out.
    """
    from paddle_xc2.families.config import QwenVLConfig

    changes = {name: value for name, value in changes.items() if name not in ("vision_config", "plora_dropout")}
    visual = {"heads": 2, "image_size": 42, "layers": 2, "mlp_ratio": 1.75, "output_dim": 64, "patch_size": 14}
    visual |= {"width": 32, "n_queries": 4, "image_start_id": 256 + len(_QWEN_MERGES) + 214}
    visual |= {name[7:]: changes.pop(name) for name in list(changes) if name.startswith("visual_")}
    sizes = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 208,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "kv_channels": 16,
        "seq_length": 512,
        "initializer_range": 0.15,
        "visual": visual,
    }
    return QwenVLConfig(**{**sizes, **changes})


def tiny_config(**changes):
    """XComposer2Config of a model that computes in milliseconds: 4 tokens an image, grouped heads, sizes that differ.

    Args:
        changes: arguments of XComposer2Config to set otherwise. With Qwen-VL's `xc2_family`, of `tiny_qwen_config`.
    """
    from paddle_xc2.families.config import XComposer2Config

    if changes.get("xc2_family") == "qwen-vl":
        return tiny_qwen_config(**changes)
    vision = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {
        "vocab_size": TINY_VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "img_size": 28,
        # Large: with the released models' 0.02 a network this narrow computes next to nothing.
        "initializer_range": 0.15,
        "vision_config": vision,
    }
    return XComposer2Config(**{**sizes, **changes})


def tiny_model(seed=0, **changes):
    """Model of `tiny_config(**changes)` with random weights, in evaluation mode.

    A new PLoRA starts as zero; here it is drawn too, so that image tokens and text tokens differ.
    """
    import paddle

    from paddle_xc2.model import CLASSES

    paddle.seed(seed)
    config = tiny_config(**changes)
    model = CLASSES[config.family.network].model(config)
    for name, parameter in model.named_parameters():
        if name.endswith("plora_b.weight"):
            parameter.set_value(paddle.randn(parameter.shape) * 0.05)
        elif name.endswith("bias"):
            parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    model.eval()
    return model


def tiny_checkpoint(directory, seed=0, num_shards=2, num_unused=0, **changes) -> Path:
    """Writes `tiny_model` and `tiny_tokenizer` as upstream's checkpoints are laid out; returns `directory`.

    The language model's config.json knows nothing of the ViT, as upstream; its sizes stand in clip_vision_config.json.
    """
    directory = tiny_tokenizer(directory, num_unused)
    model = tiny_model(seed, **changes)
    config = model.config
    names = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "hidden_act", "bias", "rms_norm_eps", "initializer_range", "img_size", "max_length"),
        *("max_position_embeddings", "rope_theta", "rope_scaling", "bos_token_id", "eos_token_id", "pad_token_id"),
    )
    upstream = {name: getattr(config, name) for name in names}
    upstream["architectures"] = ["InternLMXComposer2ForCausalLM"]
    upstream["model_type"] = "internlm"
    upstream["torch_dtype"] = "float32"
    upstream["auto_map"] = {
        "AutoConfig": "configuration_internlm_xcomposer2.InternLMXcomposer2Config",
        "AutoModelForCausalLM": "modeling_internlm_xcomposer2.InternLMXComposer2ForCausalLM",
    }
    (directory / "config.json").write_text(json.dumps(upstream, indent=2), encoding="utf-8")
    (directory / "clip_vision_config.json").write_text(json.dumps(config.vision_config), encoding="utf-8")
    _write_as_upstream(directory, model, num_shards)
    return directory


def tiny_qwen_checkpoint(directory, seed=0, num_shards=2, **changes) -> Path:
    """Writes a tiny Qwen-VL with its tokenizer as upstream's checkpoints are laid out; returns `directory`."""
    from paddle_xc2.families.qwen_vl_settings import UPSTREAM_CONSTANTS

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model = tiny_model(seed, xc2_family="qwen-vl", **changes)
    settings = {name: getattr(model.config, name) for name in model.config.upstream_names()}
    content = {**UPSTREAM_CONSTANTS, **settings, "torch_dtype": "float32"}
    (directory / "config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    tiny_family_tokenizer(directory, "qwen-vl")
    _write_as_upstream(directory, model, num_shards)
    return directory


def tiny_family_tokenizer(directory, family: str):
    """The tokenizer that a tiny model of a family has, its files in `directory`."""
    from paddle_xc2.text.load_tokenizer import load_tokenizer

    if family == "qwen-vl":
        (Path(directory) / "qwen.tiktoken").write_bytes(tiny_qwen_vocabulary())
    else:
        tiny_tokenizer(directory)
    return load_tokenizer(directory)


def _write_as_upstream(directory: Path, model, num_shards: int) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    from paddle_xc2.checkpoint.names import names_of

    tensors = {}
    for name, parameter in model.named_parameters():
        hf_name, transpose = names_of(model.config.family).to_hf(name)
        value = parameter.numpy()
        tensors[hf_name] = np.ascontiguousarray(value.T) if transpose else value
    weight_map, size = {}, -(-len(tensors) // num_shards)
    for shard in range(num_shards):
        part = dict(list(tensors.items())[shard * size : (shard + 1) * size])
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": sum(value.nbytes for value in tensors.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")

"""config.json in both layouts.

Ours has upstream's keys, what upstream's code takes for granted (family, image size, sizes of the ViT), and under
"hf_config" the upstream file as it was, so that the way back restores it.
"""

from __future__ import annotations

from pathlib import Path

from paddle_xc2.checkpoint.xtuner import check_parts, known_part_files, part_files, read_part_files
from paddle_xc2.families.rope_settings import with_rope
from paddle_xc2.families.settings import UPSTREAM_CONSTANTS, BaseSettings, ModelSettings, VisionConfig
from paddle_xc2.families.upstream_settings import model_settings
from paddle_xc2.files.json_file import write_json
from paddle_xc2.hub.directory import CONFIG_FILE, VISION_CONFIG_FILE, ModelDirectory, opened
from paddle_xc2.messages import short_repr

_ROPE = ("rope_theta", "rope_scaling")
_DTYPE_KEYS = ("torch_dtype", "dtype")


def load_config(
    directory: str | Path | ModelDirectory, tensor_names=(), kind: type[BaseSettings] | None = None
) -> BaseSettings:
    """The configuration of a checkpoint in any layout; `hf_config` of it is upstream's config.json, or None.

    Args:
        tensor_names: of the checkpoint, which tell families apart.
        kind: of the result, for a model; None is the family's `settings_class`.
    Raises: FileNotFoundError, or ValueError for a broken file, an unsupported family, or sizes that contradict.
    """
    directory = opened(directory)
    path, content, original = directory.config_path, directory.config(), directory.own_config()
    if directory.is_paddlemix:
        original = _as_upstream(original)
        content = {**original, "vision_config": content.get("vision_config")}
    parts = read_part_files(directory)
    if "xc2_layout" in content:
        original = _object(content, "hf_config", path) or None
        parts = known_part_files(_object(content, "hf_part_files", path))
    config = model_settings(content, str(path), tensor_names, kind, hf_config=original, hf_part_files=parts)
    if config.family.in_parts:
        check_parts(parts, config, directory.path)
    if original is not None:  # else it would be found out when the model is written, after a training
        _settings_before(original, config, f"{path}: hf_config" if "xc2_layout" in content else str(path))
    return config


def _object(content: dict, name: str, path: Path) -> dict:
    value = content.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {name} is {short_repr(value)}, but must be an object; convert the checkpoint again")
    return value


def _as_upstream(content: dict) -> dict:
    """What upstream's config.json says, from PaddleMIX's. The rest of that is about PaddleMIX's own code."""
    taken = (*ModelSettings.upstream_names(), "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
    return {
        **UPSTREAM_CONSTANTS,
        **{name: content[name] for name in taken if name in content},
        # PaddleNLP's name of it is dtype, and it leaves float32 out.
        "torch_dtype": content.get("dtype") or content.get("torch_dtype") or "float32",
    }


def upstream_config(config: BaseSettings, dtype: str | None = None) -> dict:
    """config.json as upstream has it: the original, with the settings that have changed since.

    Args:
        dtype: "float32", "bfloat16" or "float16" of the weights written with it; None leaves what the original says.
    """
    original = getattr(config, "hf_config", None)
    settings = {name: getattr(config, name) for name in config.upstream_names()}
    if original is None:
        content = {
            **config.upstream_constants,
            **{name: value for name, value in settings.items() if value is not None},
        }
    else:
        before = _settings_before(original, config, CONFIG_FILE)
        changed = {name: value for name, value in settings.items() if value != getattr(before, name)}
        content = {**original, **{name: value for name, value in changed.items() if name not in _ROPE}}
        if not changed.keys().isdisjoint(_ROPE):
            content = with_rope(content, config.rope_theta, config.rope_scaling)
    return _with_dtype(content, dtype)


def _settings_before(original: dict, config: BaseSettings, source: str) -> BaseSettings:
    """What upstream's own config.json says of a model. Raises: ValueError as `model_settings`."""
    known = {"xc2_family": config.xc2_family, **config.beside_upstream}
    return model_settings({**original, **known}, source)


def _with_dtype(content: dict, dtype: str | None) -> dict:
    """A config.json that says this dtype in every spelling that it has: transformers' is `dtype` since version 5."""
    told = [name for name in _DTYPE_KEYS if content.get(name) is not None]
    if dtype is None and told and content[told[0]] != content[told[-1]]:
        dtype = content[told[0]]
    return content if dtype is None else {**content, **dict.fromkeys(told or _DTYPE_KEYS[:1], dtype)}


def converted_config(config: BaseSettings, dtype: str | None = None) -> dict:
    """config.json of a checkpoint in Paddle layout. Args: as `upstream_config`."""
    content = upstream_config(config, dtype)
    settings = {name: getattr(config, name) for name in config.upstream_names()}
    return {
        **content,
        # Whatever upstream's file leaves to a default: a converted checkpoint depends on nobody's.
        **{name: value for name, value in settings.items() if content.get(name) is None},
        "xc2_layout": "paddle",
        "xc2_family": config.xc2_family,
        "img_size": config.img_size,
        **config.beside_upstream,
        "hf_config": getattr(config, "hf_config", None) or content,
        **({"hf_part_files": part_files(config)} if config.family.in_parts else {}),
    }


def write_config(directory: Path, config: BaseSettings, to: str, dtype: str | None = None) -> None:
    """Writes config.json in layout `to`, and for upstream's the sizes of a ViT that is not CLIP ViT-L/14 beside it."""
    if to == "paddle":
        write_json(directory / CONFIG_FILE, converted_config(config, dtype))
        return
    content = upstream_config(config, dtype)
    write_json(directory / CONFIG_FILE, content)
    if config.family.in_parts:
        for name, part in part_files(config).items():
            write_json(directory / name, part)
        return
    vision_file = directory / VISION_CONFIG_FILE
    sizes = config.beside_upstream.get("vision_config")
    if sizes and "vision_config" not in content and config.vision != VisionConfig() and not vision_file.exists():
        write_json(vision_file, sizes)

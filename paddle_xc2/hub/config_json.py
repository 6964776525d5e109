"""Reads the config.json of a checkpoint directory, upstream's or ours."""

from __future__ import annotations

import re
from pathlib import Path

from paddle_xc2.families.llava_settings import clip_settings
from paddle_xc2.files.json_file import read_json
from paddle_xc2.hub.find import resolve_model_path

CONFIG_FILE = "config.json"
# Upstream has none; small reference checkpoints say their ViT's sizes in it.
VISION_CONFIG_FILE = "clip_vision_config.json"
# Folders of XTuner's LLaVA; the language model may also be at the root.
XTUNER_LLM, XTUNER_PROJECTOR, XTUNER_VISION = "llm", "projector", "visual_encoder"
ADAPTER_CONFIG_FILE = "adapter_config.json"  # PEFT's
PADDLENLP_ADAPTER_CONFIG_FILE = "lora_config.json"
_STATE_NAME = re.compile(r"checkpoint-(?P<step>\d{1,9})")  # what fine-tuning goes on from
ADAPTER_FACTS_FILE = "paddle_xc2_adapter.json"  # beside either: what they have no place for


def xtuner_folder(directory: Path, part: str) -> Path | None:
    """Folder of a part of XTuner's LLaVA: its own, or that of the model which its adapter was trained on; or None.

    Raises: FileNotFoundError if that model is not to be found.
    """
    if (directory / part).is_dir():
        return directory / part
    adapter_config = directory / f"{part}_adapter" / ADAPTER_CONFIG_FILE
    base = read_json(adapter_config).get("base_model_name_or_path") if adapter_config.is_file() else None
    if not base:
        return None
    return directory / base if (directory / base).is_dir() else resolve_model_path(base)


def config_path(directory: str | Path) -> Path:
    """config.json of a checkpoint: at the root, or that of XTuner's language model.

    Raises: FileNotFoundError if there is none.
    """
    directory = Path(directory)
    llm = directory if (directory / CONFIG_FILE).is_file() else xtuner_folder(directory, XTUNER_LLM)
    if llm is not None and (llm / CONFIG_FILE).is_file():
        return llm / CONFIG_FILE
    raise FileNotFoundError(
        f"{directory}: this is no checkpoint, it has no {CONFIG_FILE}; "
        + (newest_state(directory) or f"give the directory that holds {CONFIG_FILE} and the weights")
    )


def newest_state(directory: Path) -> str:
    """What to do with the folder of a run that has not ended, which holds no model itself; "" if it is none."""
    found = (_STATE_NAME.fullmatch(path.name) for path in directory.glob("*") if path.is_dir())
    steps = [int(name["step"]) for name in found if name]
    if not steps:
        return ""
    return f"it holds a run that has not ended; give {directory / f'checkpoint-{max(steps)}'}, its newest state"


def read_checkpoint_config(directory: str | Path) -> dict:
    """config.json of a checkpoint, completed with the sizes of its ViT where they stand in a file of their own.

    Raises: FileNotFoundError if the directory or its config.json is missing; ValueError for broken JSON, or a vision
        encoder that is not supported.
    """
    directory = Path(directory)
    config = read_json(config_path(directory))
    if config.get("vision_config") is not None:
        return config
    vision = xtuner_folder(directory, XTUNER_VISION)
    if (directory / VISION_CONFIG_FILE).is_file():
        config["vision_config"] = read_json(directory / VISION_CONFIG_FILE)
    elif vision is not None and (vision / CONFIG_FILE).is_file():
        config["vision_config"] = clip_settings(read_json(vision / CONFIG_FILE), str(vision / CONFIG_FILE))
        config["img_size"] = config["vision_config"].pop("image_size")
    return config


def read_tensor_names(directory: str | Path) -> tuple[str, ...]:
    """Names of the tensors of a sharded checkpoint, from its index; () where there is none.

    Raises: ValueError if the index is broken.
    """
    for index in sorted(Path(directory).glob("*.index.json")):
        weight_map = read_json(index).get("weight_map")
        if isinstance(weight_map, dict):
            return tuple(weight_map)
    return ()

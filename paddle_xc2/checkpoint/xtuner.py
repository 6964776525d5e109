"""XTuner's layout of a LLaVA: one folder for each part, under names of its own.

XTuner's `pth_to_hf` writes the language model to the root of the directory (or to llm/), the projector to projector/
and the vision encoder to visual_encoder/; of a part trained with LoRA, the adapter to llm_adapter/ or
visual_encoder_adapter/. Here the parts become one set of tensors under XComposer2's names, so that nothing else knows
of folders.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from paddle_xc2.checkpoint.adapter_files import Adapter, merge, read_adapter
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.families.llava_settings import CLIP_MEAN, CLIP_STD, check_pixels, check_projector, clip_settings
from paddle_xc2.families.settings import ModelSettings
from paddle_xc2.hub.directory import CONFIG_FILE, XTUNER_LLM, XTUNER_PROJECTOR, XTUNER_VISION, ModelDirectory


class Part(NamedTuple):
    """A folder of XTuner's, and how the names in it begin there and among XComposer2's tensors."""

    folder: str
    theirs: str
    ours: str


PARTS = (
    Part(XTUNER_VISION, "vision_model.", "vit.vision_tower.vision_model."),
    Part(XTUNER_PROJECTOR, "model.", "vision_proj."),
)
# Of every part, how the names of its tensors begin in XTuner's own model and among XComposer2's.
XTUNER_PREFIXES = {"llm": ("", ""), **{part.folder: (part.theirs, part.ours) for part in PARTS}}
# Files beside the weights of the parts; those of the language model are the checkpoint's own.
PART_FILES = (
    f"{XTUNER_PROJECTOR}/{CONFIG_FILE}",
    f"{XTUNER_VISION}/{CONFIG_FILE}",
    f"{XTUNER_VISION}/preprocessor_config.json",
)


def join_parts(directory: ModelDirectory, read_folder, read_shard, dtype: str | None = None) -> dict[str, LazyTensor]:
    """Every tensor of the model under XComposer2's names, with the adapters of its parts merged in.

    Args:
        read_folder: folder -> {name: tensor}.
        read_shard: file -> {name: tensor}.
        dtype: of the tensors that an adapter changes; None is each one's own.
    Raises: FileNotFoundError naming a folder that is missing; ValueError for a tensor that belongs to no part.
    """

    def trained(folder: ModelDirectory, part: str) -> dict[str, LazyTensor]:
        adapter = directory.folder(f"{part}_adapter")
        tensors = read_folder(folder)
        if not adapter.path.is_dir():
            return tensors
        return merge(tensors, read_adapter(adapter, read_shard), adapter.path, dtype)

    tensors = dict(trained(directory.llm, XTUNER_LLM))
    for part in PARTS:
        folder = directory.part(part.folder)
        if folder is None:
            raise FileNotFoundError(
                f"{directory}: there is no folder {part.folder}; XTuner saves only the parts that were trained, "
                f"copy {part.folder} of the model that the training started from"
                + (" (openai/clip-vit-large-patch14-336)" if part.folder == XTUNER_VISION else "")
            )
        for name, tensor in trained(folder, part.folder).items():
            if not name.startswith(part.theirs):
                raise ValueError(f"{folder}: holds {name}, expected only names that begin with {part.theirs}")
            tensors[part.ours + name.removeprefix(part.theirs)] = tensor
    return tensors


def split_parts(tensors: dict) -> dict[str, dict]:
    """{folder: {XTuner's name: tensor}} of tensors under XComposer2's names.

    "" is the root, with the language model.
    """
    folders: dict[str, dict] = {"": {}, **{part.folder: {} for part in PARTS}}
    for name, tensor in tensors.items():
        part = next((part for part in PARTS if name.startswith(part.ours)), Part("", "", ""))
        folders[part.folder][part.theirs + name.removeprefix(part.ours)] = tensor
    return folders


def read_part_files(directory: ModelDirectory) -> dict[str, dict]:
    """{file: content} of PART_FILES, as far as they exist."""
    return {name: directory.json(name) for name in PART_FILES if directory.has(name)}


def known_part_files(files: dict) -> dict[str, dict]:
    """Those of PART_FILES among what a config.json says the parts' files were: no other name is ever written to."""
    return {name: files[name] for name in PART_FILES if isinstance(files.get(name), dict)}


def check_parts(files: dict[str, dict], config: ModelSettings, directory: Path) -> None:
    """Raises: ValueError if the settings of a part ask for something that the model doesn't do."""
    projector, vision, pixels = PART_FILES
    if projector in files:
        check_projector(files[projector], str(directory / projector))
    if pixels in files:
        size = (
            clip_settings(files[vision], str(directory / vision))["image_size"] if vision in files else config.img_size
        )
        check_pixels(files[pixels], size, str(directory / pixels))


def part_files(config: ModelSettings) -> dict[str, dict]:
    """{file: content} of PART_FILES for a model: the originals where it has them, with the size of its images."""
    projector, vision, pixels = PART_FILES
    size = config.img_size
    sides = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    defaults = {
        projector: {
            "architectures": ["ProjectorModel"],
            "auto_map": {
                "AutoConfig": "configuration_projector.ProjectorConfig",
                "AutoModel": "modeling_projector.ProjectorModel",
            },
            "bias": True,
            "depth": 2,
            "hidden_act": "gelu",
            "llm_hidden_size": config.hidden_size,
            "model_type": "projector",
            "visual_hidden_size": config.vision.hidden_size,
        },
        vision: {
            "architectures": ["CLIPVisionModel"],
            "model_type": "clip_vision_model",
            "image_size": size,
            "num_channels": 3,
            **config.vision_config,
        },
        pixels: {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": sides["size"],
            "resample": 3,
            "do_center_crop": True,
            "crop_size": sides["crop_size"],
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(CLIP_MEAN),
            "image_std": list(CLIP_STD),
        },
    }
    originals = getattr(config, "hf_part_files", None) or {}
    if vision in originals and clip_settings(originals[vision], vision)["image_size"] != size:
        # It was fine-tuned with another size since.
        originals = {**originals, vision: {**originals[vision], "image_size": size}}
        if pixels in originals:
            originals[pixels] = {**originals[pixels], **sides}
    return {**defaults, **originals}


def with_our_prefixes(adapter: Adapter, config) -> Adapter:
    """XTuner's adapter of a vision encoder names its tensors as CLIP does, without where it is in the model."""
    if not config.family.in_parts:
        return adapter
    vision = next(part for part in PARTS if part.theirs == "vision_model.")

    def renamed(tensors: dict) -> dict:
        return {
            vision.ours + name.removeprefix(vision.theirs) if name.startswith(vision.theirs) else name: tensor
            for name, tensor in tensors.items()
        }

    return replace(adapter, updates=renamed(adapter.updates), replaced=renamed(adapter.replaced))

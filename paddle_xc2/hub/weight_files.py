"""What files of weights are called: the one list of it, of whole models and of adapters."""

from __future__ import annotations

from pathlib import Path

INDEX_FILE = "model.safetensors.index.json"
JOINED_TORCH_FILES = "pytorch_model*.bin"
# In this order: checkpoints that have several kinds hold the same weights in them.
INDEXES_AND_SHARDS = (
    (INDEX_FILE, "model*.safetensors"),
    ("pytorch_model.bin.index.json", JOINED_TORCH_FILES),
    ("model_state.pdparams.index.json", "model_state*.pdparams"),
)
WEIGHTS = " or ".join(pattern for _, pattern in INDEXES_AND_SHARDS)  # for messages

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # PEFT's
PADDLENLP_ADAPTER_FILES = ("lora_model_state*.pdparams", "peft_model*.safetensors")

# How the names end of all files that hold weights which a model is made of.
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".pdparams")


def find_shards(directory: Path) -> list[Path]:
    """The weight files of a whole model in `directory`; [] if there are none."""
    for _, pattern in INDEXES_AND_SHARDS:
        if shards := sorted(directory.glob(pattern)):
            return shards
    return []

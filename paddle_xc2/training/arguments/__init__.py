"""The JSON argument file of a fine-tuning run: every key with its default and unit, checked before anything is done.

Keys are PaddleMIX's and PaddleNLP's; the names of upstream's own scripts are understood too. A value is honoured or
refused: a key whose capability is missing is accepted where it asks for nothing (NEUTRAL), and keys that can't change a
result are listed as such (WITHOUT_EFFECT). Each key is declared once, in model_keys.py or run_keys.py.
"""

from paddle_xc2.training.arguments.data_files import dataset_specs, find_file, sample_images
from paddle_xc2.training.arguments.finetune_arguments import (
    DECLARED,
    KEYS,
    LORA_RESUME_KEYS,
    RESUME_KEYS,
    SYNONYMS,
    FinetuneArguments,
    describe_keys,
)
from paddle_xc2.training.arguments.other_names import NEUTRAL, USE_INSTEAD, WITHOUT_EFFECT
from paddle_xc2.training.arguments.read import load_arguments

__all__ = [
    "DECLARED",
    "KEYS",
    "LORA_RESUME_KEYS",
    "RESUME_KEYS",
    "NEUTRAL",
    "SYNONYMS",
    "USE_INSTEAD",
    "WITHOUT_EFFECT",
    "FinetuneArguments",
    "dataset_specs",
    "describe_keys",
    "find_file",
    "load_arguments",
    "sample_images",
]

"""FinetuneArguments: all keys of an argument file, each of its type, and what follows from them."""

from __future__ import annotations

import inspect
import json
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

from paddle_xc2.files.local_path import local_path
from paddle_xc2.training.arguments.key import MUST_MATCH, Key
from paddle_xc2.training.arguments.model_keys import DataArguments, LoRAArguments, ModelArguments
from paddle_xc2.training.arguments.other_names import WITHOUT_EFFECT
from paddle_xc2.training.arguments.run_keys import BatchArguments, DeviceArguments, OptimizerArguments, OutputArguments

GROUPS = (
    *(ModelArguments, LoRAArguments, DataArguments, BatchArguments),
    *(OptimizerArguments, DeviceArguments, OutputArguments),
)


@dataclass
class FinetuneArguments(*reversed(GROUPS)):  # type: ignore[misc]  # dataclasses list the fields of the last base first
    """One fine-tuning run. Defaults follow upstream's scripts for full fine-tuning.

    Lengths are in tokens, image slots included; a step is an optimizer step.
    """

    def __post_init__(self):
        for name in ("model_name_or_path", "lora_path", "output_dir", "resume_from_checkpoint", "logging_dir"):
            if isinstance(path := getattr(self, name), str) and (found := local_path(path)) != Path(path):
                setattr(self, name, str(found))
        if self.learning_rate is None:
            self.learning_rate = 5e-5 if self.lora else 1e-5
        if self.fix_vit is None:
            self.fix_vit = self.lora
        if self.fix_sampler is None:
            self.fix_sampler = self.lora

    @property
    def samples_per_pass(self) -> int:
        """Samples that one process trains on in one step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def evaluates(self) -> bool:
        return self.do_eval or self.evaluation_strategy != "no"

    @property
    def names_a_checkpoint(self) -> bool:
        """Whether resume_from_checkpoint is the path of one."""
        return isinstance(self.resume_from_checkpoint, str) and self.resume_from_checkpoint != "auto"

    @property
    def steps_between_evaluations(self) -> int:
        """If evaluation_strategy is steps."""
        return self.eval_steps or self.logging_steps

    @property
    def reporters(self) -> tuple[str, ...]:
        """The names in report_to."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        return tuple(dict.fromkeys(name for name in names if name != "none"))

    @property
    def best_metric(self) -> tuple[str, bool]:
        """Which entry of an evaluation in metrics.jsonl decides what is best, and whether greater is better."""
        name = (self.metric_for_best_model or "loss").removeprefix("eval_")
        greater = name != "loss" if self.greater_is_better is None else self.greater_is_better
        return f"eval_{name}", greater


KEYS = {item.name: item for item in fields(FinetuneArguments)}
TYPES = get_type_hints(FinetuneArguments)
DECLARED: dict[str, Key] = {name: item.metadata["key"] for name, item in KEYS.items()}
# Other names for the same key.
SYNONYMS = {other: name for name, declared in DECLARED.items() for other in declared.also}
# Keys whose value must match on resume; those of LoRA only where it is on.
_OF_LORA = {item.name for item in fields(LoRAArguments)}
_MATCHING = [name for name, declared in DECLARED.items() if declared.resume is MUST_MATCH]
RESUME_KEYS = tuple(name for name in _MATCHING if name not in _OF_LORA)
LORA_RESUME_KEYS = tuple(name for name in _MATCHING if name in _OF_LORA)


def describe_keys() -> str:
    """Every key with its default and meaning, for --help."""
    blocks = ["keys of the argument file, with their defaults", inspect.cleandoc(FinetuneArguments.__doc__ or "")]
    for group in GROUPS:
        keys = {f"{item.name} = {json.dumps(item.default)}": DECLARED[item.name].help for item in fields(group)}
        blocks.append(_described(f"{group.__doc__}:", keys))
    blocks.append(_described("Accepted, without effect:", WITHOUT_EFFECT))
    return "\n\n".join(blocks)


def _described(title: str, meanings: dict[str, str]) -> str:
    lines = [
        textwrap.fill(f"{name}: {meaning}", 116, initial_indent="    ", subsequent_indent="        ")
        for name, meaning in meanings.items()
    ]
    return "\n".join([title, *lines])

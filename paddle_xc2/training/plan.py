"""What is decided of a run before its model is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from paddle_xc2.data.mixture import Mixture, OfficialMixture
from paddle_xc2.data.samples import Samples
from paddle_xc2.data.step_order import Layout, StepOrder
from paddle_xc2.training.arguments import LORA_RESUME_KEYS, RESUME_KEYS, FinetuneArguments
from paddle_xc2.training.run_folder.start import BASE, EVALUATION, PICTURES, StartingPoint
from paddle_xc2.training.sample_answers import Question


@dataclass(frozen=True)
class Plan:
    """A run, as far as it is decided before the model is loaded.

    Attributes:
        arguments: of the run.
        precision: "float32", "bfloat16" or "float16".
        start: where it begins.
        train: samples to train on, or None if the run only evaluates.
        evaluation: samples to evaluate on, or None.
        num_processes, rank: that train together, and which of them this is.
        questions: sample questions, to be asked before, during and after training.
        base: `ModelDirectory.identity` of the model that LoRA trains on.
    """

    arguments: FinetuneArguments
    precision: str
    start: StartingPoint
    train: Samples | None
    evaluation: Samples | None
    num_processes: int = 1
    rank: int = 0
    questions: tuple[Question, ...] = ()
    base: str | None = None

    @cached_property
    def quotas(self) -> list[int]:
        """Samples that each data set gives to an epoch."""
        usable = self.train.usable_records.tolist()
        return [dataset.spec.quota_of(number) for dataset, number in zip(self.train.datasets, usable, strict=True)]

    @cached_property
    def mixture(self) -> Mixture | OfficialMixture:
        arguments, train = self.arguments, self.train
        if arguments.mixture == "official":
            with_images = [dataset.starts_with_image for dataset in train.datasets]
            batch_size = arguments.per_device_train_batch_size
            return OfficialMixture(train.dataset_of, self.quotas, with_images, batch_size, arguments.seed)
        return Mixture(train.dataset_of, self.quotas, arguments.seed)

    @cached_property
    def layout(self) -> Layout:
        """How samples become steps. Raises: ValueError if a sample alone exceeds max_tokens_per_batch."""
        arguments, limit = self.arguments, self.arguments.max_tokens_per_batch
        lengths = self.train.lengths[:, 0]
        if limit is not None and lengths.max() > limit:
            longest = self.train.conversations[int(lengths.argmax())].source
            raise ValueError(
                f"{longest}: the sample has {lengths.max()} tokens, more than max_tokens_per_batch {limit}; "
                "raise it, or lower max_length"
            )
        by_tokens = limit is not None and not arguments.mixtoken
        batches_per_step = arguments.gradient_accumulation_steps * self.num_processes
        groups = "length" if arguments.group_by_length else "none"
        return Layout(
            rows_per_step=batches_per_step * (1 if by_tokens else arguments.per_device_train_batch_size),
            row_tokens=(limit or self.train.max_length) if arguments.mixtoken else None,
            batch_tokens=limit if by_tokens else None,
            grouping="modality" if arguments.group_by_modality_length else groups,
            drop_last=arguments.dataloader_drop_last,
            largest_first=arguments.mixture != "official",
        )

    @cached_property
    def order(self) -> StepOrder:
        train = self.train
        return StepOrder(self.mixture, train.lengths[:, 0], train.has_image, self.layout, self.arguments.seed)

    @cached_property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run; a begun one counts."""
        if self.arguments.max_steps > 0:
            return self.arguments.max_steps
        return self.order.steps_in(self.arguments.num_train_epochs)

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises; a begun one counts, as in Hugging Face's Trainer."""
        if self.arguments.lr_scheduler_type == "constant":
            return 0
        return self.arguments.warmup_steps or math.ceil(self.arguments.warmup_ratio * self.num_steps)

    @property
    def computes_in_half(self) -> bool:
        return self.precision != "float32"

    @property
    def weight_dtype(self) -> str:
        """What is computed in, and what is frozen is stored in; what learns is float32 (training/optimizer.py)."""
        return self.precision if self.arguments.fp16_opt_level == "O2" else "float32"

    @cached_property
    def resume_settings(self) -> dict:
        """Everything that must match when the run goes on from a checkpoint, as JSON values.

        How the samples of a step are spread over batches and processes is not in it: that changes last digits only.
        """
        return {
            "training data": self.train.fingerprint,
            "samples of each data set": self.quotas,
            f"{'batches' if self.layout.batch_tokens else 'rows'} per step": self.layout.rows_per_step,
            "tokens per row": self.layout.row_tokens,
            "steps": self.num_steps,
            "warm-up steps": self.warmup_steps,
            "precision": self.precision,
            **{name: getattr(self.arguments, name) for name in RESUME_KEYS},
            "lora": self.arguments.lora or None,
            **{name: getattr(self.arguments, name) for name in LORA_RESUME_KEYS if self.arguments.lora},
            PICTURES: self.train.contents,
            **({BASE: self.base} if self.arguments.lora else {}),
            **({EVALUATION: self._evaluation_data} if self.arguments.load_best_model_at_end else {}),
        }

    @property
    def _evaluation_data(self) -> str:
        """Which step is the best one depends on it."""
        return f"{self.evaluation.fingerprint}-{self.evaluation.contents}"

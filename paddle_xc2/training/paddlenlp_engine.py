"""PaddleNLP's Trainer as the engine of a run: what it is told, where that is not so and why, and what it is kept from.

It brings the loop over epochs and steps, says when to log, evaluate and save, sets up data parallelism and calls
callbacks. `trainer.py` fills in a step and what follows it. What it is told that is not so:

- One batch is a whole optimizer step, and nothing is accumulated: the mean is over a step's trained tokens, however
  they are spread over batches, which only `training_step` knows (`per_device_train_batch_size`,
  `gradient_accumulation_steps`). For the same reason a data set's length is its number of samples
  (`data/batches.py`: TrainingSteps, EpochSteps).
- Gradients are scaled in every precision, by a StepGuard in the GradScaler's place: so its loop asks after every step
  whether it was taken (`scaler`, `do_grad_scaling`).
- A run that only evaluates has one step to train and writes to the current folder, where it writes nothing: the
  Trainer can't be made without (`max_steps`, `output_dir`).
"""

from __future__ import annotations

import contextlib

import paddle
from paddlenlp.trainer import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from paddle_xc2.training.optimizer import StepGuard, build_optimizer, build_schedule
from paddle_xc2.training.plan import Plan


def trainer_arguments(plan: Plan) -> TrainingArguments:
    """What PaddleNLP's Trainer is told. The rest of the arguments is this package's own business."""
    arguments = plan.arguments
    return TrainingArguments(
        output_dir=arguments.output_dir if arguments.do_train else ".",  # is made if it is missing
        max_steps=plan.num_steps if arguments.do_train else 1,
        per_device_train_batch_size=arguments.samples_per_pass,
        gradient_accumulation_steps=1,
        bf16=plan.precision == "bfloat16",
        fp16=plan.precision == "float16",
        fp16_opt_level=arguments.fp16_opt_level,
        scale_loss=arguments.scale_loss,
        amp_custom_black_list=arguments.amp_custom_black_list,
        amp_custom_white_list=arguments.amp_custom_white_list,
        do_eval=arguments.evaluation_strategy != "no",
        evaluation_strategy=arguments.evaluation_strategy,
        eval_steps=arguments.steps_between_evaluations,
        save_strategy=arguments.save_strategy,
        save_steps=arguments.save_steps,
        logging_strategy=arguments.logging_strategy,
        logging_steps=arguments.logging_steps,
        logging_first_step=arguments.logging_first_step,
        seed=arguments.seed,
        device=paddle.device.get_device().split(":")[0],
        report_to="none",
        disable_tqdm=True,  # Progress shows it
        skip_memory_metrics=True,  # its tracker is a busy thread
        ignore_data_skip=True,  # EpochSteps begins at the right step, without reading what comes before
        release_grads=True,  # no zero gradients are left behind, by which AdamW would move what took no part in a step
    )


class PaddleNLPEngine(Trainer):
    """PaddleNLP's Trainer with this package's optimizer, schedule and precision, and without its own reports.

    Args:
        model: of a class in paddle_xc2/model.py, in the state to start from.
        plan: of the run.
        steps: TrainingSteps, or None if the run only evaluates.
    """

    def __init__(self, model, plan: Plan, steps):
        self.plan = plan
        super().__init__(model=model, args=trainer_arguments(plan), train_dataset=steps)
        self.scaler = StepGuard(plan.arguments.scale_loss if plan.precision == "float16" else None)
        self.do_grad_scaling = True
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    # The optimizer

    def create_scheduler(self, num_training_steps: int):
        self.lr_scheduler = build_schedule(self.plan.arguments, num_training_steps, self.plan.warmup_steps)
        return self.lr_scheduler

    def create_optimizer(self, lr_scheduler=None):
        self.optimizer = build_optimizer(self.model, self.plan.arguments, lr_scheduler)
        return self.optimizer

    # Precision

    def _wrap_amp_model(self, args, model):
        """PaddleNLP would cast what learns to half precision here, and take a GradScaler: see training/optimizer.py."""
        self.enable_autocast_context_manager, self.amp_dtype = True, self.plan.precision

    def _wrap_model(self, model, training=True):
        """PaddleNLP would cast here too, where it scales gradients."""
        self.do_grad_scaling = False
        try:
            return super()._wrap_model(model, training)
        finally:
            self.do_grad_scaling = True

    def autocast_smart_context_manager(self):
        """Autocast only where it is needed: weights in half precision make products so by themselves.

        At level O2 it would also take norm statistics, rotary angles and attention scores down from float32.
        """
        if self.plan.weight_dtype != "float32":
            return contextlib.nullcontext()
        return super().autocast_smart_context_manager()

    # What it is kept from

    def _check_loss_valid(self, loss):
        """PaddleNLP waits for every step here; ours are looked at when they are logged, evaluated or saved."""

    def _print_timer(self):
        """PaddleNLP's timers are not in use."""

    def log(self, logs, **kwargs):
        """PaddleNLP's summary at the end of training; ours is printed by the run."""

    def _load_from_checkpoint(self, resume_from_checkpoint=None):
        """The run has loaded the model from the checkpoint already."""

"""Trains on whole optimizer steps, and has logged, evaluated and saved what is due after each."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

import numpy as np
import paddle
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

from paddle_xc2 import runtime
from paddle_xc2.checkpoint.manifest import manifest_files
from paddle_xc2.data.batches import EpochSteps, ItemLoader, StepItem, TrainingSteps
from paddle_xc2.device_errors import is_out_of_memory, reason_of
from paddle_xc2.messages import counted, listed
from paddle_xc2.training.evaluate import Evaluator
from paddle_xc2.training.log import TrainingLog
from paddle_xc2.training.optimizer import read_optimizer, write_optimizer
from paddle_xc2.training.paddlenlp_engine import PaddleNLPEngine
from paddle_xc2.training.parallel import sum_over_processes, wait_for_processes
from paddle_xc2.training.plan import Plan
from paddle_xc2.training.plot import LOSS_PLOT, draw_metrics
from paddle_xc2.training.run_folder import checkpoints
from paddle_xc2.training.run_folder.interruption import Stopped, StopRequest
from paddle_xc2.training.run_folder.predictions import delete_predictions
from paddle_xc2.training.run_folder.sample_contents import write_sample_contents
from paddle_xc2.training.sample_answers import SampleAnswers
from paddle_xc2.training.state_check import StateCheck

TRAINER_STATE_FILE = "trainer_state.json"
PLOT_EVERY = 30  # seconds, at least, between two drawings of the loss while training


class StepTrainer(PaddleNLPEngine):
    """A run: its steps, and what follows them.

    The loss of a step is the mean over its trained tokens, however they are spread over batches, accumulated passes and
    processes. Random numbers start anew at every step, from the seed, the step and the process, so that an interrupted
    run goes on as it would have.

    Attributes:
        run_log, evaluator, state_check: of what is measured, evaluated, and found worth keeping.
        answers: to the sample questions; of the first process of a run that trains, else None.
        stop: set it, and training ends after the step with a checkpoint, raising Stopped.
        last_checkpoint: path of the newest one of this run, or None.
        model_step: after which step the model is taken that is saved at the end.

    Args:
        model: of a class in paddle_xc2/model.py, in the state to start from.
        processor: encodes the samples.
        plan: of the run.
    """

    def __init__(self, model, processor, plan: Plan):
        arguments = self.arguments = plan.arguments
        self.processor = processor
        self.stop = StopRequest()
        self.stop_is_known = False  # of all processes: each of them knows it since the last step or evaluation
        self.model_step = plan.num_steps if plan.train else 0
        self.last_checkpoint = plan.start.checkpoint
        self.saved_step = plan.start.step
        self.finished_step = plan.start.step  # all that follows it is done: log, evaluation, checkpoint
        self.drawn_at = -math.inf  # when the loss was drawn last
        steps = None
        if plan.train:
            batch_size, place = arguments.per_device_train_batch_size, (plan.rank, plan.num_processes)
            steps = TrainingSteps(plan.train, processor, plan.order, batch_size, *place)
        super().__init__(model, plan, steps)
        self.output_dir = Path(self.args.output_dir)
        self.run_log = TrainingLog(plan, self.output_dir)
        autocast = self.autocast_smart_context_manager
        self.evaluator = Evaluator(plan, processor, self.run_log, autocast, self.stop)
        self.state_check = StateCheck(plan, autocast)
        self.answers = None
        if plan.train and plan.rank == 0:
            delete_predictions(self.output_dir, plan.start.step)
            self._delete_what_a_kill_left()
            limit = arguments.evaluation_max_new_tokens
            self.answers = SampleAnswers(self.output_dir, plan.questions, limit, plan.start.checkpoint)

    def _delete_what_a_kill_left(self) -> None:
        """Checkpoints that the one to start from made superfluous, if the run was killed before it deleted them."""
        start = self.plan.start
        if start.checkpoint and start.checkpoint.parent.samefile(self.output_dir):
            keep = self.arguments.save_total_limit
            checkpoints.delete_superfluous(
                self.output_dir, start.step, start.started, keep, self._best_step(), given_up=False
            )

    # A step

    def get_train_dataloader(self):
        epochs = EpochSteps(self.plan.order, self.plan.start.step)
        return ItemLoader(self.train_dataset, epochs, self.arguments.dataloader_num_workers)

    def training_step(self, model, inputs: StepItem):
        """Forward and backward over all batches of a step.

        Returns: the loss, of which the mean over the processes is the step's.
        """
        step, num_processes = self.state.global_step, self.plan.num_processes
        seeds = np.random.SeedSequence([self.arguments.seed, step, self.plan.rank])
        runtime.set_seed(int(seeds.generate_state(1)[0]))
        num_trained, num_stopped = sum_over_processes([inputs.num_trained_tokens, self.stop.by is not None])
        num_trained, self.stop_is_known = int(num_trained), num_stopped > 0
        if not num_trained:
            raise ValueError(
                f"step {step + 1} would train nothing: no token of its samples is trained "
                f"({listed(sum(inputs.sources, []))}); check their answers"
            )
        # Gradients are averaged over the processes, hence the factor; weight 0 divides by infinity.
        denominator = num_trained / num_processes if inputs.weight else math.inf
        model.train()
        self.run_log.begin_step()
        with model.no_sync() if num_processes > 1 else contextlib.nullcontext():
            loss = self._backward(model, inputs, denominator)
        if num_processes > 1:
            fused_allreduce_gradients(list(model.parameters()), None)
        self.state_check.pending = inputs, loss
        self.run_log.add_step(inputs, loss, num_trained, self.optimizer.get_lr())
        return loss

    def _backward(self, model, inputs: StepItem, denominator: float):
        """Gradients of every batch, added up. Returns: the sum of their losses."""
        loss = paddle.zeros([], "float32")
        for index, batch in enumerate(inputs.batches):
            try:
                with self.autocast_smart_context_manager():
                    out = model(**batch, loss_denominator=denominator)
                self.scaler.scale(out.loss).backward()
            except (MemoryError, RuntimeError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
                message = _out_of_memory_message(self.state.global_step, batch, inputs.sources[index:][:1], error)
                raise ValueError(message) from error
            loss += out.loss.detach()
            if inputs.weight:
                self.run_log.add_dataset_losses(out.token_losses, inputs.token_datasets[index])
        return loss

    # What follows a step

    def _maybe_log_save_evaluate(self, tr_loss, model, epoch, ignore_keys_for_eval, **kwargs):
        """PaddleNLP calls this after every step and once more after every epoch.

        Raises: Stopped; Diverged; ValueError if the model to start from computes NaN.
        """
        step = self.state.global_step
        self.state.epoch = self.plan.order.epochs_after(step)
        self._settle_step()
        is_last = step >= self.plan.num_steps
        if self.control.should_log or is_last and self.arguments.logging_strategy != "no":
            self._log_step()
        if is_last or self.control.should_evaluate or self._sample_questions_are_due(step):
            self._check_state()
        if self.control.should_evaluate:
            self.evaluate()
        self._ask_sample_questions_if_due(step)
        if self.control.should_save:
            self._save_checkpoint(model)
        more_to_come = self._ends_epoch(step) and self.finished_step < step
        self.finished_step = step
        # A process alone need not wait for the next step to know of a request.
        if not more_to_come and (self.stop_is_known or self.plan.num_processes == 1 and self.stop.by):
            self._save_and_stop()

    def _ends_epoch(self, step: int) -> bool:
        """Whether this is the last step of an epoch, or of all."""
        return self.plan.order.place_of(step)[1] == 0 or step >= self.plan.num_steps

    def _settle_step(self) -> None:
        """Finds out whether the last step was taken. Raises: as `StateCheck.was_taken`."""
        check, step = self.state_check, self.state.global_step
        if check.pending and not check.was_taken(step, self.model, self.optimizer, self.scaler, self.last_checkpoint):
            self.run_log.interval.drop_last_step()

    def _check_state(self) -> None:
        """Raises: Diverged if the state is not worth keeping."""
        with self.run_log.not_training():
            self.state_check.check(self.model, self.optimizer, self.scaler, self.last_checkpoint)

    def _log_step(self) -> None:
        grad_norm = self.optimizer._grad_clip.last_norm
        entry = self.run_log.log_step(self.state.global_step, self.state.epoch, grad_norm)
        if entry is None:
            self.control.should_log = False
        else:
            self.control = self.callback_handler.on_log(self.args, self.state, self.control, entry)

    # Evaluations

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict | None:
        """As `Evaluator.evaluate`, of the state after the last step."""
        entry = self.evaluator.evaluate(self.model, self.state.global_step, self.state.epoch or 0.0)
        self.control.should_evaluate = False
        self.stop_is_known = entry is None
        if entry is not None:
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, entry)
            if entry is self.evaluator.best:
                self.control.should_save = True  # whatever save_strategy says: it is to be loaded at the end
        return entry

    def evaluate_at_the_start(self) -> None:
        """Evaluates the state to start from if that is due and was not done. Raises: Stopped if it is stopped again."""
        step = self.plan.start.step
        if self.evaluator.is_due_at_the_start(self._ends_epoch(step)):
            self.state.global_step, self.state.epoch = step, self.plan.order.epochs_after(step)
            if self.evaluate() is None:
                raise Stopped

    def evaluate_at_the_end(self) -> None:
        """Evaluates what training ended with. Raises: Stopped if it is cut short."""
        if self.evaluate() is None:
            self._save_and_stop()

    def _best_step(self) -> int | None:
        return self.evaluator.best["step"] if self.evaluator.best else None

    # Sample questions

    def _sample_questions_are_due(self, step: int) -> bool:
        every = self.arguments.evaluation_freq
        return step in (0, self.plan.num_steps) or bool(every) and step % every == 0

    def _ask_sample_questions_if_due(self, step: int) -> None:
        """Before training, after the last step and as often as asked for. A request to stop cuts it short: nothing is
        kept, and the run makes up for it when it goes on.
        """
        if self._sample_questions_are_due(step):
            self.ask_sample_questions(step)

    def ask_sample_questions(self, step: int) -> None:
        """Has the model answer the sample questions, unless it did after the same step."""
        if self.answers is None or not self.answers.questions or self.answers.has(step):
            return
        with self.run_log.not_training(), self.autocast_smart_context_manager():
            self.model.eval()
            self.answers.ask(self.model, self.processor.tokenizer, step, lambda: self.stop.by)

    def ask_sample_questions_at_the_start(self) -> None:
        """Asks the state to start from if that is due and was not done. Raises: Stopped if it is stopped meanwhile."""
        self._ask_sample_questions_if_due(self.plan.start.step)
        if self.plan.num_processes == 1 and self.stop.by:
            raise Stopped

    # Checkpoints

    def save_what_is_trained(self) -> None:
        """A checkpoint after the last whole step, if there is none yet."""
        if self.saved_step != self.state.global_step:
            self._save_checkpoint(self.model)

    def _save_and_stop(self) -> None:
        self.save_what_is_trained()
        raise Stopped

    def _save_checkpoint(self, model, metrics=None):
        """Writes everything that going on needs, if it is sound. Raises: Diverged."""
        self._check_state()
        interval, step = self.run_log.interval_record(), self.state.global_step
        with self.run_log.not_training():
            if self.plan.rank == 0:
                marker = {
                    "started": self.plan.start.started,
                    checkpoints.SETTINGS: self.plan.resume_settings,
                    checkpoints.INTERVAL: interval,
                }
                keep, best = self.arguments.save_total_limit, self._best_step()
                self.last_checkpoint = checkpoints.save_checkpoint(
                    self.output_dir, step, self._write_state, marker, keep, best
                )
                self._draw_now_and_then()
                self.run_log.progress.say(f"step {step}/{self.plan.num_steps}  checkpoint {self.last_checkpoint}")
            self.saved_step = step
            wait_for_processes()
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _write_state(self, directory: Path) -> dict[str, str]:
        """Everything that going on needs. Random numbers are not in it: every step starts its own.

        Returns: SHA-256 of the large files, taken while they were written.
        """
        self.model.save_pretrained(directory, dtype=self.plan.weight_dtype)
        digests = {name: entry["sha256"] for name, entry in manifest_files(directory).items()}
        digests |= write_optimizer(directory, self.model, self.optimizer, self.lr_scheduler, self.scaler)
        self.state.save_to_json(str(directory / TRAINER_STATE_FILE))
        self.run_log.metrics.save_copy(directory)
        write_sample_contents(directory, self.plan.train)
        if self.answers.questions:
            self.answers.write(directory)
        return digests

    def _draw_now_and_then(self) -> None:
        if time.perf_counter() - self.drawn_at > PLOT_EVERY:
            draw_metrics(self.run_log.entries, self.output_dir / LOSS_PLOT)
            self.drawn_at = time.perf_counter()

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None:
            read_optimizer(Path(checkpoint), self.model, self.optimizer, self.lr_scheduler, self.scaler)


def _out_of_memory_message(step: int, batch: dict, sources: list[list[str]], error: Exception) -> str:
    """What did not fit, and what makes it smaller.

    Args:
        step: counted from 0.
        batch: as `data/collate.py` lays it out.
        sources: names of its samples.
    """
    rows, width = batch["input_ids"].shape
    num_images = counted(len(batch["pixel_values"]), "image")
    names = sum(sources, [])
    return (
        f"step {step + 1}: the memory does not suffice for a batch of {rows} x {width} tokens and "
        f"{num_images} ({listed(names) or 'a batch that does not count'}); set recompute to true, lower "
        "per_device_train_batch_size (and raise gradient_accumulation_steps), max_tokens_per_batch, max_length or "
        f"hd_num, or freeze parts of the model (fix_vit); {reason_of(error)}"
    )

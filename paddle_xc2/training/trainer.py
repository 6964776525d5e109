"""PaddleNLP's Trainer with this package's step, evaluation and checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients
from paddlenlp.trainer import PrinterCallback, ProgressCallback, Trainer, TrainingArguments
from paddlenlp.trainer.trainer_utils import get_scheduler

from paddle_xc2 import runtime
from paddle_xc2.data.batches import EpochSteps, EvaluationBatches, ItemLoader, QuestionBatches, StepItem, TrainingSteps
from paddle_xc2.data.collate import to_device
from paddle_xc2.data.conversation import Conversation
from paddle_xc2.data.samples import Samples
from paddle_xc2.device_errors import is_out_of_memory, reason_of
from paddle_xc2.generation.chat import decode_answer, stop_ids
from paddle_xc2.generation.generate import generate
from paddle_xc2.generation.scores import Answer, metrics_for, summary
from paddle_xc2.messages import counted, listed
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.divergence import Diverged, describe_batches, diverged_message, starting_model_message
from paddle_xc2.training.metrics_file import MetricsFile, best_evaluation, read_metrics
from paddle_xc2.training.optimizer import (
    StepGuard,
    build_optimizer,
    gradient_norm,
    not_finite,
    read_optimizer,
    write_optimizer,
)
from paddle_xc2.training.plan import Plan
from paddle_xc2.training.plot import LOSS_PLOT, draw_metrics
from paddle_xc2.training.progress import Progress
from paddle_xc2.training.reporting import Reporters
from paddle_xc2.training.run_folder import checkpoints
from paddle_xc2.training.run_folder.interruption import Stopped, StopRequest
from paddle_xc2.training.run_folder.predictions import delete_predictions, write_predictions
from paddle_xc2.training.sample_answers import SampleAnswers

STATE_FILE = "trainer_state.json"
_NUM_SOURCES_SHOWN = 5  # of the samples that a message is about
PLOT_EVERY = 30  # seconds, at least, between two drawings of the loss while training


def trainer_arguments(plan: Plan) -> TrainingArguments:
    """What PaddleNLP's Trainer is told. The rest of the arguments is this package's own business."""
    arguments = plan.arguments
    return TrainingArguments(
        output_dir=arguments.output_dir if arguments.do_train else ".",  # is made if it is missing
        max_steps=plan.num_steps if arguments.do_train else 1,
        # The Trainer sees a whole step as one batch: StepTrainer does the accumulation, over trained tokens.
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
        eval_steps=arguments.eval_steps or arguments.logging_steps,
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


@dataclass
class Window:
    """What happened since the last logged step."""

    # Of every step that was taken. On the device; numbers after a checkpoint was gone on from.
    losses: list[paddle.Tensor | float] = field(default_factory=list)
    trained_tokens: list[int] = field(default_factory=list)  # of all processes
    tokens: int = 0  # of this process, as the rest
    image_tokens: int = 0
    # Of every pass of these steps, where there are several data sets: sum of token losses of each, and their number.
    dataset_losses: list[paddle.Tensor | list[float]] = field(default_factory=list)
    dataset_tokens: list[list[int]] = field(default_factory=list)
    sources: list = field(default_factory=list)  # of `to_device`, until the losses have been waited for
    learning_rate: float = 0.0  # of the last step
    num_skipped: int = 0  # steps that were not taken
    started: float = field(default_factory=time.perf_counter)  # moved on by what is not training
    num_taken_passes: int = 0  # entries of dataset_losses before the last step

    def drop_last_step(self) -> None:
        """The last step was not taken: what it computed counts as work, not as training."""
        self.num_skipped += 1
        del self.losses[-1], self.trained_tokens[-1]
        del self.dataset_losses[self.num_taken_passes :], self.dataset_tokens[self.num_taken_passes :]


class StepTrainer(Trainer):
    """Trains on whole optimizer steps.

    The loss of a step is the mean over its trained tokens, however they are spread over batches, accumulated passes and
    processes. Random numbers start anew at every step, from the seed, the step and the process, so that an interrupted
    run goes on as it would have.

    Attributes:
        last_checkpoint: path of the newest one of this run, or None.
        best: the best evaluation so far, an entry of metrics.jsonl, if load_best_model_at_end asks for it; else None.
        model_step: after which step the model is taken that is saved at the end.
        stop: set it, and training ends after the step with a checkpoint, raising Stopped.

    Args:
        model: XComposer2ForCausalLM, in the state to start from.
        processor: encodes the samples.
        plan: of the run.
    """

    def __init__(self, model, processor, plan: Plan):
        arguments = self.arguments = plan.arguments
        self.plan = plan
        self.processor = processor
        self.model_step = plan.num_steps if plan.train else 0
        names = [dataset.spec.name for dataset in plan.train.datasets] if plan.train else []
        self.dataset_names = list(dict.fromkeys(names))  # several entries may share a name
        self.name_of_dataset = np.array([self.dataset_names.index(name) for name in names], np.int64)
        self.window = self._begun_window()
        self.last_checkpoint = plan.start.checkpoint
        self.stop = StopRequest()
        self.asked_to_stop = False  # the same on all processes, as all of them know it since the last step
        self.saved_step = plan.start.step
        self.taken_step = self.sound_step = plan.start.step  # the last that was taken, and the last that was looked at
        # Of a step of which it is not known yet whether it was taken.
        self.pending: tuple[StepItem, paddle.Tensor] | None = None
        self.trial_batch: dict | None = None  # of the last step that was taken
        self.finished_step = plan.start.step  # all that follows it is done: log, evaluation, checkpoint
        self.best = self._best_before() if arguments.load_best_model_at_end and plan.start.checkpoint else None
        self.evaluation = self.questions = steps = None
        if plan.evaluation:
            batch_size = arguments.per_device_eval_batch_size
            self.evaluation = EvaluationBatches(plan.evaluation, processor, batch_size)
            if arguments.eval_with_do_generation:
                self.questions = QuestionBatches(plan.evaluation, processor, batch_size)
        if plan.train:
            batch_size, place = arguments.per_device_train_batch_size, (plan.rank, plan.num_processes)
            steps = TrainingSteps(plan.train, processor, plan.order, batch_size, *place)
        super().__init__(model=model, args=trainer_arguments(plan), train_dataset=steps)
        # Of every precision: PaddleNLP's loop then hands each step to it.
        self.scaler = StepGuard(arguments.scale_loss if plan.precision == "float16" else None)
        self.do_grad_scaling = True
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.output_dir = Path(self.args.output_dir)
        self.plotted = -math.inf
        self.metrics = self.answers = None
        if plan.train and plan.rank == 0:
            delete_predictions(self.output_dir, plan.start.step)
            self._delete_what_a_kill_left()
            self.metrics = MetricsFile(self.output_dir, plan.start.checkpoint)
            logging_dir = Path(arguments.logging_dir or self.output_dir / "runs")
            self.reporters = Reporters(arguments.reporters, logging_dir, plan.start.started, self.metrics.entries)
            limit = arguments.evaluation_max_new_tokens
            self.answers = SampleAnswers(self.output_dir, plan.questions, limit, plan.start.checkpoint)
        num_steps, lines = (plan.num_steps, arguments.disable_tqdm) if plan.train else (0, True)
        self.progress = Progress(num_steps, plan.start.step, lines, silent=plan.rank > 0)

    def _delete_what_a_kill_left(self) -> None:
        """Checkpoints that the one to start from made superfluous, if the run was killed before it deleted them."""
        start = self.plan.start
        if start.checkpoint and start.checkpoint.parent.samefile(self.output_dir):
            best = self.best["step"] if self.best else None
            keep = self.arguments.save_total_limit
            checkpoints.delete_superfluous(self.output_dir, start.step, start.started, keep, best, given_up=False)

    # The optimizer

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

    def create_scheduler(self, num_training_steps: int):
        arguments = self.arguments
        self.lr_scheduler = get_scheduler(
            arguments.lr_scheduler_type,
            learning_rate=arguments.learning_rate,
            num_warmup_steps=self.plan.warmup_steps,
            # After a run that is all warm-up, polynomial would divide by the steps that are left.
            num_training_steps=max(num_training_steps, self.plan.warmup_steps + 1),
            num_cycles=arguments.num_cycles,
            lr_end=arguments.lr_end,
            power=arguments.power,
        )
        return self.lr_scheduler

    def create_optimizer(self, lr_scheduler=None):
        self.optimizer = build_optimizer(self.model, self.arguments, lr_scheduler)
        return self.optimizer

    # A step

    def get_train_dataloader(self):
        epochs = EpochSteps(self.plan.order, self.plan.start.step)
        return ItemLoader(self.train_dataset, epochs, self.arguments.dataloader_num_workers)

    def training_step(self, model, inputs: StepItem):
        """Forward and backward over all batches of a step.

        Returns: the loss, of which the mean over the processes is the step's.
        """
        step, num_ranks = self.state.global_step, self.plan.num_processes
        seeds = np.random.SeedSequence([self.arguments.seed, step, self.plan.rank])
        runtime.set_seed(int(seeds.generate_state(1)[0]))
        num_trained, num_asked = _sum_over_processes([inputs.num_trained_tokens, self.stop.by is not None])
        num_trained, self.asked_to_stop = int(num_trained), num_asked > 0
        # Gradients are averaged over the processes, hence the factor; weight 0 divides by infinity.
        if not num_trained:
            raise ValueError(
                f"step {step + 1} would train nothing: no token of its samples is trained "
                f"({listed(sum(inputs.sources, []))}); check their answers"
            )
        denominator = num_trained / num_ranks if inputs.weight else math.inf
        loss = paddle.zeros([], "float32")
        self.window.num_taken_passes = len(self.window.dataset_losses)
        model.train()
        with model.no_sync() if num_ranks > 1 else contextlib.nullcontext():
            for index, batch in enumerate(inputs.batches):
                try:
                    with self.autocast_smart_context_manager():
                        out = model(**batch, loss_denominator=denominator)
                    self.scaler.scale(out.loss).backward()
                except (MemoryError, RuntimeError, OSError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise ValueError(out_of_memory_message(step, batch, inputs.sources[index:][:1], error)) from error
                loss += out.loss.detach()
                if len(self.dataset_names) > 1 and inputs.weight:
                    self._note_dataset_losses(out.token_losses, inputs.token_datasets[index])
        if num_ranks > 1:
            fused_allreduce_gradients(list(model.parameters()), None)
        window = self.window
        self.pending = inputs, loss
        window.losses.append(loss)
        window.trained_tokens.append(num_trained)
        window.tokens += inputs.num_tokens
        window.image_tokens += inputs.num_image_tokens
        window.learning_rate = self.optimizer.get_lr()
        self.progress.step()
        return loss

    def _note_dataset_losses(self, token_losses, datasets: np.ndarray) -> None:
        names = self.name_of_dataset[datasets]
        sums = paddle.zeros([len(self.dataset_names)], "float32")
        sums = paddle.index_add(sums, to_device(names, self.window.sources), 0, token_losses)
        self.window.dataset_losses.append(sums)
        self.window.dataset_tokens.append(np.bincount(names, minlength=len(self.dataset_names)).tolist())

    def _check_loss_valid(self, loss):
        """PaddleNLP waits for every step here; ours are looked at when they are logged, evaluated or saved."""

    def _print_timer(self):
        """PaddleNLP's timers are not in use."""

    def autocast_smart_context_manager(self):
        """Autocast only where it is needed: weights in half precision make products so by themselves.

        At level O2 it would also take norm statistics, rotary angles and attention scores down from float32.
        """
        if self.plan.weight_dtype != "float32":
            return contextlib.nullcontext()
        return super().autocast_smart_context_manager()

    # Reports

    def _maybe_log_save_evaluate(self, tr_loss, model, epoch, ignore_keys_for_eval, **kwargs):
        """PaddleNLP calls this after every step and once more after every epoch.

        Raises: Stopped, Diverged; ValueError if the model to start from computes NaN.
        """
        step = self.state.global_step
        self.state.epoch = self.plan.order.epochs_after(step)
        self._settle_step()
        ends = step >= self.plan.num_steps
        if self.control.should_log or ends and self.arguments.logging_strategy != "no":
            self._log_window()
        if ends or self.control.should_evaluate or self._answers_are_due(step):
            self._check_sound()
        if self.control.should_evaluate:
            self.evaluate()
        self._answer_questions(step)
        if self.control.should_save:
            self._save_checkpoint(model)
        more_to_come = self._ends_epoch(step) and self.finished_step < step
        self.finished_step = step
        # A process alone need not wait for the next step to know of a request.
        if not more_to_come and (self.asked_to_stop or self.plan.num_processes == 1 and self.stop.by):
            self._save_and_stop()

    def _ends_epoch(self, step: int) -> bool:
        """Whether this is the last step of an epoch, or of all."""
        return self.plan.order.place_of(step)[1] == 0 or step >= self.plan.num_steps

    def _save_and_stop(self) -> None:
        self.save_what_is_trained()
        raise Stopped

    def save_what_is_trained(self) -> None:
        """A checkpoint after the last whole step, if there is none yet."""
        if self.saved_step != self.state.global_step:
            self._save_checkpoint(self.model)

    def _settle_step(self) -> None:
        """Notes whether the last step was taken. Raises: as `_maybe_log_save_evaluate`, if no step can be any more."""
        if self.pending is None:
            return
        (item, loss), self.pending = self.pending, None
        step = self.state.global_step
        if not self.scaler.skipped:
            self.taken_step, self.trial_batch = step, item.batches[0]
            return
        self.window.drop_last_step()
        loss = float(_sum_over_processes([float(loss)])[0]) / self.plan.num_processes
        if step == 1 and not math.isfinite(loss):
            self._tell_starting_model(item.batches, loss)
        if self.scaler.is_hopeless(loss):
            norm, many = self.optimizer._grad_clip.last_norm, counted(self.scaler.in_a_row, "step")
            self._diverge(
                f"step {step}: loss {loss:.4g}, gradient norm {norm:.4g}, {many} skipped in a row", item.batches
            )

    def _check_sound(self) -> None:
        """Looks at the state before it is kept: its parameters, and loss and gradients of the last step's first batch.

        Nothing else tells that training can go on from it: of a state with finite parameters, the loss or the gradients
        may not be, which the next step only would show.

        Raises: Diverged.
        """
        if self.sound_step >= self.taken_step:
            return
        step, batch, started = self.taken_step, self.trial_batch, time.perf_counter()
        names = not_finite(self.model, self.plan.weight_dtype)
        self.model.train()  # for recompute; its random numbers are nobody's, every step starts its own
        with self.autocast_smart_context_manager():
            loss = self.model(**batch).loss
        self.scaler.scale(loss).backward()
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        loss, norm = float(loss), float(gradient_norm(gradients)) / self.scaler.loss_scale
        self.optimizer.clear_grad(set_to_zero=False)
        broken = not math.isfinite(loss + norm) and not self.scaler.can_mend(loss)
        if _sum_over_processes([broken or bool(names)])[0]:
            told = f"loss {loss:.4g}, gradient norm {norm:.4g}"
            if names:
                told = f"{listed(names)} {'is' if len(names) == 1 else 'are'} not finite"
            self._diverge(f"the state after step {step} is not saved: {told}", [batch])
        self.sound_step = step
        self.window.started += time.perf_counter() - started

    def _diverge(self, what: str, batches: list[dict]) -> None:
        """Raises: Diverged."""
        raise Diverged(diverged_message(what, self._describe(batches), self.arguments, self.last_checkpoint))

    def _tell_starting_model(self, batches: list[dict], loss: float) -> None:
        """Raises: ValueError, always. loss: that is not finite."""
        source = self.arguments.lora_path or self.arguments.model_name_or_path
        raise ValueError(starting_model_message(source, self._describe(batches), loss))

    def _broken_batches(self, losses: list, indexes: range) -> list[dict]:
        """The first batch of the evaluation whose loss is not finite. losses, indexes: of the batches."""
        broken = [index for index, loss in zip(indexes, losses, strict=True) if not math.isfinite(float(loss))]
        return [batch for item in ItemLoader(self.evaluation, broken[:1], 0) for batch in item.batches]

    def _describe(self, batches: list[dict]) -> str:
        return describe_batches(self.model, batches, self.autocast_smart_context_manager)

    def _window_losses(self) -> np.ndarray:
        """Loss of every step in the window."""
        if not self.window.losses:
            return np.empty(0)
        return _sum_over_processes([float(loss) for loss in self.window.losses]) / self.plan.num_processes

    def _window_record(self) -> dict:
        """The window as JSON values: what a checkpoint needs for the next logged step to be as it would have been."""
        losses = self._window_losses().tolist()
        tokens, image_tokens = _sum_over_processes([self.window.tokens, self.window.image_tokens])
        return {
            "losses": losses,
            "num_skipped": self.window.num_skipped,
            "trained_tokens": self.window.trained_tokens,
            "tokens": int(tokens),
            "image_tokens": int(image_tokens),
            "dataset_losses": self._dataset_sums().tolist(),
            "seconds": time.perf_counter() - self.window.started,
        }

    def _begun_window(self) -> Window:
        """The window at the start: what `_window_record` told of the checkpoint to go on from."""
        checkpoint = self.plan.start.checkpoint
        record = checkpoints.read_marker(checkpoint).get("window") if checkpoint else None
        if record is None:
            return Window()
        window = Window(record["losses"], record["trained_tokens"], num_skipped=record.get("num_skipped", 0))
        if self.plan.rank == 0:  # these were summed over all processes
            window.tokens, window.image_tokens = record["tokens"], record["image_tokens"]
            losses, tokens = record["dataset_losses"]
            window.dataset_losses, window.dataset_tokens = [losses], [tokens]
        window.started = time.perf_counter() - record["seconds"]
        return window

    def _dataset_sums(self) -> np.ndarray:
        """float64 [2, names]: sum of token losses and their number, by name of data set, of the window."""
        window, nothing = self.window, np.zeros([len(self.dataset_names)])
        if len(self.dataset_names) < 2:
            return np.zeros([2, 0])
        losses = sum((np.asarray(losses, "float64") for losses in window.dataset_losses), nothing)
        tokens = sum((np.asarray(tokens, "float64") for tokens in window.dataset_tokens), nothing)
        return _sum_over_processes([*losses, *tokens]).reshape(2, -1)

    def _dataset_entries(self) -> dict:
        """{"loss/name": mean loss} of the data sets that the window has trained tokens of."""
        losses, tokens = self._dataset_sums()
        return {
            f"loss/{name}": loss / number
            for name, loss, number in zip(self.dataset_names, losses.tolist(), tokens.tolist(), strict=False)
            if number
        }

    def _log_window(self) -> None:
        window, losses = self.window, self._window_losses()
        if not len(losses) and not window.num_skipped:
            self.control.should_log = False
            return
        tokens, image_tokens = _sum_over_processes([window.tokens, window.image_tokens])
        entry = {
            "step": self.state.global_step,
            "epoch": round(self.state.epoch, 6),
            "loss": float(np.average(losses, weights=window.trained_tokens)) if len(losses) else None,
            "learning_rate": window.learning_rate,
            "grad_norm": self.optimizer._grad_clip.last_norm,
            **({"skipped_steps": window.num_skipped} if window.num_skipped else {}),
            **self._dataset_entries(),
            "trained_tokens": sum(window.trained_tokens),
            "image_tokens": int(image_tokens),
            "tokens": int(tokens),
            "tokens_per_second": round(float(tokens) / (time.perf_counter() - window.started), 1),
        }
        if not self.arguments.skip_memory_metrics:
            entry["peak_memory_gb"] = round(runtime.peak_memory_gb(), 3)
        self.window = Window()
        self._report(entry)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, entry)

    def _report(self, entry: dict) -> None:
        """Notes and shows what was measured. What is not finite becomes None: JSON has no other word for it."""
        broken = [name for name, value in entry.items() if isinstance(value, float) and not math.isfinite(value)]
        entry.update(dict.fromkeys(broken))
        if self.metrics:
            self.metrics.append(entry)
            self.reporters.write(entry)
        self.progress.logged(entry)

    def log(self, logs, **kwargs):
        """PaddleNLP's summary at the end of training; ours is printed by the run."""

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict | None:
        """Mean loss over every trained token of the evaluation data, as an entry of metrics.jsonl.

        With eval_with_do_generation also what the generated answers are worth.

        None if it was cut short by a request to stop: the run makes up for it when it goes on.

        Raises: ValueError if the loss is not finite and nothing is trained, which would be told instead.
        """
        started = time.perf_counter()
        mine = self._my_batches()
        losses, num_tokens = [], 0
        self.model.eval()
        with paddle.no_grad():
            items = ItemLoader(self.evaluation, mine, self.arguments.dataloader_num_workers)
            for item in self.progress.over(items, len(mine), "evaluating"):
                if self.stop.by:
                    break
                with self.autocast_smart_context_manager():
                    losses += [self.model(**batch, loss_denominator=1.0).loss for batch in item.batches]
                num_tokens += item.num_trained_tokens
        records = self._answer() if self.questions and not self.stop.by else []
        total = math.fsum(float(loss) for loss in losses)
        total, num_tokens, num_asked = _sum_over_processes([total, num_tokens, self.stop.by is not None])
        self.control.should_evaluate = False
        self.asked_to_stop = num_asked > 0
        if self.asked_to_stop:
            return None
        if not self.plan.train and not math.isfinite(total):
            self._tell_starting_model(self._broken_batches(losses, mine), total / num_tokens)
        records = self._gather(records)
        scores = {f"eval_{name}": score for name, score in summary(records).items()}
        seconds = time.perf_counter() - started
        entry = {
            "step": self.state.global_step,
            "epoch": round(self.state.epoch or 0.0, 6),
            "eval_loss": float(total / num_tokens),
            "eval_tokens": int(num_tokens),
            "eval_seconds": round(seconds, 3),
            **({"eval_answers": len(records)} if self.questions else {}),
            **scores,
        }
        if self.arguments.save_generation_output and self.plan.rank == 0:
            directory = Path(self.arguments.output_dir)
            directory.mkdir(parents=True, exist_ok=True)
            write_predictions(directory, self.state.global_step, records)
        self.window.started += seconds
        self._report(entry)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, entry)
        if self.arguments.load_best_model_at_end:
            self.best = self._better(entry)
            if self.best is entry:
                self.control.should_save = True  # whatever save_strategy says: it is to be loaded at the end
        return entry

    def _my_batches(self) -> range:
        """Batches of the evaluation that this process computes."""
        num_batches = len(self.evaluation)
        if self.arguments.max_evaluate_steps > 0:
            num_batches = min(num_batches, self.arguments.max_evaluate_steps)
        return range(self.plan.rank, num_batches, self.plan.num_processes)

    def _answer(self) -> list[dict]:
        """What the model answers to the samples of this process: records of `Answer` with the samples' index."""
        arguments, tokenizer = self.arguments, self.processor.tokenizer
        stops = stop_ids(self.model, tokenizer)
        longest = arguments.max_new_tokens or int(self.plan.evaluation.lengths[:, 2].max())
        drawn = {"do_sample": arguments.top_k != 1, "top_k": arguments.top_k, "top_p": arguments.top_p}
        seeds = np.random.SeedSequence([arguments.seed, self.state.global_step, self.plan.rank])
        runtime.set_seed(int(seeds.generate_state(1)[0]))  # of answers that are drawn
        mine, records = self._my_batches(), []
        items = ItemLoader(self.questions, mine, arguments.dataloader_num_workers)
        for index, item in zip(mine, self.progress.over(items, len(mine), "answering"), strict=True):
            if self.stop.by:
                break
            (batch,) = item.batches
            with self.autocast_smart_context_manager():
                ids, _ = generate(self.model, **batch, max_new_tokens=longest, eos_token_id=stops, **drawn)
            for number, row in enumerate(ids.tolist(), index * self.questions.batch_size):
                answer = _answered(self.plan.evaluation.conversations[number], decode_answer(tokenizer, row, stops))
                records.append({"index": number, **answer.record()})
        return records

    def _gather(self, records: list[dict]) -> list[dict]:
        """The records of all processes, in the order of the samples."""
        if self.plan.num_processes > 1:
            everybodys: list[list[dict]] = []
            dist.all_gather_object(everybodys, records)
            records = [record for somebodys in everybodys for record in somebodys]
        return sorted(records, key=lambda record: record["index"])

    def _best_before(self) -> dict | None:
        """The best evaluation up to the checkpoint to start from, of those that can still be loaded."""
        checkpoint = self.plan.start.checkpoint
        there = {path.name for path in checkpoint.parent.glob("checkpoint-*")}
        entries = [entry for entry in read_metrics(checkpoint) if f"checkpoint-{entry['step']}" in there]
        return best_evaluation(entries, *self.arguments.best_metric)

    def _better(self, entry: dict) -> dict | None:
        """The better one of `self.best` and `entry`, the first of equals; None if there is none yet."""
        return best_evaluation([self.best, entry] if self.best else [entry], *self.arguments.best_metric)

    def evaluate_what_is_due(self) -> None:
        """Evaluates the state to start from, if it would have been and was not: the run was stopped meanwhile.

        Raises: Stopped if it is stopped again.
        """
        step, arguments = self.plan.start.step, self.arguments
        due = {
            "no": arguments.do_eval and step >= self.plan.num_steps,
            "steps": step % self.args.eval_steps == 0,
            "epoch": self._ends_epoch(step),
        }[arguments.evaluation_strategy]
        entries = self.metrics.entries if self.metrics else []
        missing = not any("eval_loss" in entry and entry["step"] == step for entry in entries)
        # Only the first process knows the entries.
        if step and _sum_over_processes([due and missing and self.plan.rank == 0])[0]:
            self.state.global_step, self.state.epoch = step, self.plan.order.epochs_after(step)
            if self.evaluate() is None:
                raise Stopped

    def evaluate_at_the_end(self) -> None:
        """Evaluates what training ended with. Raises: Stopped if it is cut short."""
        if self.evaluate() is None:
            self._save_and_stop()

    def answer_what_is_due(self) -> None:
        """Has the sample questions answered by the state to start from, if they are due and were not.

        Raises: Stopped if it is stopped meanwhile.
        """
        self._answer_questions(self.plan.start.step)
        if self.plan.num_processes == 1 and self.stop.by:
            raise Stopped

    def _answer_questions(self, step: int) -> None:
        """Before training, after the last step and as often as asked. A request to stop cuts it short: nothing is kept,
        and the run makes up for it when it goes on.
        """
        if self._answers_are_due(step):
            self.answer_questions(step)

    def _answers_are_due(self, step: int) -> bool:
        often = self.arguments.evaluation_freq
        return step in (0, self.plan.num_steps) or bool(often) and step % often == 0

    def answer_questions(self, step: int) -> None:
        """Has the sample questions answered, unless they were after the same step."""
        if self.answers is None or not self.answers.questions or self.answers.has(step):
            return
        started = time.perf_counter()
        self.model.eval()
        with self.autocast_smart_context_manager():
            self.answers.ask(self.model, self.processor.tokenizer, step, lambda: self.stop.by)
        self.window.started += time.perf_counter() - started

    # Checkpoints

    def _save_checkpoint(self, model, metrics=None):
        """Writes everything that going on needs, if it is sound. Raises: Diverged."""
        self._check_sound()
        window = self._window_record()
        started = time.perf_counter()
        if self.plan.rank == 0:
            step = self.state.global_step
            marker = {"started": self.plan.start.started, "course": self.plan.course, "window": window}
            keep, best = self.arguments.save_total_limit, self.best["step"] if self.best else None
            self.last_checkpoint = checkpoints.write_checkpoint(
                self.output_dir, step, self._write_state, marker, keep, best
            )
            if time.perf_counter() - self.plotted > PLOT_EVERY:
                draw_metrics(self.metrics.entries, self.output_dir / LOSS_PLOT)
                self.plotted = time.perf_counter()
            self.progress.say(f"step {step}/{self.plan.num_steps}  checkpoint {self.last_checkpoint}")
        self.saved_step = self.state.global_step
        if self.plan.num_processes > 1:
            dist.barrier()
        self.window.started += time.perf_counter() - started
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _write_state(self, directory: Path) -> None:
        """Everything that going on needs. Random numbers are not in it: every step starts its own."""
        self.model.save_pretrained(directory, dtype=self.plan.weight_dtype)
        write_optimizer(directory, self.model, self.optimizer, self.lr_scheduler, self.scaler)
        self.state.save_to_json(str(directory / STATE_FILE))
        self.metrics.save_copy(directory)
        if self.answers.questions:
            self.answers.write(directory)

    def _load_from_checkpoint(self, resume_from_checkpoint=None):
        """The run has loaded the model from the checkpoint already."""

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None:
            read_optimizer(Path(checkpoint), self.model, self.optimizer, self.lr_scheduler, self.scaler)


def _answered(conversation: Conversation, answer: str) -> Answer:
    """A sample's last question and answer, and what was answered."""
    question, expected = conversation.messages[-2:]
    return Answer(conversation.source, question.text, expected.text, answer)


def check_best_metric(arguments: FinetuneArguments, evaluation: Samples) -> None:
    """Raises: ValueError if nothing of what is evaluated has what metric_for_best_model measures."""
    metric = arguments.best_metric[0].removeprefix("eval_")
    if not arguments.load_best_model_at_end or metric == "loss":
        return
    num_samples = len(evaluation)
    if arguments.max_evaluate_steps > 0:
        num_samples = min(num_samples, arguments.max_evaluate_steps * arguments.per_device_eval_batch_size)
    for index in range(num_samples):
        question, expected = evaluation.conversations[index].messages[-2:]
        if metric in metrics_for(question.text, expected.text):
            return
    raise ValueError(
        f'"metric_for_best_model" is "{metric}", but no sample of the evaluation has what it measures: '
        "choice_accuracy needs options in the question, box_iou a box in the answer, bleu four words there"
    )


def out_of_memory_message(step: int, batch: dict, sources: list[list[str]], error: Exception) -> str:
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


def _sum_over_processes(values: list[float]) -> np.ndarray:
    """float64 [len(values)], each summed over all processes."""
    values = np.asarray(values, "float64")
    if dist.get_world_size() == 1:
        return values
    tensor = paddle.to_tensor(values)
    dist.all_reduce(tensor)
    return tensor.numpy()

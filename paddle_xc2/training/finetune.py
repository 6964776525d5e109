"""Supervised fine-tuning from a JSON argument file, top to bottom."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import paddle
import paddle.distributed as dist
import paddlenlp
from paddlenlp.trainer import TrainerState

import paddle_xc2
from paddle_xc2 import runtime
from paddle_xc2.data.mixture import load_datasets
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.data.samples import Samples, fit_samples
from paddle_xc2.data.worker_processes import WorkersKilled
from paddle_xc2.files.durable import NoRoom
from paddle_xc2.hub.directory import open_model
from paddle_xc2.messages import counted
from paddle_xc2.model import ModelVerbs
from paddle_xc2.training.arguments import FinetuneArguments, dataset_specs, load_arguments
from paddle_xc2.training.divergence import Diverged
from paddle_xc2.training.early_end import EXIT_FAILURE, describe_early_end, early_end, report_disk_error
from paddle_xc2.training.evaluate import check_best_metric
from paddle_xc2.training.learning.add_lora import check_starts_from_a_base
from paddle_xc2.training.learning.new_tokens import token_row_lines
from paddle_xc2.training.learning.parts import choose_trainable
from paddle_xc2.training.optimizer import learn_in_float32
from paddle_xc2.training.outcome import answer_to_first_sample, outcome_lines
from paddle_xc2.training.parallel import wait_for_processes
from paddle_xc2.training.plan import Plan
from paddle_xc2.training.plan_text import first_sample_text, plan_lines
from paddle_xc2.training.plot import LOSS_PLOT, draw_metrics
from paddle_xc2.training.reporting import check_installed
from paddle_xc2.training.run_folder.checkpoints import check_whole
from paddle_xc2.training.run_folder.interruption import Stopped
from paddle_xc2.training.run_folder.start import (
    StartingPoint,
    begin_run_folder,
    check_none_in_the_way,
    check_settings_match,
    choose_start,
    held,
    note_end,
    train_longer,
)
from paddle_xc2.training.sample_answers import TABLE_FILE, read_questions
from paddle_xc2.training.shapes_only import model_of_shapes
from paddle_xc2.training.starting_model import ModelSource, find_model, load_starting_model
from paddle_xc2.training.trainer import TRAINER_STATE_FILE, StepTrainer


def finetune(config_path: str | Path, overrides: list[str] = (), plan_only: bool = False) -> int:
    """Trains as the argument file says; with do_train false, only evaluates.

    Args:
        config_path: JSON argument file.
        overrides: command-line words `--key value`, which win over the file.
        plan_only: say what the run would do and need, and stop; weights are not read, and nothing is written.
    Returns: exit status: 0, also if Ctrl-C or SIGTERM ended the training after a step that is saved; 130 if a second
        Ctrl-C ended it at once; 1 if the disk is full or can't be written to,
        or data workers were killed again and again.
    Raises: ValueError, FileNotFoundError for what a user can cause: before anything is written, but for images that
        turn out to be damaged and a loss that is not finite.
    """
    arguments = load_arguments(config_path, overrides)
    precision = prepare_device(arguments)
    check_installed(arguments.reporters)
    writes = dist.get_rank() == 0 and not plan_only
    with held(arguments) if writes else contextlib.nullcontext():
        wait_for_processes()  # what a killed run left is as it will be, before anybody looks at it
        return run(arguments, precision, config_path, overrides, plan_only)


def run(
    arguments: FinetuneArguments, precision: str, config_path: str | Path, overrides: list[str], plan_only: bool
) -> int:
    """The run, in a folder that no other writes into. Returns, raises: as `finetune`."""
    start = choose_start(arguments)
    # A plan needs its weights only to compare the base of LoRA with that of a checkpoint.
    source = find_model(arguments, start, weights=not plan_only or bool(start.checkpoint))
    plan = make_plan(arguments, precision, start, source, config_path, plan_only)
    if plan_only:
        show_plan(plan, source)
        return 0
    check_none_in_the_way(arguments, start, plan.num_steps if plan.train else 0, source.directory)
    if not plan.train:
        return evaluate_only(plan, source)
    check_settings_match(start, plan.resume_settings, plan.train)
    if start.is_over and not arguments.names_a_checkpoint and start.step < plan.num_steps:
        if plan.rank == 0:
            longer = train_longer(Path(arguments.output_dir), arguments.lora)
            print(f"{arguments.output_dir}: every step is trained already, and the model is saved; {longer}")
        return 0
    model = load_starting_model(plan, source)
    learning = choose_trainable(model, arguments)
    learn_in_float32(model, plan.weight_dtype, start.checkpoint)
    wait_for_processes()  # every process has looked at output_dir before the first one writes into it
    if plan.rank == 0:
        print_plan(plan, model, learning, source.processor)
    try:
        if plan.rank == 0:
            begin_run_folder(Path(arguments.output_dir), run_record(plan))
        trainer = StepTrainer(model, source.processor, plan)
    except OSError as error:
        return report_disk_error(arguments, error)
    return train(trainer, source, config_path, overrides)


def prepare_device(arguments: FinetuneArguments) -> str:
    """Sets the device, joins the other processes and quiets PaddleNLP. Returns: the precision to compute in."""
    logging.getLogger("PaddleNLP").setLevel(logging.ERROR)  # it would report every argument and every file
    if arguments.device:
        try:
            paddle.set_device(arguments.device)
        except ValueError as error:
            raise ValueError(f'"device" is "{arguments.device}", which can\'t be used: {error}; leave it out') from None
    if dist.get_world_size() > 1:
        dist.init_parallel_env()
    device = runtime.prepare().device
    return runtime.choose_precision(arguments.bf16, arguments.fp16, device, arguments.allow_precision_fallback)


def make_plan(
    arguments: FinetuneArguments,
    precision: str,
    start: StartingPoint,
    source: ModelSource,
    config_path: str | Path,
    plan_only: bool,
) -> Plan:
    """Reads the data, and decides everything that needs no model. Raises: as `finetune`."""
    train = read_samples(arguments, "train", config_path, source.processor) if arguments.do_train else None
    evaluation = read_samples(arguments, "eval", config_path, source.processor)
    questions = read_questions(arguments, config_path, source.processor)
    if evaluation:
        check_best_metric(arguments, evaluation)
    if train:
        check_starts_from_a_base(arguments, source.directory)
    # Some of its bytes are read: for a plan only if there is something to compare.
    compares_base = arguments.lora and train and (start.checkpoint or not plan_only)
    base = source.directory.identity() if compares_base else None
    place = (dist.get_world_size(), dist.get_rank())
    return Plan(arguments, precision, start, train, evaluation, *place, questions, base)


def read_samples(arguments: FinetuneArguments, part: str, config_path, processor) -> Samples | None:
    """The samples of "train" or "eval", or None if no files are given."""
    specs = dataset_specs(arguments, part, config_path)
    if not specs:
        return None
    silent = arguments.disable_tqdm or dist.get_rank() > 0
    leave_out = [value == "leave_out" for value in (arguments.truncation, arguments.bad_records)]
    return fit_samples(load_datasets(specs), processor, leave_out[0], silent, leave_bad_out=leave_out[1])


def show_plan(plan: Plan, source: ModelSource) -> None:
    """Prints the plan of a run whose model is not loaded."""
    if not plan.train:
        print(f"an evaluation of {counted(len(plan.evaluation), 'sample')}; nothing is trained")
        return
    check_settings_match(plan.start, plan.resume_settings, plan.train)
    model = model_of_shapes(plan, source)
    print_plan(plan, model, choose_trainable(model, plan.arguments), source.processor)
    print("this was the plan: nothing is trained or written; leave --plan out to do it")


def print_plan(
    plan: Plan,
    model: ModelVerbs,
    learning: dict[str, tuple[int, int]],
    processor: XComposer2Processor,
) -> None:
    """Says what is decided, and shows the first sample."""
    for note in plan.start.notes:
        print(note)
    device = runtime.prepare().device_name
    token_rows = token_row_lines(model, processor.tokenizer)
    print("\n".join(plan_lines(plan, model.config, learning, device, runtime.device_memory(), token_rows)))
    conversation, example = processor.lay_out(plan.train.conversations[0])
    images = conversation.images
    image_tokens = [processor.num_image_tokens(image, training=True, num_images=len(images)) for image in images]
    pieces = first_sample_text(example, image_tokens, processor.tokenizer, colour=sys.stdout.isatty())
    sys.stdout.writelines([f"\nfirst sample, {example.source}, trained parts marked:\n", *pieces, "\n\n"])
    sys.stdout.flush()


def evaluate_only(plan: Plan, source: ModelSource) -> int:
    """Returns: exit status."""
    try:
        StepTrainer(load_starting_model(plan, source), source.processor, plan).evaluate()
    except OSError as error:
        return report_disk_error(plan.arguments, error)
    return 0


def run_record(plan: Plan) -> dict:
    """What run.json holds: enough to do the run again."""
    return {
        "paddle_xc2": paddle_xc2.__version__,
        "paddle": paddle.__version__,
        "paddlenlp": paddlenlp.__version__,
        "started": plan.start.started,
        "device": runtime.prepare().device_name,
        "precision": plan.precision,
        "num_processes": plan.num_processes,
        "arguments": asdict(plan.arguments),
    }


def train(trainer: StepTrainer, source: ModelSource, config_path: str | Path, overrides: list[str]) -> int:
    """Trains to the end, or until something ends it, which is said with how to go on. Returns: exit status."""
    try:
        # The bar ends where training does, so that what is said then has a line of its own.
        with contextlib.closing(trainer.run_log.progress), trainer.stop.listening():
            seconds = train_to_the_end(trainer)
            best = trainer.evaluator.best
            if best and best["step"] != trainer.plan.num_steps:
                load_best(trainer, source)
            save_results(trainer, seconds)
        return 0
    except Diverged as error:
        if trainer.plan.rank == 0:
            print(f"{trainer.arguments.output_dir}: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except (Stopped, KeyboardInterrupt, WorkersKilled, OSError, NoRoom, MemoryError) as error:
        reason, status = early_end(trainer, error)
        if reason is None:
            raise
    if trainer.plan.rank == 0:
        print(describe_early_end(trainer, reason, config_path, overrides), file=sys.stderr)
    return status


def train_to_the_end(trainer: StepTrainer) -> float:
    """Trains what is left to train. Returns: seconds that it took."""
    started = time.perf_counter()
    start, arguments = trainer.plan.start, trainer.arguments
    trainer.evaluate_at_the_start()
    trainer.ask_sample_questions_at_the_start()
    if start.step < trainer.plan.num_steps:
        trainer.train(resume_from_checkpoint=str(start.checkpoint) if start.checkpoint else None)
    else:
        trainer.state = TrainerState.load_from_json(str(start.checkpoint / TRAINER_STATE_FILE))
        longer = train_longer(trainer.output_dir, arguments.lora)
        trainer.run_log.progress.say(f"every step is trained already; {longer}")
    trainer.run_log.progress.close()
    seconds = time.perf_counter() - started
    if arguments.do_eval and arguments.evaluation_strategy == "no" and start.step < trainer.plan.num_steps:
        trainer.evaluate_at_the_end()
    return seconds


def load_best(trainer: StepTrainer, source: ModelSource) -> None:
    """Puts the best state in the place of the last one. Raises: ValueError if its checkpoint is damaged."""
    plan, best = trainer.plan, trainer.evaluator.best
    if plan.rank > 0:
        return
    name = f"checkpoint-{best['step']}"
    checkpoint = trainer.output_dir / name
    if not checkpoint.exists():  # the run began with a checkpoint from elsewhere
        checkpoint = plan.start.checkpoint.with_name(name)
    try:
        check_whole(checkpoint)
    except ValueError as error:
        raise ValueError(f'{error}; it was the best, set "load_best_model_at_end" to false to save the last') from None
    trainer.model = trainer.model_wrapped = trainer.optimizer = None  # there may be no memory for two models
    of_best = replace(plan, start=replace(plan.start, checkpoint=checkpoint))
    trainer.model = load_starting_model(of_best, replace(source, learned=open_model(checkpoint)))
    choose_trainable(trainer.model, plan.arguments)  # an adapter is saved with all that learns beside it
    trainer.model_step = best["step"]
    trainer.ask_sample_questions(best["step"])
    metric, _ = trainer.arguments.best_metric
    loss = "" if metric == "eval_loss" else f", eval_loss {best['eval_loss']:.4f}"
    print(f"{checkpoint} is taken, the best of all: {metric} {best[metric]:.4f}{loss}")


def save_results(trainer: StepTrainer, seconds: float) -> None:
    """Writes the trained model, which is at once a checkpoint for chat, and what was measured."""
    if trainer.plan.rank > 0:
        return
    output_dir, entries = trainer.output_dir, trainer.run_log.entries
    trainer.run_log.reporters.close()
    trainer.state.log_history = entries
    trainer.state.save_to_json(str(output_dir / TRAINER_STATE_FILE))
    draw_metrics(entries, output_dir / LOSS_PLOT)
    losses = [entry["loss"] for entry in entries if entry.get("loss") is not None]
    steps = counted(trainer.plan.num_steps - trainer.plan.start.step, "step")
    last_loss = f", last loss {losses[-1]:.4f}" if losses else ""
    print(f"trained {steps} in {seconds:.0f} s{last_loss}; {output_dir} holds metrics.jsonl and {LOSS_PLOT}")
    if compared := trainer.answers.before_and_after(trainer.model_step):
        print("\n".join([f"sample answers, all of them in {output_dir / TABLE_FILE}:", *compared]))
    if not trainer.arguments.benchmark:
        save_model(trainer)


def save_model(trainer: StepTrainer) -> None:
    """Writes the trained model, and says what came of the run."""
    output_dir, plan = trainer.output_dir, trainer.plan
    trainer.model.save_pretrained(output_dir, dtype=plan.weight_dtype)
    note_end(output_dir)
    trainer.model.eval()
    with trainer.autocast_smart_context_manager():
        question, answer = answer_to_first_sample(trainer.model, trainer.processor, plan)
    print("\n".join(outcome_lines(plan, trainer.run_log.entries, question, answer)))
    print(f"the model is saved, ask it: paddle-xc2 chat --from_pretrained {shlex.quote(str(output_dir))}")

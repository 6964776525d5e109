"""Evaluates states of a run: their loss, the answers that they generate, and which of them is the best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import paddle

from paddle_xc2 import runtime
from paddle_xc2.data.batches import EvaluationBatches, ItemLoader, QuestionBatches
from paddle_xc2.data.conversation import Conversation
from paddle_xc2.data.samples import Samples
from paddle_xc2.generation.chat import decode_answer, stop_ids
from paddle_xc2.generation.generate import generate
from paddle_xc2.generation.scores import Answer, metrics_for, summary
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.divergence import describe_batches, starting_model_message
from paddle_xc2.training.log import TrainingLog
from paddle_xc2.training.metrics_file import best_evaluation, read_metrics
from paddle_xc2.training.parallel import gather_from_processes, sum_over_processes
from paddle_xc2.training.plan import Plan
from paddle_xc2.training.run_folder.interruption import StopRequest
from paddle_xc2.training.run_folder.predictions import write_predictions


class Evaluator:
    """Evaluates the model on the evaluation data of a run.

    Attributes:
        best: the best evaluation so far, an entry of metrics.jsonl, if load_best_model_at_end asks for it; else None.

    Args:
        plan: of the run.
        processor: encodes the samples.
        log: takes what is measured.
        autocast: makes the context that the run computes in.
        stop: asked between batches: whether to leave the rest.
    """

    def __init__(
        self,
        plan: Plan,
        processor,
        log: TrainingLog,
        autocast: Callable[[], AbstractContextManager],
        stop: StopRequest,
    ):
        self.plan = plan
        self.arguments = plan.arguments
        self.tokenizer = processor.tokenizer
        self.log = log
        self.autocast = autocast
        self.stop = stop
        self.best = self._best_up_to_the_start()
        self.batches = self.questions = None
        if plan.evaluation:
            batch_size = self.arguments.per_device_eval_batch_size
            self.batches = EvaluationBatches(plan.evaluation, processor, batch_size)
            if self.arguments.eval_with_do_generation:
                self.questions = QuestionBatches(plan.evaluation, processor, batch_size)

    def is_due_at_the_start(self, ends_epoch: bool) -> bool:
        """Whether the state to start from should have been evaluated and was not: the run was stopped meanwhile.

        Args:
            ends_epoch: whether an epoch ends with it.
        """
        step, arguments = self.plan.start.step, self.arguments
        due = {
            "no": arguments.do_eval and step >= self.plan.num_steps,
            "steps": step % arguments.steps_between_evaluations == 0,
            "epoch": ends_epoch,
        }[arguments.evaluation_strategy]
        missing = not any("eval_loss" in entry and entry["step"] == step for entry in self.log.entries)
        # Only the first process knows the entries.
        return bool(step) and bool(sum_over_processes([due and missing and self.plan.rank == 0])[0])

    def evaluate(self, model, step: int, epoch: float) -> dict | None:
        """Mean loss over every trained token of the evaluation data, as an entry of metrics.jsonl.

        With eval_with_do_generation also what the generated answers are worth.

        Args:
            step, epoch: after which the model is as it is.
        Returns: the entry; None if it was cut short by a request to stop: the run makes up for it when it goes on.
        Raises: ValueError if the loss is not finite and nothing is trained, which would be told instead.
        """
        started = time.perf_counter()
        with self.log.not_training():
            model.eval()
            losses, num_tokens = self._batch_losses(model)
            records = self._generated_answers(model, step) if self.questions and not self.stop.by else []
            total = math.fsum(float(loss) for loss in losses)
            total, num_tokens, num_stopped = sum_over_processes([total, num_tokens, self.stop.by is not None])
            if num_stopped:
                return None
            if not self.plan.train and not math.isfinite(total):
                self._refuse_starting_model(model, losses, total / num_tokens)
            records = sorted(gather_from_processes(records), key=lambda record: record["index"])
            entry = {
                "step": step,
                "epoch": round(epoch, 6),
                "eval_loss": float(total / num_tokens),
                "eval_tokens": int(num_tokens),
                "eval_seconds": round(time.perf_counter() - started, 3),
                **({"eval_answers": len(records)} if self.questions else {}),
                **{f"eval_{name}": score for name, score in summary(records).items()},
            }
            if self.arguments.save_generation_output and self.plan.rank == 0:
                directory = Path(self.arguments.output_dir)
                directory.mkdir(parents=True, exist_ok=True)
                write_predictions(directory, step, records)
        self.log.report(entry)
        if self.arguments.load_best_model_at_end:
            self.best = best_evaluation([self.best, entry] if self.best else [entry], *self.arguments.best_metric)
        return entry

    def _batch_losses(self, model) -> tuple[list, int]:
        """(sum of the token losses of each batch of this process, on the device; their tokens)."""
        indexes, losses, num_tokens = self._batches_of_this_process(), [], 0
        items = ItemLoader(self.batches, indexes, self.arguments.dataloader_num_workers)
        with paddle.no_grad():
            for item in self.log.progress.over(items, len(indexes), "evaluating"):
                if self.stop.by:
                    break
                with self.autocast():
                    losses += [model(**batch, loss_denominator=1.0).loss for batch in item.batches]
                num_tokens += item.num_trained_tokens
        return losses, num_tokens

    def _generated_answers(self, model, step: int) -> list[dict]:
        """What the model answers to the samples of this process: records of `Answer` with the samples' index."""
        arguments, stops = self.arguments, stop_ids(model, self.tokenizer)
        longest = arguments.max_new_tokens or int(self.plan.evaluation.lengths[:, 2].max())
        sampling = {"do_sample": arguments.top_k != 1, "top_k": arguments.top_k, "top_p": arguments.top_p}
        seeds = np.random.SeedSequence([arguments.seed, step, self.plan.rank])
        runtime.set_seed(int(seeds.generate_state(1)[0]))  # of answers that are drawn
        indexes, records = self._batches_of_this_process(), []
        items = ItemLoader(self.questions, indexes, arguments.dataloader_num_workers)
        for index, item in zip(indexes, self.log.progress.over(items, len(indexes), "answering"), strict=True):
            if self.stop.by:
                break
            (batch,) = item.batches
            with self.autocast():
                ids, _ = generate(model, **batch, max_new_tokens=longest, eos_token_id=stops, **sampling)
            for number, row in enumerate(ids.tolist(), index * self.questions.batch_size):
                text = decode_answer(self.tokenizer, row, stops)
                record = _beside_the_expected(self.plan.evaluation.conversations[number], text).record()
                records.append({"index": number, **record})
        return records

    def _batches_of_this_process(self) -> range:
        num_batches = len(self.batches)
        if self.arguments.max_evaluate_steps > 0:
            num_batches = min(num_batches, self.arguments.max_evaluate_steps)
        return range(self.plan.rank, num_batches, self.plan.num_processes)

    def _refuse_starting_model(self, model, losses: list, mean: float) -> None:
        """Raises: ValueError, always. losses: of the batches of this process, of which some are not finite."""
        indexes = self._batches_of_this_process()
        broken = [index for index, loss in zip(indexes, losses, strict=True) if not math.isfinite(float(loss))]
        batches = [batch for item in ItemLoader(self.batches, broken[:1], 0) for batch in item.batches]
        source = self.arguments.lora_path or self.arguments.model_name_or_path
        raise ValueError(starting_model_message(source, describe_batches(model, batches, self.autocast), mean))

    def _best_up_to_the_start(self) -> dict | None:
        """The best evaluation up to the checkpoint to start from, of those that can still be loaded."""
        checkpoint = self.plan.start.checkpoint
        if not self.arguments.load_best_model_at_end or not checkpoint:
            return None
        there = {path.name for path in checkpoint.parent.glob("checkpoint-*")}
        entries = [entry for entry in read_metrics(checkpoint) if f"checkpoint-{entry['step']}" in there]
        return best_evaluation(entries, *self.arguments.best_metric)


def _beside_the_expected(conversation: Conversation, answer: str) -> Answer:
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

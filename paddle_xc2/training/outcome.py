"""Whether a run can teach, and has taught, the model anything: said in the plan and at the end, with what to do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_xc2.families.special_tokens import IMAGE_PLACEHOLDER
from paddle_xc2.generation.chat import decode_answer, stop_ids
from paddle_xc2.generation.generate import generate
from paddle_xc2.messages import counted, shown
from paddle_xc2.training.metrics_file import best_evaluation, is_measured
from paddle_xc2.training.run_folder.start import train_longer

if TYPE_CHECKING:
    from paddle_xc2.training.plan import Plan

FEW_STEPS = 100  # below this, a model hardly changes at the learning rates that fine-tuning takes
_NEARLY = 0.8  # of FEW_STEPS
_LITTLE = 0.1  # share of the first loss: a fall by less is hardly one
_ANSWER_TOKENS = 32


def few_steps_line(plan: Plan) -> str | None:
    """What to set where a run is too short to learn much; None where it is long enough."""
    arguments, steps = plan.arguments, plan.num_steps
    if steps >= FEW_STEPS:
        return None
    advice = f"{counted(steps, 'step')} will teach little, below {FEW_STEPS} a model hardly changes; set "
    if arguments.max_steps > 0:
        return f"{advice}max_steps to {FEW_STEPS} or more"
    advice += f"num_train_epochs to {math.ceil(FEW_STEPS * arguments.num_train_epochs / steps)}"
    accumulated = arguments.gradient_accumulation_steps
    if accumulated > 1 and accumulated * steps > _NEARLY * FEW_STEPS:
        advice += f", or gradient_accumulation_steps to {max(1, accumulated * steps // FEW_STEPS)}"
    return f"{advice} or so"


def first_and_last(losses: list[float]) -> tuple[float, float] | None:
    """Means of the first and of the last tenth of the losses of training; None where there are too few to compare."""
    if len(losses) < 2:
        return None
    share = max(1, len(losses) // 10)
    return sum(losses[:share]) / share, sum(losses[-share:]) / share


def little_learned(losses: list[float]) -> str | None:
    """That the loss hardly moved, with its numbers; None if it fell or rose, or if there are too few to say.

    Args:
        losses: of training, in order.
    """
    if (compared := first_and_last(losses)) is None:
        return None
    first, last = compared
    if not (1 - _LITTLE) * first <= last <= (1 + _LITTLE) * first:
        return None
    return f"the loss hardly moved, from {first:.4f} to {last:.4f}: the model has learned little"


def diverged(losses: list[float], learning_rate: float) -> str | None:
    """That the loss of training rose, with its numbers, and what to set; None if it did not. losses: in order."""
    if (compared := first_and_last(losses)) is None:
        return None
    first, last = compared
    if last <= (1 + _LITTLE) * first:
        return None
    return (
        f"the loss rose, from {first:.4f} to {last:.4f}: the model is worse than before; lower learning_rate "
        f"({learning_rate:g}), or lengthen warmup_ratio or warmup_steps, and begin anew"
    )


def lowest_evaluation(entries: list[dict]) -> dict | None:
    """The evaluation with the lowest loss; of equals the first, None if there is none.

    Args:
        entries: of metrics.jsonl.
    """
    return best_evaluation(entries, "eval_loss", greater=False)


def risen_evaluation(entries: list[dict]) -> dict | None:
    """The last evaluation, if its loss is clearly above the lowest; else None. entries: of metrics.jsonl."""
    evaluated = [entry for entry in entries if is_measured(entry, "eval_loss")]
    best = lowest_evaluation(evaluated)
    return evaluated[-1] if best and evaluated[-1]["eval_loss"] > (1 + _LITTLE) * best["eval_loss"] else None


def overfitted(entries: list[dict]) -> str | None:
    """That the loss of the evaluations rose again, with its numbers; None if it did not. entries: of metrics.jsonl."""
    best, last = lowest_evaluation(entries), risen_evaluation(entries)
    if last is None:
        return None
    return (
        f"the evaluation loss was lowest after step {best['step']}, {best['eval_loss']:.4f}, and rose to "
        f"{last['eval_loss']:.4f}: the model learned the training samples by heart; set load_best_model_at_end, train "
        "for fewer epochs, or add data"
    )


def answer_to_first_sample(model, processor, plan: Plan) -> tuple[str, str]:
    """(the last question of the first training sample, what the model, in evaluation mode, answers to it)."""
    conversation = plan.train.conversations[0]
    batch = processor.collate([processor.encode_question(conversation)])
    del batch["labels"]
    stops = stop_ids(model, processor.tokenizer)
    ids, _ = generate(model, **batch, max_new_tokens=_ANSWER_TOKENS, eos_token_id=stops)
    question = processor.lay_out(conversation)[0].messages[-2].text
    return question.replace(IMAGE_PLACEHOLDER, "").strip(), decode_answer(processor.tokenizer, ids[0].tolist(), stops)


def outcome_lines(plan: Plan, entries: list[dict], question: str, answer: str) -> list[str]:
    """What came of a run, and what to do where nothing did.

    Args:
        entries: of metrics.jsonl.
        question, answer: of `answer_to_first_sample`.
    """
    arguments = plan.arguments
    lines = [f'asked "{shown(question)}" of the first sample, the model answers "{shown(answer)}"']
    losses = [entry["loss"] for entry in entries if entry.get("loss") is not None]
    if rose := diverged(losses, arguments.learning_rate):
        return [*lines, rose]
    unmoved = little_learned(losses)
    if unmoved:
        lines.append(unmoved)
    if not answer.strip():
        lines.append("the answer is empty")
    if unmoved or not answer.strip():
        longer = train_longer(Path(arguments.output_dir), arguments.lora)
        few = few_steps_line(plan)
        lines.append(f"{few or f'raise learning_rate (it was {arguments.learning_rate:g})'}; {longer}")
    if not arguments.load_best_model_at_end and (risen := overfitted(entries)):
        lines.append(risen)
    return lines

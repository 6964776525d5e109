"""Looks at what training makes of a model: whether steps were taken, and whether their state is worth keeping."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import paddle

from paddle_xc2.data.batches import StepItem
from paddle_xc2.messages import counted, listed
from paddle_xc2.training.divergence import Diverged, describe_batches, diverged_message, starting_model_message
from paddle_xc2.training.optimizer import StepGuard, gradient_norm, not_finite
from paddle_xc2.training.parallel import sum_over_processes
from paddle_xc2.training.plan import Plan


class StateCheck:
    """Of the steps of a run, which were taken, and after which of them the state is known to be sound.

    Attributes:
        pending: (item, loss) of a step of which it is not known yet whether it was taken; else None.

    Args:
        plan: of the run.
        autocast: makes the context that the run computes in.
    """

    def __init__(self, plan: Plan, autocast: Callable[[], AbstractContextManager]):
        self.plan = plan
        self.autocast = autocast
        self.pending: tuple[StepItem, paddle.Tensor] | None = None
        self._taken_step = self._sound_step = plan.start.step  # the last that was taken, and that was looked at
        self._last_batch: dict | None = None  # the first of the last step that was taken

    def was_taken(self, step: int, model, optimizer, guard: StepGuard, checkpoint: Path | None) -> bool:
        """Settles the pending step.

        Args:
            step: that is done, counted from 1.
            checkpoint: the newest one, for the message.
        Returns: whether it was taken; else it has changed nothing.
        Raises: Diverged if no step can be taken any more; ValueError if the model to start from computes NaN.
        """
        (item, loss), self.pending = self.pending, None
        if not guard.skipped:
            self._taken_step, self._last_batch = step, item.batches[0]
            return True
        loss = float(sum_over_processes([float(loss)])[0]) / self.plan.num_processes
        if step == 1 and not math.isfinite(loss):
            source = self.plan.arguments.lora_path or self.plan.arguments.model_name_or_path
            raise ValueError(starting_model_message(source, describe_batches(model, item.batches, self.autocast), loss))
        if guard.is_hopeless(loss):
            norm, many = optimizer._grad_clip.last_norm, counted(guard.in_a_row, "step")
            what = f"step {step}: loss {loss:.4g}, gradient norm {norm:.4g}, {many} skipped in a row"
            raise self._diverged(what, model, item.batches, checkpoint)
        return False

    def check(self, model, optimizer, guard: StepGuard, checkpoint: Path | None) -> None:
        """Looks at the state before it is kept: its parameters, and loss and gradients of the last step's first batch.

        Nothing else tells that training can go on from it: of a state with finite parameters, the loss or the gradients
        may not be, which the next step only would show.

        Args:
            checkpoint: the newest one, for the message.
        Raises: Diverged.
        """
        if self._sound_step >= self._taken_step:
            return
        step, batch = self._taken_step, self._last_batch
        names = not_finite(model, self.plan.weight_dtype)
        model.train()  # for recompute; its random numbers are nobody's, every step starts its own
        with self.autocast():
            loss = model(**batch).loss
        guard.scale(loss).backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        loss, norm = float(loss), float(gradient_norm(gradients)) / guard.loss_scale
        optimizer.clear_grad(set_to_zero=False)
        broken = not math.isfinite(loss + norm) and not guard.can_mend(loss)
        if sum_over_processes([broken or bool(names)])[0]:
            found = f"loss {loss:.4g}, gradient norm {norm:.4g}"
            if names:
                found = f"{listed(names)} {'is' if len(names) == 1 else 'are'} not finite"
            raise self._diverged(f"the state after step {step} is not saved: {found}", model, [batch], checkpoint)
        self._sound_step = step

    def _diverged(self, what: str, model, batches: list[dict], checkpoint: Path | None) -> Diverged:
        where = describe_batches(model, batches, self.autocast)
        return Diverged(diverged_message(what, where, self.plan.arguments, checkpoint))

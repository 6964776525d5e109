"""How a run ends before its end: what is said of it, and with which exit status."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from paddle_xc2.data.worker_processes import WorkersKilled
from paddle_xc2.device_errors import device_message
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.divergence import Diverged
from paddle_xc2.training.run_folder.interruption import Stopped, is_disk_error

if TYPE_CHECKING:
    from paddle_xc2.training.trainer import StepTrainer

EXIT_FAILURE, EXIT_INTERRUPTED = 1, 130


def early_end(trainer: StepTrainer, error: BaseException) -> tuple[str | None, int]:
    """(what ended the run early, or None for an error that says all by itself; the exit status)."""
    if isinstance(error, Stopped):
        return f"stopped by {trainer.stop.by or 'a signal to another process'}", 0
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C in the midst of it", EXIT_INTERRUPTED
    if isinstance(error, WorkersKilled):
        if trainer.plan.num_processes == 1:  # else the others would have to take part
            with suppress(Diverged):  # what is not worth keeping is none to speak of here
                trainer.save_what_is_trained()
        return str(error), EXIT_FAILURE
    reason = device_message(error)
    if reason is None and is_disk_error(error):
        reason = f"{trainer.arguments.output_dir} can't be written to ({error}); make room, or mend the disk"
    return reason, EXIT_FAILURE


def describe_early_end(trainer: StepTrainer, reason: str, config_path, overrides: list[str]) -> str:
    """What ended the run early, how far it came, and how to go on.

    Args:
        reason: the first of these.
    """
    message = f"{reason}; {trainer.state.global_step} of {trainer.plan.num_steps} steps are done, "
    if trainer.last_checkpoint is None:
        return message + "there is no checkpoint yet (save_strategy, save_steps)"
    # Nothing is written yet where the checkpoint that the run began with lies elsewhere.
    resume = "auto" if trainer.last_checkpoint.parent == trainer.output_dir else str(trainer.last_checkpoint)
    command = shlex.join(["paddle-xc2", "finetune", str(config_path), *overrides, "--resume_from_checkpoint", resume])
    if trainer.plan.num_processes > 1:  # what launched them is not known here
        command = f"the same {trainer.plan.num_processes} processes and --resume_from_checkpoint {shlex.quote(resume)}"
    return message + f"the last checkpoint is {trainer.last_checkpoint}; go on with: {command}"


def report_disk_error(arguments: FinetuneArguments, error: OSError) -> int:
    """Says that nothing could be written. Returns: the exit status. Raises: `error` if it is another one."""
    if not is_disk_error(error):
        raise error
    where = f"output_dir {arguments.output_dir} can't be written to"
    print(f"{where}: {error}; mend that, or choose another folder", file=sys.stderr)
    return EXIT_FAILURE

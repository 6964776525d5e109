"""AdamW of a run, in which precision it works, which steps it skips, and its state in a checkpoint.

Precision. What learns is float32 itself, in every precision of a run: values, gradients and moments. What is frozen is
stored in the dtype that the run computes in (`Plan.weight_dtype`), and every layer casts its parameters to the dtype of
what enters (models/plora.py, internlm2.py, layer_norm.py, clip_vit.py, lora.py, token_rows.py, loss.py). So a small
gradient, which a product in float16 gives only because the loss is scaled up, is float32 before the scale is taken out
again. `paddle.amp.decorate` would cast what learns back to half precision (paddle/amp/auto_cast.py, `amp_initialize`):
nothing here calls it. Files hold what they always held: the parameters in the dtype of the run, and their float32
values beside the moments.

Skipped steps. A step whose gradients are not finite changes nothing: no parameter, no moment, no learning rate.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import paddle
from paddle import nn
from paddle.nn.clip import _squared_l2_norm as squared_l2_norm
from paddlenlp.trainer.trainer_utils import get_scheduler

from paddle_xc2.checkpoint.lazy_tensor import LazyTensor, tensor_in_memory
from paddle_xc2.checkpoint.safetensors_file import read_safetensors
from paddle_xc2.checkpoint.shard_writer import write_shards
from paddle_xc2.hub.weight_files import find_shards
from paddle_xc2.training.arguments import FinetuneArguments

OPTIMIZER_DIR = "optimizer"
OPTIMIZER_FILE = "optimizer.json"  # scheduler, loss scale, and steps skipped
_FLOAT32_VALUE = "/master"  # behind a parameter's name in these files
GROW_EVERY = 2000  # steps after which a loss scale is doubled, as in Paddle's GradScaler
MAX_SKIPPED = 5  # steps in a row, where nothing changes that could mend the next


# --- Precision ---


@paddle.no_grad()
def learn_in_float32(model, dtype: str, checkpoint: Path | None = None) -> None:
    """Makes what learns float32, and has the model compute in `dtype` all the same.

    Args:
        model: of which `set_trainable` has said what learns.
        checkpoint: to go on from: its float32 values are taken, which the parameters in it are rounded from.
    """
    if dtype == "float32":
        return
    exact = {}
    if checkpoint is not None:
        exact = {name: tensor for name, tensor in _read_state(checkpoint).items() if name.endswith(_FLOAT32_VALUE)}
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        parameter.astype("float32")._share_buffer_to(parameter)
        tensor = exact.get(f"{name}{_FLOAT32_VALUE}")
        if tensor is not None:
            parameter.set_value(tensor.load("float32", name))
    model.model.compute_dtype = model.vit.compute_dtype = dtype


def learning_parameters(model) -> dict[str, paddle.Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if not parameter.stop_gradient}


@paddle.no_grad()
def not_finite(model, dtype: str) -> list[str]:
    """Names of the learning parameters that hold NaN or infinity, or would, written as `dtype`."""
    learning = learning_parameters(model)
    # Side by side on the device: looking at each would wait for it.
    finite = [paddle.isfinite(parameter.astype(dtype)).all() for parameter in learning.values()]
    return [name for name, sound in zip(learning, paddle.stack(finite).tolist(), strict=True) if not sound]


# --- The optimizer ---


class GradientsNotFinite(Exception):
    """Raised within `optimizer.step()`, before anything is updated."""


@paddle.no_grad()
def gradient_norm(gradients):
    """Of all of them together, float32 scalar on the device; squares are summed in float32 whatever their dtype.

    `squared_l2_norm` of float16 gives float16 (paddle/nn/clip.py): 0 for small gradients, infinity for large ones.
    """
    return paddle.stack([squared_l2_norm(grad.astype("float32")).reshape([]) for grad in gradients]).sum().sqrt()


class NormRecordingClip(nn.ClipGradByGlobalNorm):
    """Takes the scale of the loss out of the gradients and clips them by global norm, in place; computed in float32.

    Attributes:
        last_norm: of the last step, before clipping.
        loss_scale: what the loss was multiplied with.

    Args:
        clip_norm: largest norm; 0 doesn't clip.
    Raises: GradientsNotFinite, when called, if the norm is not finite. paddle/optimizer/optimizer.py
        (`_apply_optimize`) calls it before anything else.
    """

    def __init__(self, clip_norm: float):
        super().__init__(clip_norm)
        self.last_norm = math.nan
        self.loss_scale = 1.0

    @paddle.no_grad()
    def _dygraph_clip(self, params_grads):
        norm = gradient_norm([grad for _, grad in params_grads]) / self.loss_scale
        self.last_norm = norm.item()  # waits for the step: whether it counts decides what the next one computes
        if not math.isfinite(self.last_norm):
            raise GradientsNotFinite
        clips = 0 < self.clip_norm < self.last_norm
        if not clips and self.loss_scale == 1.0:
            return params_grads
        factor = (self.clip_norm / norm if clips else 1.0) / paddle.to_tensor(self.loss_scale)
        for _, grad in params_grads:
            grad.multiply_(factor.astype(grad.dtype))
        return params_grads


def build_optimizer(model, arguments: FinetuneArguments, schedule) -> paddle.optimizer.AdamW:
    """AdamW. Matrices decay; vectors (biases, norm weights, the class embedding) don't, as in PaddleNLP.

    Upstream also decays the weights of InternLM2's norms, because Hugging Face's rule does not know them.
    """
    learning = list(learning_parameters(model).values())
    decaying = {parameter.name for parameter in learning if parameter.ndim > 1}
    optimizer = paddle.optimizer.AdamW(
        learning_rate=schedule,
        beta1=arguments.adam_beta1,
        beta2=arguments.adam_beta2,
        epsilon=arguments.adam_epsilon,
        parameters=learning,
        weight_decay=arguments.weight_decay,
        apply_decay_param_fun=decaying.__contains__,
        grad_clip=NormRecordingClip(arguments.max_grad_norm),
    )
    # Now, not after the first step: whether memory lasts is seen in that one, which has the largest batch.
    optimizer._create_accumulators(paddle.base.framework.default_main_program().global_block(), learning)
    return optimizer


def build_schedule(arguments: FinetuneArguments, num_steps: int, warmup_steps: int):
    """The learning rate of every step, as a scheduler of Paddle's."""
    return get_scheduler(
        arguments.lr_scheduler_type,
        learning_rate=arguments.learning_rate,
        num_warmup_steps=warmup_steps,
        # After a run that is all warm-up, polynomial would divide by the steps that are left.
        num_training_steps=max(num_steps, warmup_steps + 1),
        num_cycles=arguments.num_cycles,
        lr_end=arguments.lr_end,
        power=arguments.power,
    )


class StepGuard:
    """Takes every optimizer step, or skips it whole because its gradients are not finite; scales float16's loss.

    It stands where PaddleNLP's Trainer has Paddle's GradScaler, and follows its rules (paddle/amp/grad_scaler.py,
    `_update`): half the scale after every step that is skipped, twice the scale after 2000 that are not. The GradScaler
    itself can't be taken: `scale` switches it off for good wherever no autocast of Paddle's has been entered, as with
    weights in float16 (`amp_global_state().amp_dtype`); `_unscale` works in the gradient's own dtype; on a CPU it
    breaks; and in bfloat16 and float32 it looks at nothing.

    Attributes:
        skipped: whether the last step was.
        in_a_row: steps skipped since the last one that was taken.
        loss_scale: of the next step.

    Args:
        loss_scale: to begin with; None does without, for bfloat16 and float32.
    """

    def __init__(self, loss_scale: float | None):
        self.scales = loss_scale is not None
        self.skipped, self.in_a_row = False, 0
        self._good_steps = 0
        self._set_scale(loss_scale if self.scales else 1.0)

    def scale(self, loss):
        """The loss to compute gradients of."""
        return loss * self._scale if self.scales else loss

    def step(self, optimizer) -> None:
        optimizer._grad_clip.loss_scale = self.loss_scale
        try:
            optimizer.step()
        except GradientsNotFinite:
            self.skipped, self.in_a_row = True, self.in_a_row + 1
        else:
            self.skipped, self.in_a_row = False, 0

    def update(self) -> None:
        """Chooses the scale of the next step."""
        if not self.scales:
            return
        self._good_steps = 0 if self.skipped else self._good_steps + 1
        if self.skipped:
            self._set_scale(self.loss_scale / 2)
        elif self._good_steps == GROW_EVERY:
            self._good_steps = 0
            self._set_scale(self.loss_scale * 2)

    def can_mend(self, loss: float) -> bool:
        """Whether a smaller scale may make gradients finite that are not. loss: that they are of."""
        return self.scales and math.isfinite(loss) and self.loss_scale >= 1.0

    def is_hopeless(self, loss: float) -> bool:
        """Whether skipping more steps than the last can't help. loss: of the last step, which was skipped."""
        return not self.can_mend(loss) and (self.scales and math.isfinite(loss) or self.in_a_row >= MAX_SKIPPED)

    def state_dict(self) -> dict:
        """Under the GradScaler's names, as JSON values."""
        return {"scale": [self.loss_scale], "incr_count": self._good_steps, "skipped": self.in_a_row}

    def load_state_dict(self, state: dict) -> None:
        self._good_steps, self.in_a_row = state["incr_count"], state.get("skipped", 0)
        if self.scales:
            self._set_scale(float(state["scale"][0]))

    # What PaddleNLP's Trainer looks at (paddlenlp/trainer/trainer.py): where it is true, the schedule stays.

    @property
    def _cache_found_inf(self) -> bool:
        return self.skipped

    def _set_scale(self, loss_scale: float) -> None:
        self.loss_scale = loss_scale
        self._scale = paddle.to_tensor([loss_scale], "float32")


# --- Its state in a checkpoint ---


def write_optimizer(directory: Path, model, optimizer, lr_scheduler, guard: StepGuard | None = None) -> dict[str, str]:
    """Writes the state of the optimizer under the parameters' names in the model, one tensor at a time.

    Returns: SHA-256 of the shards, by path in `directory`.
    """
    tensors = {name: tensor_in_memory(tensor) for name, tensor in _state_tensors(model, optimizer).items()}
    if model.model.compute_dtype is not None:
        exact = learning_parameters(model)
        tensors |= {f"{name}{_FLOAT32_VALUE}": tensor_in_memory(value) for name, value in exact.items()}
    (directory / OPTIMIZER_DIR).mkdir()
    digests = write_shards(directory / OPTIMIZER_DIR, tensors, metadata_format="pd")
    state = {"lr_scheduler": lr_scheduler.state_dict()}
    if guard is not None:
        state["scaler"] = guard.state_dict()
    (directory / OPTIMIZER_FILE).write_text(json.dumps(state, indent=2))
    return {f"{OPTIMIZER_DIR}/{name}": digest for name, digest in digests.items()}


def read_optimizer(directory: Path, model, optimizer, lr_scheduler, guard: StepGuard | None = None) -> None:
    """Brings the optimizer, which has not stepped yet, into the state that `write_optimizer` wrote."""
    saved = _read_state(directory)
    # By hand: after Paddle's own set_state_dict, a parameter that gets its first gradient later on is an error.
    with_state = {name.rpartition("/")[0] for name in saved if not name.endswith(_FLOAT32_VALUE)}
    parameters = [parameter for name, parameter in model.named_parameters() if name in with_state]
    optimizer._create_accumulators(paddle.base.framework.default_main_program().global_block(), parameters)
    for name, tensor in _state_tensors(model, optimizer).items():
        tensor.set_value(saved[name].load(saved[name].dtype, name))
    state = json.loads((directory / OPTIMIZER_FILE).read_text())
    lr_scheduler.set_state_dict(state["lr_scheduler"])
    if guard is not None and "scaler" in state:
        guard.load_state_dict(state["scaler"])


def _read_state(directory: Path) -> dict[str, LazyTensor]:
    saved = {}
    for shard in find_shards(directory / OPTIMIZER_DIR):
        saved.update(read_safetensors(shard))
    return saved


def _state_tensors(model, optimizer) -> dict[str, paddle.Tensor]:
    """{"parameter's name in the model/what it is": tensor} of all that the optimizer keeps."""
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    return {
        f"{names[owner]}/{kind}": tensor
        for kind, tensors in optimizer._accumulators.items()
        for owner, tensor in tensors.items()
    }

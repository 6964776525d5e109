"""Says where a model begins to compute NaN or infinity, and why: for messages, once it has been seen to."""

from __future__ import annotations

from collections.abc import Iterator

import paddle

from paddle_xc2.messages import listed
from paddle_xc2.models.lora import checkpoint_name

_NUM_NAMES_SHOWN = 3
_POSITIONS_AT_ONCE = 64  # logits of all positions of a long batch may not fit into memory


@paddle.no_grad()
def describe_not_finite(model, **batch) -> str:
    """Runs a batch through the model and looks at what every layer gives.

    Args:
        model: XComposer2ForCausalLM; it stays in the mode that it is in.
        batch: what `model(**batch)` takes, without a cache; labels are not looked at.
    Returns: part of a sentence: what the model computes, in which dtype, at which layer that begins, which parameters
        are the reason, and what to do. "" if everything up to the logits is finite.
    """
    found = _first_not_finite(model, batch)
    if found is None:
        return ""
    where, values = found
    what, dtype = ("NaN" if bool(paddle.isnan(values).any()) else "infinity"), str(values.dtype).split(".")[-1]
    begun = f"the model computes {what}, in {dtype}, and it begins at {where}"
    names = list(not_finite_parameters(model))
    if inside := [name for name in names if name.startswith(f"{where}.")] or names:
        weights = listed(inside, _NUM_NAMES_SHOWN)
        return f"{begun}, where the weights {weights} are not finite; load sound ones, or make them anew"
    if dtype == "float16":
        return f"{begun}; the weights are finite, but float16 ends at 65504: compute in bfloat16 or float32"
    return f"{begun}, though all weights are finite: they are too large, or damaged"


def not_finite_parameters(model) -> Iterator[str]:
    """Names of the parameters, and of the buffers of quantized layers, that hold NaN or infinity."""
    for named in (model.named_parameters(), model.named_buffers()):
        for name, tensor in named:
            if tensor.is_floating_point() and not _is_finite(tensor):
                yield checkpoint_name(name)


def _first_not_finite(model, batch: dict):
    """(name of the first layer whose output is not finite, that output), in the order of computing; or None."""
    features = batch.get("image_features")
    if features is not None and not _is_finite(features):
        return "the image features", features
    found = []

    def look(name):
        def hook(layer, inputs, output):
            if not found and not _is_finite(output):
                found.append((name, output))

        return hook

    hooks = [layer.register_forward_post_hook(look(name)) for name, layer in _stages(model).items()]
    try:
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "loss_denominator")}
        hidden_states = model(**inputs).last_hidden_state
        for start in range(0, hidden_states.shape[1], _POSITIONS_AT_ONCE):
            if found:
                break
            model.output(hidden_states[:, start : start + _POSITIONS_AT_ONCE])
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _stages(model) -> dict:
    """The layers that are looked at, by their paths."""
    stages = {f"vit.layers.{index}": layer for index, layer in enumerate(model.vit.layers)}
    stages |= {"vit": model.vit, "vision_proj": model.vision_proj, "model.tok_embeddings": model.model.tok_embeddings}
    stages |= {f"model.layers.{index}": layer for index, layer in enumerate(model.model.layers)}
    return stages | {"model.norm": model.model.norm, "output": model.output}


def _is_finite(tensor) -> bool:
    return bool(paddle.isfinite(tensor).all())

"""What the networks of all families have in common: fill image slots, run the decoder, compute the loss."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import paddle
from paddle import nn
from paddlenlp.transformers import PretrainedModel

from paddle_xc2.batch_layout import BatchLayout
from paddle_xc2.models.image_features import fill_image_slots
from paddle_xc2.models.key_value_cache import KeyValueCache
from paddle_xc2.models.lora import LoRALinear
from paddle_xc2.models.loss import token_loss_sum
from paddle_xc2.models.segments import Segments
from paddle_xc2.models.token_rows import HeadRows


@dataclass
class CausalLMOutput:
    """What the model returns.

    Attributes:
        last_hidden_state: float [batch, seq, hidden], after the final norm.
        head: of the model.
        loss: float32 scalar, or None without labels.
        num_trained_tokens: how many tokens the loss is over, or None.
        past_key_values: the cache, or None.
        token_losses: float32 [trained tokens], nats, in reading order and without a gradient, or None.
        hidden_states: the embeddings, what each layer but the last gives, and last_hidden_state; None if not asked for.
    """

    last_hidden_state: paddle.Tensor
    head: nn.Layer
    loss: paddle.Tensor | None = None
    num_trained_tokens: int | None = None
    past_key_values: KeyValueCache | None = None
    token_losses: paddle.Tensor | None = None
    hidden_states: tuple | None = None

    @cached_property
    def logits(self):
        """float32 [batch, seq, vocab]; computed when first asked for, because training never needs it."""
        return self.head(self.last_hidden_state).astype("float32")


class VisionLanguageNetwork(PretrainedModel):
    """A family's own network is built of these parts, which training, saving and generation know by their names:

    model: the decoder, with `tok_embeddings`, `layers`, `norm`, `embed(input_ids)` and `compute_dtype`.
    output: the output head, a linear layer.
    vit: the vision encoder, with `layers`, `num_layers_run`, `use_recompute` and `compute_dtype`.
    vision_proj: what makes image tokens of the vision encoder's patches.

    It has `image_tokens` and `decode`, too, which here only say what they take and give.

    Attributes:
        run_vision_always: in training with several processes, a batch without images still passes one (blank, weighted
            by zero) through ViT and projector, so that every rank reduces the same gradients.
        fixed: names of parameters that never learn, unless a run frees them by name.
    """

    base_model_prefix = "model"
    fixed: tuple[str, ...] = ()

    def __init__(self, config):
        super().__init__(config)
        self.run_vision_always = False

    def image_tokens(self, pixel_values):
        """list of float32 [3, height, width] -> float [tokens of all images, hidden], one image after the other."""
        raise NotImplementedError

    def decode(self, embeddings, segments, position_ids, image_mask, image_span, cache):
        """Runs the decoder.

        Args:
            embeddings: float [batch, seq, hidden], images in their slots.
            segments: of cached and new tokens, or None for one sample a row without padding.
            position_ids: int64 [batch, seq]; None counts within each sample.
            image_mask: bool [batch, seq], true at image tokens, for decoders that tell them apart; None without any.
            image_span: of the flattened batch, within which it is true; None where the host doesn't know.
            cache: keys and values so far, or None; extended in place.
        Returns: float [batch, seq, hidden] after the final norm.
        """
        raise NotImplementedError

    def get_input_embeddings(self):
        return self.model.tok_embeddings

    def get_output_embeddings(self):
        return self.output

    def recompute_enable(self):
        """Keeps only the inputs of every layer and computes the rest again in the backward pass."""
        self.config.use_recompute = self.vit.use_recompute = True

    def recompute_disable(self):
        self.config.use_recompute = self.vit.use_recompute = False

    def forward(
        self,
        input_ids,
        image_mask=None,
        pixel_values=None,
        attention_mask=None,
        position_ids=None,
        labels=None,
        past_key_values: KeyValueCache | None = None,
        use_cache: bool = False,
        loss_denominator=None,
        image_features=None,
        layout: BatchLayout | None = None,
        output_hidden_states: bool = False,
    ) -> CausalLMOutput:
        """Args:
            input_ids: int64 [batch, seq]; any id stands at image slots.
            image_mask: bool [batch, seq], true at image slots.
            pixel_values: list of float32 [3, height, width], in reading order over the batch.
            attention_mask: int64 [batch, cached + seq]: 0 is padding, else the number of the sample within its row.
            position_ids: int64 [batch, seq]; None counts within each sample.
            labels: int64 [batch, seq], IGNORE_INDEX where a token is not trained.
            past_key_values: cache to extend.
            use_cache: whether to return a cache.
            loss_denominator: what the sum of token losses is divided by; None is the number of trained tokens.
            image_features: float [tokens of all images, hidden] in place of pixel_values, where they are known already.
            layout: of these labels and masks, from `collate`. Without it, or if they are others by now, they are looked
                at, which waits for the device.
            output_hidden_states: whether `hidden_states` of the result is wanted.
        Returns: CausalLMOutput.
        Raises: ValueError if image slots and images don't match, or labels train nothing.
        """
        segment_ids = attention_mask  # its name where a row is one sample, and it is 0 or 1
        described = (labels, image_mask, segment_ids)
        if past_key_values and labels is None and image_mask is None:
            layout = None  # a token is decoded: its mask is taken as it is, nothing needs to be looked up
        elif layout is None or not layout.still_describes(*described):
            layout = BatchLayout.of(*described)
        if pixel_values:
            image_features = self.image_tokens(pixel_values)
        num_slots = 0 if layout is None else len(layout.image_places)
        embeddings = self._fill_slots(self.model.embed(input_ids), image_features, layout, num_slots)
        if not num_slots and not paddle.is_grad_enabled():
            image_mask = None  # with gradients, PLoRA takes part in every step, with a zero gradient if need be
        if use_cache and past_key_values is None:
            past_key_values = KeyValueCache()
        segments = _segments(segment_ids, layout)
        states: list = []
        with _outputs_of(self.model.layers if output_hidden_states else (), states):
            span = None if layout is None else layout.image_span
            hidden_states = self.decode(embeddings, segments, position_ids, image_mask, span, past_key_values)
        loss, num_trained, token_losses = None, None, None
        if labels is not None:
            loss_sum, token_losses = self._token_loss_sum(hidden_states, labels, _on_device(layout.predicting))
            num_trained = token_losses.shape[0]
            loss = loss_sum / (num_trained if loss_denominator is None else loss_denominator)
        states = (embeddings, *states[:-1], hidden_states) if output_hidden_states else None
        return CausalLMOutput(hidden_states, self.output, loss, num_trained, past_key_values, token_losses, states)

    def _fill_slots(self, embeddings, image_features, layout: BatchLayout | None, num_slots: int):
        """float [batch, seq, hidden], with the images in their slots. Raises: ValueError if there are not as many."""
        if image_features is not None:
            if not num_slots:
                raise ValueError("images are given, but no slot in image_mask says where they belong")
            return fill_image_slots(embeddings, image_features, _on_device(layout.image_places))
        if num_slots:
            raise ValueError(f"input_ids hold {num_slots} image slots, but there are no images")
        if self.run_vision_always and self.training:
            # Not their sum: in float16 it may be infinite, and 0 * inf is not 0.
            return embeddings + 0.0 * self.image_tokens([self._blank_image()]).mean().astype(embeddings.dtype)
        return embeddings

    def _token_loss_sum(self, hidden_states, labels, predicting):
        """`token_loss_sum` of the output head, which may have rows of its own, or an update of low rank."""
        head = self.output
        if isinstance(head, HeadRows):
            return token_loss_sum(hidden_states, head.weight, labels, predicting, head.rows, head.columns)
        if isinstance(head, LoRALinear) and head.magnitude is None:
            update = (head.low_rank(hidden_states), head.lora_b)
            return token_loss_sum(hidden_states, head.base.weight, labels, predicting, update=update)
        return token_loss_sum(hidden_states, head.weight, labels, predicting)

    def _blank_image(self):
        side = self.config.img_size
        return paddle.zeros([3, side, side], "float32")


@contextmanager
def _outputs_of(layers, found: list):
    """Within it, what the layers return is added to `found`."""
    hooks = [layer.register_forward_post_hook(lambda _, __, output: found.append(output)) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _on_device(places):
    """int64 [n], NumPy or Paddle, as a tensor."""
    return places if isinstance(places, paddle.Tensor) else paddle.to_tensor(places)


def _segments(segment_ids, layout: BatchLayout | None) -> Segments | None:
    """None where every row is one sample without padding, as far as that is known."""
    if segment_ids is None or layout is not None and layout.first_columns is None:
        return None
    return Segments(segment_ids.astype("int64"), None if layout is None else layout.first_columns)

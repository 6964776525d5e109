"""The whole network: fill image slots, run the decoder, compute the loss. Tensors in, tensors out.

Follows `modeling_internlm_xcomposer2.py` of the upstream checkpoints (arXiv:2401.16420).
"""

from __future__ import annotations

from functools import cached_property

import paddle
from paddlenlp.transformers import PretrainedModel

from paddle_xc2.batch_layout import BatchLayout
from paddle_xc2.families.config import XComposer2Config
from paddle_xc2.models.clip_vit import ClipVisionTransformer
from paddle_xc2.models.image_features import build_projector, encode_squares, encode_tiled, fill_image_slots
from paddle_xc2.models.internlm2 import InternLM2Model
from paddle_xc2.models.key_value_cache import KeyValueCache
from paddle_xc2.models.lora import LoRALinear
from paddle_xc2.models.loss import token_loss_sum
from paddle_xc2.models.plora import linear
from paddle_xc2.models.segments import Segments
from paddle_xc2.models.token_rows import HeadRows


class CausalLMOutput:
    """What the model returns.

    Attributes:
        loss: float32 scalar, or None without labels.
        num_trained_tokens: how many tokens the loss is over, or None.
        hidden_states: float [batch, seq, hidden], after the final norm.
        past_key_values: the cache, or None.
        token_losses: float32 [trained tokens], nats, in reading order and without a gradient, or None.
    """

    def __init__(
        self, hidden_states, head, loss=None, num_trained_tokens=None, past_key_values=None, token_losses=None
    ):
        self.hidden_states = hidden_states
        self.loss = loss
        self.num_trained_tokens = num_trained_tokens
        self.past_key_values = past_key_values
        self.token_losses = token_losses
        self._head = head

    @cached_property
    def logits(self):
        """float32 [batch, seq, vocab]; computed when first asked for, because training never needs it."""
        return self._head(self.hidden_states).astype("float32")


class XComposer2Network(PretrainedModel):
    """InternLM-XComposer2: InternLM2 with PLoRA, a CLIP ViT, and a projector between them.

    `paddle_xc2.model.XComposer2ForCausalLM` is this and what users do with it: load, ask, adapt, save.

    Attributes:
        run_vision_always: in training with several processes, a batch without images still passes one (blank, weighted
            by zero) through ViT and projector, so that every rank reduces the same gradients.
    """

    config_class = XComposer2Config
    base_model_prefix = "model"

    def __init__(self, config: XComposer2Config):
        super().__init__(config)
        std = config.initializer_range
        self.model = InternLM2Model(config)
        self.output = linear(config.hidden_size, config.vocab_size, std)
        self.vit = ClipVisionTransformer(config.vision, config.patches_per_side, config.family.vision_select_layer, std)
        self.vision_proj = build_projector(config)
        if config.family.tiling:
            # Upstream's names and shapes. Both learn in every step that has an image.
            self.plora_glb_GN = self.create_parameter([1, 1, config.projector_inputs])
            self.plora_sub_GN = self.create_parameter([1, 1, 1, config.projector_inputs])
        self.run_vision_always = False

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
        Returns: CausalLMOutput.
        Raises: ValueError if image slots and images don't match, or labels train nothing.
        """
        described = (labels, image_mask, attention_mask)
        if past_key_values and labels is None and image_mask is None:
            layout = None  # a token is decoded: its mask is taken as it is, nothing needs to be looked up
        elif layout is None or not layout.still_describes(*described):
            layout = BatchLayout.of(*described)
        embeddings = self.model.embed(input_ids)
        if pixel_values:
            image_features = self.image_tokens(pixel_values)
        num_slots = 0 if layout is None else len(layout.image_slots)
        if image_features is not None:
            if not num_slots:
                raise ValueError("images are given, but no slot in image_mask says where they belong")
            embeddings = fill_image_slots(embeddings, image_features, _on_device(layout.image_slots))
        elif num_slots:
            raise ValueError(f"input_ids hold {num_slots} image slots, but there are no images")
        elif self.run_vision_always and self.training:
            # Not their sum: in float16 it may be infinite, and 0 * inf is not 0.
            embeddings = embeddings + 0.0 * self.image_tokens([self._blank_image()]).mean().astype(embeddings.dtype)
        if not num_slots and not paddle.is_grad_enabled():
            image_mask = None  # with gradients, PLoRA takes part in every step, with a zero gradient if need be
        if use_cache and past_key_values is None:
            past_key_values = KeyValueCache()
        segments = _segments(attention_mask, layout)
        hidden_states = self.model(embeddings, segments, position_ids, image_mask, past_key_values)
        loss, num_trained, token_losses = None, None, None
        if labels is not None:
            loss_sum, token_losses = self._token_loss_sum(hidden_states, labels, _on_device(layout.predicting))
            num_trained = token_losses.shape[0]
            loss = loss_sum / (num_trained if loss_denominator is None else loss_denominator)
        return CausalLMOutput(hidden_states, self.output, loss, num_trained, past_key_values, token_losses)

    def _token_loss_sum(self, hidden_states, labels, predicting):
        """`token_loss_sum` of the output head, which may have rows of its own, or an update of low rank."""
        head = self.output
        if isinstance(head, HeadRows):
            return token_loss_sum(hidden_states, head.weight, labels, predicting, head.rows, head.columns)
        if isinstance(head, LoRALinear) and head.magnitude is None:
            update = (head.low_rank(hidden_states), head.lora_b)
            return token_loss_sum(hidden_states, head.base.weight, labels, predicting, update=update)
        return token_loss_sum(hidden_states, head.weight, labels, predicting)

    def image_tokens(self, pixel_values):
        """list of float32 [3, height, width] -> float [tokens of all images, hidden], one image after the other."""
        if self.config.family.tiling is None:
            return encode_squares(self.vit, self.vision_proj, pixel_values)
        return encode_tiled(self.vit, self.vision_proj, pixel_values, self.plora_sub_GN, self.plora_glb_GN)

    def _blank_image(self):
        side = self.config.img_size
        return paddle.zeros([3, side, side], "float32")


def _on_device(places):
    """int64 [n], NumPy or Paddle, as a tensor."""
    return places if isinstance(places, paddle.Tensor) else paddle.to_tensor(places)


def _segments(attention_mask, layout: BatchLayout | None) -> Segments | None:
    """None where every row is one sample without padding, as far as that is known."""
    if attention_mask is None or layout is not None and layout.first_columns is None:
        return None
    return Segments(attention_mask.astype("int64"), None if layout is None else layout.first_columns)

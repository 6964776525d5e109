"""What a conversion can be made from: a checkpoint, an adapter and its base, a training of XTuner's, two models.

Each is read as tensors that are computed when they are written, a few rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from paddle_xc2.checkpoint.adapter_files import merge, read_adapter
from paddle_xc2.checkpoint.base_fingerprint import check_base
from paddle_xc2.checkpoint.config_files import load_config
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.checkpoint.names import names_of, names_of_tensors
from paddle_xc2.checkpoint.shards import read_checkpoint, read_shard
from paddle_xc2.checkpoint.xtuner import with_our_prefixes
from paddle_xc2.checkpoint.xtuner_training import assemble_llava, read_training_checkpoint
from paddle_xc2.families.asked_as import take_settings
from paddle_xc2.families.settings import BaseSettings
from paddle_xc2.hub.directory import ModelDirectory, open_model
from paddle_xc2.text.base import BaseTokenizer
from paddle_xc2.text.load_tokenizer import has_tokenizer, load_tokenizer
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from paddle_xc2.weights.position_table import change_image_size, resized_table
from paddle_xc2.weights.quantize import as_quantized


class Contents(NamedTuple):
    """Attributes:
    tensors: in any layout, by its names.
    config: of the model.
    tokenizer: in place of the one in the source's directory, or None.
    """

    tensors: dict[str, LazyTensor]
    config: BaseSettings
    tokenizer: BaseTokenizer | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it is.

    Attributes:
        directory: in any layout. Tokenizer, upstream's code and documents are copied from it.
    """

    directory: ModelDirectory

    @property
    def parts(self) -> dict[str, Path]:
        """What it is made from: {what to call it: file or directory}."""
        return {"source": self.directory.path}

    def read(self, dtype: str | None) -> Contents:
        """Args:
            dtype: that is written in the end; None is each tensor's own.
        Raises: FileNotFoundError, or ValueError naming the file or the tensors: what is missing, damaged or doesn't
            fit.
        """
        tensors = read_checkpoint(self.directory, dtype)
        return Contents(tensors, load_config(self.directory, tensors))


@dataclass(frozen=True)
class MergedAdapter(Checkpoint):
    """The base in `directory` with an adapter's change in it.

    Attributes:
        adapter: directory in PEFT's or PaddleNLP's layout.
        dequantize: the base's linear layers are quantized and dequantized first, as QLoRA trained on them.
    """

    adapter: ModelDirectory
    dequantize: bool = False

    @classmethod
    def of(
        cls, adapter: str | Path | ModelDirectory, base: str | Path | None = None, dequantize: bool = False
    ) -> MergedAdapter:
        """Args:
            base: if it is not where the adapter remembers it.
        Raises: ValueError for what is no adapter; FileNotFoundError as `find_base`.
        """
        opened = open_model(adapter, base)
        if not opened.is_adapter:
            raise ValueError(
                f"{opened}: is no adapter, it has no adapter_config.json (PEFT) or lora_config.json (PaddleNLP)"
            )
        return cls(opened.base, opened, dequantize)

    @property
    def parts(self) -> dict[str, Path]:
        return {"base": self.directory.path, "adapter": self.adapter.path}

    def read(self, dtype: str | None) -> Contents:
        """The base's tensors come under upstream's names and in upstream's layout."""
        check_base(self.adapter, self.directory)
        tensors, config, _ = super().read(dtype)
        if self.dequantize:
            self._check_was_quantized()
            tensors = as_quantized(tensors, dtype)
        tensors, settings = _in_upstream_layout(tensors), self.adapter.origin.settings
        take_settings(config, settings)
        if settings.get("img_size") not in (None, config.img_size):
            change_image_size(config, settings["img_size"])
            names = names_of(config.family)
            if names.resized is not None:
                name, _ = names.to_hf(names.resized)
                table = tensors[name]
                tensors[name] = resized_table(table, config.patches_per_side, name).as_dtype(dtype or table.dtype, name)
        adapter = with_our_prefixes(read_adapter(self.adapter, read_shard), config)
        tokenizer = load_tokenizer(self.adapter) if has_tokenizer(self.adapter) else None
        return Contents(merge(tensors, adapter, self.adapter.path, dtype), config, tokenizer)

    def _check_was_quantized(self) -> None:
        if self.adapter.origin.quantization is None:
            raise ValueError(
                f"{self.adapter}: --dequantize is for adapters that were trained on a base in four bits, which this "
                "one does not say of itself; leave it out"
            )


@dataclass(frozen=True)
class TrainedByXTuner(Checkpoint):
    """The LLaVA in `directory` with what XTuner's training made of it.

    Attributes:
        trained: an `iter_*.pth`.
        llm_alpha, vision_alpha: of the LoRA in it, as the run's settings say; None where there is none.
    """

    trained: Path
    llm_alpha: float | None = None
    vision_alpha: float | None = None

    @property
    def parts(self) -> dict[str, Path]:
        return {"base": self.directory.path, "training": self.trained}

    def read(self, dtype: str | None) -> Contents:
        tensors, config, _ = super().read(dtype)
        alphas = {"llm": self.llm_alpha, "visual_encoder": self.vision_alpha}
        return Contents(merge(tensors, read_training_checkpoint(self.trained, alphas), self.trained, dtype), config)


@dataclass(frozen=True)
class NewLlava(Checkpoint):
    """A LLaVA before its training: the language model in `directory`, a vision encoder, and a fresh projector.

    Its tokenizer gets <|im_start|> and <|im_end|>: the family's template needs turns.

    Attributes:
        visual_encoder: directory of a CLIP.
    """

    visual_encoder: ModelDirectory

    @property
    def parts(self) -> dict[str, Path]:
        return {"language model": self.directory.path, "vision encoder": self.visual_encoder.path}

    def read(self, dtype: str | None) -> Contents:
        tokenizer = None
        if has_tokenizer(self.directory):
            tokenizer = XComposer2Tokenizer.from_pretrained(self.directory).with_turn_tokens()
        return Contents(*assemble_llava(self.directory, self.visual_encoder), tokenizer)


def model_source(model: str | Path | ModelDirectory, base: str | Path | None = None) -> Checkpoint:
    """A directory, a released name, or what `open_model` gave: a checkpoint, or an adapter merged into its base.

    Args:
        base: of an adapter, if it is not where the adapter remembers it.
    Raises: FileNotFoundError; ValueError for a base of what is no adapter.
    """
    opened = open_model(model, base)
    if opened.is_adapter:
        return MergedAdapter.of(opened)
    if opened.given_base is not None:
        raise ValueError(f"base {opened.given_base} is given, but {opened} is no adapter; leave it out")
    return Checkpoint(opened)


def _in_upstream_layout(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    table, layout = names_of_tensors(tensors)
    # What is left out, or unknown, comes up when the checkpoint is balanced.
    return dict(table.relabelled(name, tensor, layout, "hf") or (name, tensor) for name, tensor in tensors.items())

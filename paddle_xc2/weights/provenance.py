"""Where the weights of a model in memory come from, and what was done to them since."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from paddle_xc2.messages import counted

if TYPE_CHECKING:
    import paddle

    from paddle_xc2.hub.directory import ModelDirectory
    from paddle_xc2.text.base import BaseTokenizer


class AdapterReport(NamedTuple):
    """What loading an adapter did.

    Attributes:
        num_updates: weights that got a low-rank update.
        num_replaced: tensors that were replaced whole.
        num_rows: rows of token tables that were replaced.
        change_norm: Frobenius norm of all changes together.
    """

    num_updates: int
    num_replaced: int
    num_rows: int
    change_norm: float

    def __str__(self) -> str:
        parts = [counted(self.num_updates, "low-rank update")]
        parts += [counted(self.num_replaced, "tensor") + " replaced whole"] if self.num_replaced else []
        parts += [counted(self.num_rows, "row") + " of token tables replaced"] if self.num_rows else []
        nothing = "; it changes nothing yet" if self.change_norm == 0.0 else ""
        return f"{', '.join(parts)}, norm of the change {self.change_norm:.4g}{nothing}"


@dataclass
class Provenance:
    """What saving has to know of a model, and its parameters don't tell. A new model comes from nowhere.

    Attributes:
        directory: that it was loaded from, or None. What is saved with it is copied from there.
        fingerprint: of the weights in `directory` (checkpoint/base_fingerprint.py), where it was taken already; else
            None. An adapter remembers it.
        holds_the_weights: whether `directory` holds the weights of the model but for an adapter that is on; no longer
            where one was merged.
        quantization: "nf4" if the decoder's linear layers are models/nf4.py's, or None.
        tokenizer: what is saved with the model in place of the tokenizer in `directory`, because it has tokens more; or
            None.
        replaced: parameters that the adapter holds whole, by name, with the values that they had without it (None
            where they were not kept).
        rslora: whether the scaling of the LoRA layers is alpha / sqrt(rank).
        adapter_report: what loading the adapter did, or None.
    """

    directory: ModelDirectory | None = None
    fingerprint: dict | None = None
    holds_the_weights: bool = True
    quantization: str | None = None
    tokenizer: BaseTokenizer | None = None
    replaced: dict[str, paddle.Tensor | None] = field(default_factory=dict)
    rslora: bool = False
    adapter_report: AdapterReport | None = None

    @property
    def base_name(self) -> str:
        """What an adapter calls its base: the released name, else the directory; "" for a model from nowhere."""
        return "" if self.directory is None else self.directory.name or str(self.directory.path.resolve())

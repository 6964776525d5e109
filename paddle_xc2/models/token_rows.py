"""A few tokens' rows of the embedding and the output head, learned while the tables stay as they are.

What Hugging Face's PEFT calls trainable tokens. A table of 92,544 rows has 379 million numbers at 7B; what a handful of
new tokens needs is a handful of rows. `rows` are [tokens, hidden] in both layers, as in upstream's files.

Outside of `forward` rows are taken and put by indexing: it is done in place, and in half precision on a CPU too, for
which Paddle 3.3 has no gather, scatter or put_along_axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddle_xc2.models.lora import replace_layer


class EmbeddingRows(nn.Layer):
    """A token embedding of which some rows are `rows` instead.

    Args:
        base: the embedding, kept as it is.
        token_ids: distinct ids.
        dtype: of the rows, which begin as the base's.
    """

    def __init__(self, base: nn.Embedding, token_ids: Sequence[int], dtype: str = "float32"):
        super().__init__()
        self.base = base
        self.token_ids = _distinct(token_ids, base.weight.shape[0])
        self.rows = self.create_parameter([len(self.token_ids), base.weight.shape[1]], dtype=dtype)
        places = paddle.full([base.weight.shape[0]], -1, "int64")
        places[paddle.to_tensor(self.token_ids)] = paddle.arange(len(self.token_ids), dtype="int64")
        self.register_buffer("_places", places, persistable=False)
        self.rows.set_value(self.base_rows().astype(dtype))

    @paddle.no_grad()
    def base_rows(self):
        """The rows as the base has them: float [tokens, hidden]."""
        return self.base.weight[paddle.to_tensor(self.token_ids)]

    def forward(self, input_ids):
        """int64 [batch, seq] -> float [batch, seq, hidden]."""
        places = paddle.gather(self._places, input_ids.flatten()).reshape(input_ids.shape)
        own, others = F.embedding(places.clip(min=0), self.rows), self.base(input_ids)
        return paddle.where((places >= 0).unsqueeze(-1), own.astype(others.dtype), others)

    @paddle.no_grad()
    def write_into_base(self) -> None:
        """Gives the base the rows."""
        self.base.weight[paddle.to_tensor(self.token_ids)] = self.rows.astype(self.base.weight.dtype)


class HeadRows(nn.Layer):
    """An output head of which the logits of some tokens come from `rows` instead.

    Args: as of EmbeddingRows. base: nn.Linear [hidden, vocab] without a bias.
    """

    def __init__(self, base: nn.Linear, token_ids: Sequence[int], dtype: str = "float32"):
        super().__init__()
        self.base = base
        self.token_ids = _distinct(token_ids, base.weight.shape[1])
        self.rows = self.create_parameter([len(self.token_ids), base.weight.shape[0]], dtype=dtype)
        self.register_buffer("columns", paddle.to_tensor(self.token_ids, dtype="int64"), persistable=False)
        self.rows.set_value(self.base_rows().astype(dtype))

    @property
    def weight(self):
        """The base's, float [hidden, vocab]: the columns of `token_ids` are not what this layer computes with."""
        return self.base.weight

    @paddle.no_grad()
    def base_rows(self):
        """The rows as the base has them: float [tokens, hidden]."""
        return self.base.weight[:, self.columns].t()

    def forward(self, x):
        """float [.., hidden] -> float [.., vocab]."""
        own = paddle.matmul(x, self.rows.astype(x.dtype), transpose_y=True)
        return put_columns(self.base(x), self.columns, own.astype(x.dtype))

    @paddle.no_grad()
    def write_into_base(self) -> None:
        """Gives the base the rows."""
        self.base.weight[:, self.columns] = self.rows.t().astype(self.base.weight.dtype)


# The layers that may have rows of their own, by their paths in the model.
ROW_LAYERS = {"model.tok_embeddings": EmbeddingRows, "output": HeadRows}


def put_columns(values, columns, new):
    """`values` with some of its last axis replaced; differentiable.

    Args:
        values: float [.., width].
        columns: int64 [columns], distinct, below width.
        new: float [.., columns].
    """
    return paddle.put_along_axis(values, columns.expand(new.shape), new, axis=-1, broadcast=False)


def row_layers(model) -> dict[str, EmbeddingRows | HeadRows]:
    """The model's layers of this kind by their paths."""
    return {path: layer for path, layer in model.named_sublayers() if isinstance(layer, (EmbeddingRows, HeadRows))}


def merge_rows(model) -> None:
    """Writes every row into the table that it belongs to, and takes the layers of this kind out."""
    for path, layer in row_layers(model).items():
        layer.write_into_base()
        replace_layer(model, path, layer.base)


def is_rows(name: str) -> bool:
    """Whether a parameter's name is that of learned rows."""
    return name.rpartition(".")[2] == "rows"


def _distinct(token_ids: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    token_ids = tuple(int(i) for i in token_ids)
    if not token_ids or len(set(token_ids)) < len(token_ids) or not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        raise ValueError(
            f"token ids {list(token_ids)[:8]} can't have rows of their own: give at least one, each once, below the "
            f"vocabulary's {vocab_size}"
        )
    return token_ids

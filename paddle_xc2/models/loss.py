"""Token cross-entropy over a large vocabulary without a [batch, seq, vocab] tensor."""

from __future__ import annotations

import math

import paddle
from paddle.autograd import PyLayer

from paddle_xc2.batch_layout import BatchLayout
from paddle_xc2.families.special_tokens import IGNORE_INDEX
from paddle_xc2.models.log_sum import add_to_picked_, pick, softmax_

# Float32 logits that may exist at once: 64 MB a chunk, of which the forward pass holds one or two. Backward,
# so much of a gradient in half precision is float32 at once.
CHUNK_ELEMENTS = 2**24


def token_loss_sum(hidden_states, weight, labels, predicting=None, own_rows=None, columns=None, update=None):
    """Sum of the cross-entropy of every trained token, and each of them.

    The token at position t is predicted from position t - 1. Only rows that predict a trained token are multiplied
    with the vocabulary, a chunk at a time; gradients of a chunk are computed with it, so that no logits outlive their
    chunk.

    Args:
        hidden_states: float [batch, seq, hidden].
        weight: float [hidden, vocab]. It and what follows may have another dtype; products have that of hidden_states.
        labels: int64 [batch, seq], IGNORE_INDEX where a token is not trained.
        predicting: int64 [trained tokens]: which tokens of the flattened batch stand before a trained one, in reading
            order. None is looked up in the labels, which waits for the device.
        own_rows: float [tokens, hidden], what some columns of `weight` are replaced by; None replaces none.
        columns: int64 [tokens], which.
        update: of low rank, (float [batch, seq, rank], float [rank, vocab]): their product is added to the logits, but
            where `own_rows` give them; or None.
    Returns: (float32 scalar, float32 [trained tokens]): the sum in nats, and what it is the sum of, in reading order
        and without a gradient.
    Raises: ValueError if no token is trained.
    """
    if predicting is None:
        predicting = paddle.to_tensor(BatchLayout.of(labels).predicting)
    if predicting.shape[0] == 0:
        raise ValueError(
            f"the labels hold no trained token: all of labels[:, 1:] is {IGNORE_INDEX}; "
            "such a batch would train nothing, check the answers of its samples"
        )
    hidden, targets = _rows(hidden_states, predicting), paddle.gather(labels.flatten(), predicting + 1)
    low, high = (None, None) if update is None else (_rows(update[0], predicting), update[1])
    learning = paddle.is_grad_enabled()
    return _ChunkedCrossEntropy.apply(hidden, weight, targets, own_rows, columns, low, high, learning)


def _rows(states, places):
    """float [batch, seq, n] -> float [places, n], of the given ones of all tokens."""
    return paddle.gather(states.reshape([-1, states.shape[-1]]), places)


class _ChunkedCrossEntropy(PyLayer):
    """hidden [tokens, hidden], weight [hidden, vocab], targets [tokens] -> sum of losses, losses [tokens], float32.

    `learning` is whether gradients are wanted at all; Paddle hides that inside of `forward`. The `columns` of the
    weight, if any, are `own_rows` instead, [columns, hidden]. `low` [tokens, rank] times `high` [rank, vocab] is
    added to the logits of the others; both are None without.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, own_rows, columns, low, high, learning):
        per_chunk = max(1, CHUNK_ELEMENTS // weight.shape[1])
        train_hidden, train_weight = learning and not hidden.stop_gradient, learning and not weight.stop_gradient
        train_rows = learning and own_rows is not None and not own_rows.stop_gradient
        train_low = learning and low is not None and not low.stop_gradient
        train_high = learning and high is not None and not high.stop_gradient
        # What learns is float32 in every precision, and gradients of chunks are added up so.
        dtypes = [None if tensor is None else tensor.dtype for tensor in (weight, own_rows, high)]
        weight, own_rows, high = (
            None if tensor is None else tensor.astype(hidden.dtype) for tensor in (weight, own_rows, high)
        )
        total, losses, grads, grads_low = paddle.zeros([], "float32"), [], [], []
        grad_weight, grad_rows, grad_high = None, None, None
        for start in range(0, hidden.shape[0], per_chunk):
            rows, target = hidden[start : start + per_chunk], targets[start : start + per_chunk].unsqueeze(1)
            logits = paddle.matmul(rows, weight)
            # Under autocast (level O1) products of float32 tensors are in half precision; addmm's would not be.
            in_place = logits.dtype == rows.dtype == weight.dtype
            if low is not None:
                update = low[start : start + per_chunk]
                logits = logits + paddle.matmul(update, high)
            logits = logits.astype("float32")
            if own_rows is not None:
                own = paddle.matmul(rows, own_rows, transpose_y=True).astype("float32")
                places = columns.expand(own.shape)  # whole, but not broadcast=False: that looks at every place
                logits = logits.put_along_axis_(places, own, axis=1)
            # In place, here and below: copies of this size cost as much time as the products.
            picked = pick(logits, target)
            losses.append((softmax_(logits) - picked).flatten())
            total = total + losses[-1].sum()
            if train_hidden or train_weight or train_rows or train_low or train_high:
                grad = add_to_picked_(logits, target, -1.0).astype(rows.dtype)
                if own_rows is not None:
                    own_grad = paddle.take_along_axis(grad, places, axis=1, broadcast=False)
                    grad = grad.put_along_axis_(places, paddle.zeros_like(own_grad), axis=1)
                    if train_rows:
                        grad_rows = _add_product(grad_rows, own_grad, rows, dtypes[1], in_place)
                if train_hidden:
                    grad_hidden = paddle.matmul(grad, weight, transpose_y=True)
                    if own_rows is not None:
                        grad_hidden = grad_hidden + paddle.matmul(own_grad, own_rows)
                    grads.append(grad_hidden.astype(hidden.dtype))
                if train_weight:
                    grad_weight = _add_product(grad_weight, rows, grad, dtypes[0], in_place)
                if train_low:
                    grads_low.append(paddle.matmul(grad, high, transpose_y=True).astype(low.dtype))
                if train_high:
                    grad_high = _add_product(grad_high, update, grad, dtypes[2], in_place)
        ctx.grads = [paddle.concat(grads) if grads else None, grad_weight, None]  # the last: of the targets
        if own_rows is not None:
            ctx.grads += [grad_rows, None]  # the last: of the columns
        if low is not None:
            ctx.grads += [paddle.concat(grads_low) if grads_low else None, grad_high]
        losses = paddle.concat(losses)
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    def backward(ctx, grad, _):
        # In place: Paddle's PyLayer goes back once only, even where the graph is retained.
        return tuple(None if part is None else _scale_(part, grad) for part in ctx.grads)


def _add_product(total, left, right, dtype, in_place: bool):
    """total + left^T right, in `dtype`; a total of None is zero. `in_place` makes no other tensor as large."""
    if total is not None and in_place and total.dtype == left.dtype:
        return total.addmm_(left.t(), right)
    product = paddle.matmul(left, right, transpose_x=True).astype(dtype)
    return product if total is None else total.add_(product)


def _scale_(tensor, factor):
    """Multiplies in place with a float32 scalar: in float32, a piece at a time where the tensor is in half precision.

    The factor is the loss scale of float16 over the number of tokens, or such; rounded to half precision it would be
    off by 0.2 %, and multiplied before, gradients of float16 would be too small for it.
    """
    if tensor.dtype == paddle.float32:
        return tensor.multiply_(factor)
    rows = max(1, CHUNK_ELEMENTS // math.prod(tensor.shape[1:]))
    for start in range(0, tensor.shape[0], rows):
        piece = tensor._slice(start, min(start + rows, tensor.shape[0]))
        piece.copy_((piece.astype("float32") * factor).astype(tensor.dtype), False)
    return tensor

"""Token cross-entropy over a large vocabulary without a [batch, seq, vocab] tensor."""

from __future__ import annotations

import paddle
from paddle.autograd import PyLayer

from paddle_xc2.special_tokens import IGNORE_INDEX

# Float32 logits that may exist at once: 64 MB a chunk, of which the forward pass holds one or two.
CHUNK_ELEMENTS = 2**24


def token_loss_sum(hidden_states, weight, labels, own_rows=None, columns=None, update=None):
    """Sum of the cross-entropy of every trained token, and each of them.

    The token at position t is predicted from position t - 1. Only rows that predict a trained token are multiplied
    with the vocabulary, a chunk at a time; gradients of a chunk are computed with it, so that no logits outlive their
    chunk.

    Args:
        hidden_states: float [batch, seq, hidden].
        weight: float [hidden, vocab].
        labels: int64 [batch, seq], IGNORE_INDEX where a token is not trained.
        own_rows: float [tokens, hidden], what some columns of `weight` are replaced by; None replaces none.
        columns: int64 [tokens], which.
        update: of low rank, (float [batch, seq, rank], float [rank, vocab]): their product is added to the logits, but
            where `own_rows` give them; or None.
    Returns: (float32 scalar, float32 [trained tokens]): the sum in nats, and what it is the sum of, in reading order
        and without a gradient.
    Raises: ValueError if no token is trained.
    """
    targets = labels[:, 1:].flatten()
    rows = paddle.nonzero(targets != IGNORE_INDEX).flatten()
    if rows.shape[0] == 0:
        raise ValueError(
            f"the labels hold no trained token: all of labels[:, 1:] is {IGNORE_INDEX}; "
            "such a batch would train nothing, check the answers of its samples"
        )
    hidden, targets = _predicting(hidden_states, rows), paddle.gather(targets, rows)
    low, high = (None, None) if update is None else (_predicting(update[0], rows), update[1])
    learning = paddle.is_grad_enabled()
    return _ChunkedCrossEntropy.apply(hidden, weight, targets, own_rows, columns, low, high, learning)


def _predicting(states, rows):
    """The given ones of all positions that predict another: float [batch, seq, n] -> float [rows, n]."""
    return paddle.gather(states[:, :-1].reshape([-1, states.shape[-1]]), rows)


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
        total, losses, grads, grads_low = paddle.zeros([], "float32"), [], [], []
        grad_weight, grad_rows, grad_high = None, None, None
        for start in range(0, hidden.shape[0], per_chunk):
            rows, target = hidden[start : start + per_chunk], targets[start : start + per_chunk].unsqueeze(1)
            logits = paddle.matmul(rows, weight)
            if low is not None:
                update = low[start : start + per_chunk]
                logits = logits + paddle.matmul(update, high)
            logits = logits.astype("float32")
            if own_rows is not None:
                own = paddle.matmul(rows, own_rows, transpose_y=True).astype("float32")
                places = columns.expand(own.shape)
                logits = logits.put_along_axis_(places, own, axis=1, broadcast=False)
            log_sum = paddle.logsumexp(logits, axis=1, keepdim=True)
            losses.append((log_sum - paddle.take_along_axis(logits, target, axis=1)).flatten())
            total = total + losses[-1].sum()
            if train_hidden or train_weight or train_rows or train_low or train_high:
                # In place, here and below: copies of this size cost as much time as the products.
                grad = logits.subtract_(log_sum).exp_()
                minus_one = paddle.full_like(target, -1.0, dtype="float32")
                grad = grad.put_along_axis_(target, minus_one, axis=1, reduce="add").astype(rows.dtype)
                if own_rows is not None:
                    own_grad = paddle.take_along_axis(grad, places, axis=1, broadcast=False)
                    grad = grad.put_along_axis_(places, paddle.zeros_like(own_grad), axis=1, broadcast=False)
                    if train_rows:
                        part = paddle.matmul(own_grad, rows, transpose_x=True).astype(own_rows.dtype)
                        grad_rows = part if grad_rows is None else grad_rows.add_(part)
                if train_hidden:
                    # Cast back: under autocast (level O1) a product of float32 tensors is in half precision.
                    grad_hidden = paddle.matmul(grad, weight, transpose_y=True)
                    if own_rows is not None:
                        grad_hidden = grad_hidden + paddle.matmul(own_grad, own_rows)
                    grads.append(grad_hidden.astype(hidden.dtype))
                if train_weight:
                    part = paddle.matmul(rows, grad, transpose_x=True).astype(weight.dtype)
                    grad_weight = part if grad_weight is None else grad_weight.add_(part)
                if train_low:
                    grads_low.append(paddle.matmul(grad, high, transpose_y=True).astype(low.dtype))
                if train_high:
                    part = paddle.matmul(update, grad, transpose_x=True).astype(high.dtype)
                    grad_high = part if grad_high is None else grad_high.add_(part)
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
        return tuple(None if part is None else (part.astype("float32") * grad).astype(part.dtype) for part in ctx.grads)

"""Rows of a table that learn alone: the same as the whole table learning, of which only these rows are looked at."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddle_xc2.models.lora import named_parameters, replace_layer
from paddle_xc2.models.loss import token_loss_sum
from paddle_xc2.models.token_rows import EmbeddingRows, HeadRows, is_rows, put_columns, row_layers
from tests.tiny import tiny_model

IDS = [7, 3, 390]
COLUMNS = paddle.to_tensor(IDS)


@pytest.fixture
def model():
    return tiny_model()


def wrap(model, embedding=IDS, head=IDS):
    """Gives the tiny model rows of their own; returns the two layers."""
    replace_layer(model, "model.tok_embeddings", EmbeddingRows(model.model.tok_embeddings, embedding))
    replace_layer(model, "output", HeadRows(model.output, head))
    return model.model.tok_embeddings, model.output


def batch():
    ids = paddle.to_tensor([[1, 7, 3, 9, 390, 3, 50, 2], [1, 12, 7, 7, 390, 11, 10, 2]])
    labels = ids.clone()
    labels[:, :3] = -100
    return {"input_ids": ids, "labels": labels}


def test_new_rows_change_nothing(model):
    with paddle.no_grad():
        before = model(**batch())
        embedding, head = wrap(model)
        after = model(**batch())
    assert (before.logits == after.logits).all() and before.loss == after.loss
    assert embedding.rows.shape == head.rows.shape == [3, 64]
    assert model.has_adapter and list(row_layers(model)) == ["model.tok_embeddings", "output"]
    names = named_parameters(model)
    assert [name for name in names if is_rows(name)] == ["model.tok_embeddings.rows", "output.rows"]
    assert "output.weight" in names and "model.tok_embeddings.weight" in names


def test_rows_learn_as_those_of_the_whole_tables_do(model):
    whole = tiny_model()
    embedding, head = wrap(model)
    for parameter in (embedding.base.weight, head.base.weight):
        parameter.stop_gradient = True
    for step in range(3):
        losses = []
        for one in (model, whole):
            out = one(**batch())
            out.loss.backward()
            losses.append(float(out.loss))
        assert losses[0] == pytest.approx(losses[1], abs=1e-6), step
        dense = whole.model.tok_embeddings.weight.grad.numpy()[IDS], whole.output.weight.grad.numpy()[:, IDS].T
        for layer, gradient in zip((embedding, head), dense, strict=True):
            np.testing.assert_allclose(layer.rows.grad.numpy(), gradient, atol=1e-6)
            assert np.abs(gradient).max() > 1e-3
        other = named_parameters(whole)["model.layers.0.attention.wo.linear.weight"].grad.numpy()
        ours = named_parameters(model)["model.layers.0.attention.wo.linear.weight"].grad.numpy()
        np.testing.assert_allclose(ours, other, atol=1e-6)
        with paddle.no_grad():  # one step down the gradient, of these rows alone
            for layer in (embedding, head):
                layer.rows.set_value(layer.rows - 0.5 * layer.rows.grad)
            tables = whole.model.tok_embeddings.weight, whole.output.weight
            tables[0].set_value(paddle.scatter(tables[0], paddle.to_tensor(IDS), embedding.rows))
            tables[1].set_value(put_columns(tables[1], COLUMNS, head.rows.t()))
        for one in (model, whole):
            for parameter in one.parameters():
                parameter.clear_gradient()


def test_rows_written_into_the_tables_are_the_same_model(model):
    embedding, head = wrap(model, embedding=[5, 399], head=[0, 8, 2])
    for layer in (embedding, head):
        layer.rows.set_value(layer.rows + paddle.randn(layer.rows.shape))
    with paddle.no_grad():
        before = model(**batch())
        for path, layer in row_layers(model).items():
            layer.write_into_base()
            replace_layer(model, path, layer.base)
        after = model(**batch())
    assert not row_layers(model)
    np.testing.assert_allclose(before.logits.numpy(), after.logits.numpy(), atol=1e-5)
    assert float(before.loss) == pytest.approx(float(after.loss), abs=1e-6)


def test_the_pad_tokens_embedding_does_not_learn(model):
    embedding, _ = wrap(model, embedding=[2, 3])  # 2 is the pad token's id
    model(**batch()).loss.backward()
    gradient = embedding.rows.grad.numpy()
    assert not gradient[0].any() and gradient[1].any()


@pytest.mark.parametrize("chunk", [2**24, 400 * 3])
def test_the_chunked_loss_with_rows(monkeypatch, chunk):
    monkeypatch.setattr("paddle_xc2.models.loss.CHUNK_ELEMENTS", chunk)
    paddle.seed(1)
    weight, rows = paddle.randn([6, 400]), paddle.randn([3, 6])
    labels = paddle.to_tensor([[1, 7, 3, 8, -100, 390, 3, 9, 12]])
    hidden = paddle.randn([1, 9, 6])
    dense = put_columns(weight, COLUMNS, rows.t())
    gradients = []
    for table, own in ((weight, rows), (dense, None)):
        states = hidden.clone().detach()
        learning = table if own is None else own
        states.stop_gradient = learning.stop_gradient = False
        total, losses = token_loss_sum(states, table, labels, None, own, COLUMNS if own is not None else None)
        (0.25 * total).backward()
        gradients.append((float(total), losses.numpy(), states.grad.numpy(), learning.grad.numpy()))
    (total, losses, states, of_rows), (dense_total, dense_losses, dense_states, of_table) = gradients
    assert total == pytest.approx(dense_total, rel=1e-6)
    np.testing.assert_allclose(losses, dense_losses, atol=1e-6)
    np.testing.assert_allclose(states, dense_states, atol=1e-6)
    np.testing.assert_allclose(of_rows, of_table[:, IDS].T, atol=1e-6)


def test_the_chunked_loss_with_rows_and_an_update(monkeypatch):
    """An update of low rank is added to all columns but those that have rows of their own."""
    monkeypatch.setattr("paddle_xc2.models.loss.CHUNK_ELEMENTS", 400 * 3)
    shapes = {"hidden": [1, 9, 6], "low": [1, 9, 2], "high": [2, 400], "rows": [3, 6]}
    paddle.seed(1)
    weight, values = paddle.randn([6, 400]), {name: paddle.randn(shape) for name, shape in shapes.items()}
    labels = paddle.to_tensor([[1, 7, 3, 8, -100, 390, 3, 9, 12]])
    gradients = []
    for chunked in (True, False):
        x = {name: value.clone().detach() for name, value in values.items()}
        for value in x.values():
            value.stop_gradient = False
        if chunked:
            total, _ = token_loss_sum(x["hidden"], weight, labels, None, x["rows"], COLUMNS, (x["low"], x["high"]))
        else:
            logits = paddle.matmul(x["hidden"], weight) + paddle.matmul(x["low"], x["high"])
            logits = put_columns(logits, COLUMNS, paddle.matmul(x["hidden"], x["rows"], transpose_y=True))
            total = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        total.backward()
        gradients.append({"total": float(total), **{name: value.grad.numpy() for name, value in x.items()}})
    for name in gradients[0]:
        np.testing.assert_allclose(gradients[0][name], gradients[1][name], rtol=1e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("ids", [[], [3, 3], [-1], [400]])
def test_ids_that_can_not_have_rows(ids):
    with pytest.raises(ValueError, match="can't have rows of their own: give at least one, each once, below the voc"):
        EmbeddingRows(nn.Embedding(400, 8), ids)
    with pytest.raises(ValueError, match="can't have rows of their own"):
        HeadRows(nn.Linear(8, 400, bias_attr=False), ids)

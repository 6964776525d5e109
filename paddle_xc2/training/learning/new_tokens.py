"""Which rows of the embedding and of the output head learn beside LoRA: those of tokens that are new to the model.

LoRA leaves both tables as they are. That is right for the tokens that a model knows; a token that it never saw has a
random row, or one that was only ever pushed down, and no update elsewhere makes a word of it. Such tokens are found
among those of the training data as in arXiv:2405.05417 ("Fishing for Magikarp"): their rows are like those of tokens
that no text holds, in direction in the output head, and in length in the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F

from paddle_xc2.messages import counted, listed
from paddle_xc2.models.lora import LoRALinear, layer_at, replace_layer
from paddle_xc2.models.token_rows import ROW_LAYERS, EmbeddingRows, HeadRows, row_layers
from paddle_xc2.text.base import BaseTokenizer

EMBEDDING, HEAD = "model.tok_embeddings", "output"
_DEVIATIONS = 2.5  # standard deviations of the rows of unused tokens: within so many, a row is like theirs
_LEAST_UNUSED = 8  # tokens, to know what their rows are like
_LEAST_COSINE = 0.5  # between the rows of unused tokens of an output head that has been trained
_AT_ONCE = 1024  # rows
_SHOWN = 12  # tokens


def learn_token_rows(model, tokenizer: BaseTokenizer, arguments, samples, original: BaseTokenizer) -> None:
    """Lets rows of tokens learn as `train_tokens` says, beside those that the model's adapter has already.

    Args:
        model: XComposer2ForCausalLM with LoRA layers.
        tokenizer: of the run.
        arguments: FinetuneArguments.
        samples: Samples to train on.
        original: the tokenizer of what the run starts from.
    Raises: ValueError for a text in train_tokens that is no token, or if the output head learns by LoRA and a token is
        asked for.
    """
    added = fresh_tokens(tokenizer, original, arguments.new_tokens or ())
    requested = token_ids(tokenizer, [*(arguments.new_tokens or ()), *(arguments.train_tokens or ())])
    head_has_lora = isinstance(model.output, LoRALinear)
    if requested and head_has_lora:
        raise ValueError(
            "new_tokens and train_tokens let rows of the output head learn, which learns by LoRA; leave output out of "
            "lora_target_modules, or merge lora_path first: paddle-xc2 merge"
        )
    needed = {EMBEDDING: set(requested), HEAD: set(requested)}
    if arguments.train_tokens is None:
        unused = [i for i in tokenizer.unused_ids if i not in added]
        new_to_model = new_to_head(model, samples.token_ids, unused)
        needed[EMBEDDING] |= set(new_to_embedding(model, new_to_model, unused))
        if not head_has_lora:
            needed[HEAD] |= set(new_to_model) & set(samples.trained_ids.tolist())
    starts = starting_rows(model, added)
    for path in ROW_LAYERS:
        # The pad token's embedding never learns, as upstream; it is </s> too, which is answered.
        ids = needed[path] - ({model.config.pad_token_id} if path == EMBEDDING else set())
        _add_rows(model, path, sorted(ids), {i: rows[path] for i, rows in starts.items()})


def start_new_tokens(model, tokenizer: BaseTokenizer, original: BaseTokenizer, texts: Sequence[str]) -> None:
    """Gives the rows of new tokens in the tables themselves their first values, for a model that learns whole."""
    starts = starting_rows(model, fresh_tokens(tokenizer, original, texts))
    if not starts:
        return
    ids = paddle.to_tensor(list(starts))
    embedding, head = (paddle.stack([rows[path] for rows in starts.values()]) for path in (EMBEDDING, HEAD))
    tables = model.model.tok_embeddings.weight, model.output.weight
    with paddle.no_grad():
        tables[0][ids] = embedding.astype(tables[0].dtype)
        tables[1][:, ids] = head.t().astype(tables[1].dtype)


def fresh_tokens(tokenizer, original, texts: Sequence[str]) -> dict[int, list[int]]:
    """{id of a new token: ids of the tokens that its text was before}, for texts that were no token."""
    found = {}
    for text in texts:
        (token_id,), parts = tokenizer.encode(text, add_special_tokens=False), original.encode(text, False)
        if parts != [token_id]:
            found[token_id] = parts
    return found


def token_ids(tokenizer: BaseTokenizer, texts: Sequence[str]) -> list[int]:
    """Ids of texts that are one token each. Raises: ValueError naming the first that is not."""
    found = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            pieces = ", ".join(f'"{piece}"' for piece in tokenizer.convert_ids_to_tokens(ids))
            raise ValueError(
                f'train_tokens: "{text}" is not one token but {len(ids)} ({pieces}); name these, or make it one with '
                "new_tokens"
            )
        found += ids
    return found


@paddle.no_grad()
def starting_rows(model, added: dict[int, list[int]]) -> dict[int, dict]:
    """The mean of the rows that each new token replaces: {id: {EMBEDDING, HEAD: float32 [hidden]}}."""
    tables = {EMBEDDING: _embedding_rows, HEAD: _head_rows}
    return {
        token_id: {path: rows(model, parts).mean(axis=0) for path, rows in tables.items()}
        for token_id, parts in added.items()
    }


@paddle.no_grad()
def new_to_head(model, candidates: Sequence[int], unused: Sequence[int]) -> list[int]:
    """The tokens that no training text of the model ever asked for.

    Their rows of the output head point where those of unused tokens do, which every text pushes away. [] where unused
    tokens are few, or don't point one way: such a head was not trained, or tells nothing.

    Args:
        candidates: ids to choose from.
        unused: ids of tokens that no text holds.
    """
    candidates = [int(i) for i in candidates]
    if len(unused) < _LEAST_UNUSED or not candidates:
        return []

    def directions(ids):
        return F.normalize(_head_rows(model, ids), axis=1)

    of_unused = directions(unused)
    away = of_unused.sum(axis=0)
    # A token's own row has no part in what it is compared with.
    known = (of_unused * F.normalize(away - of_unused, axis=1)).sum(axis=1).numpy()
    if known.mean() < _LEAST_COSINE:
        return []
    away = F.normalize(away, axis=0)
    cosines = _in_pieces(lambda ids: paddle.matmul(directions(ids), away).numpy(), candidates)
    alike = cosines >= known.mean() - _DEVIATIONS * known.std()
    return [token_id for token_id, is_new in zip(candidates, alike, strict=True) if is_new]


@paddle.no_grad()
def new_to_embedding(model, candidates: Sequence[int], unused: Sequence[int]) -> list[int]:
    """Of the tokens that no training text of the model asked for, those that none held either.

    Their rows of the embedding are as long as those of unused tokens, which were never changed but by weight decay.

    Args:
        candidates: from `new_to_head`: alone, lengths tell less.
        unused: as of `new_to_head`.
    """
    if len(unused) < _LEAST_UNUSED or not candidates:
        return []

    def lengths(ids):
        return _embedding_rows(model, ids).norm(axis=1).numpy()

    known = lengths(unused)
    alike = np.abs(_in_pieces(lengths, candidates) - known.mean()) <= _DEVIATIONS * known.std()
    return [token_id for token_id, is_new in zip(candidates, alike, strict=True) if is_new]


def _in_pieces(measure, ids: list[int]) -> np.ndarray:
    """`measure` of the ids, float32 [ids], without the rows of all of them in memory at once."""
    return np.concatenate([measure(ids[start : start + _AT_ONCE]) for start in range(0, len(ids), _AT_ONCE)])


def token_row_lines(model, tokenizer: BaseTokenizer) -> list[str]:
    """Which tokens' rows learn, for people: a line for each table, and one if PEFT can't read them."""
    lines = []
    for path, layer in row_layers(model).items():
        ids = layer.token_ids
        pieces = [_visible(piece) for piece in tokenizer.convert_ids_to_tokens(ids)]
        table = "the embedding" if path == EMBEDDING else "the output head"
        lines.append(f"rows of {table} for {counted(len(ids), 'token')}: {listed(pieces, _SHOWN, ' ')}")
    if any(f"{path}.weight" in model.provenance.replaced for path in row_layers(model)):
        lines.append("lora_path holds the whole table too; PEFT does not read both together: merge first")
    return lines


def _visible(piece: str) -> str:
    return piece if piece.isprintable() else ascii(piece)[1:-1]


def _add_rows(model, path: str, ids: list[int], starts: dict) -> None:
    """Puts `ids` beside the rows that learn at `path`. starts: first values where they are not the base's."""
    old = row_layers(model).get(path)
    ids = [*(old.token_ids if old else ()), *(i for i in ids if old is None or i not in old.token_ids)]
    if not ids:
        return
    base = old.base if old else layer_at(model, path)
    layer = ROW_LAYERS[path](base, ids, model.config.dtype)
    with paddle.no_grad():
        rows = layer.rows.clone()
        if old is not None:
            rows[: len(old.token_ids)] = old.rows
        for token_id in starts.keys() - (old.token_ids if old else ()):
            rows[ids.index(token_id)] = starts[token_id].astype(rows.dtype)
        layer.rows.set_value(rows)
    layer.training = base.training
    replace_layer(model, path, layer)


def _embedding_rows(model, ids: Sequence[int]):
    """float32 [ids, hidden], as the base has them."""
    layer = model.model.tok_embeddings
    table = (layer.base if isinstance(layer, EmbeddingRows) else layer).weight
    return paddle.gather(table, paddle.to_tensor(ids, dtype="int64")).astype("float32")


def _head_rows(model, ids: Sequence[int]):
    """float32 [ids, hidden], as the base has them."""
    layer = model.output
    table = (layer.base if isinstance(layer, (HeadRows, LoRALinear)) else layer).weight
    return paddle.gather(table, paddle.to_tensor(ids, dtype="int64"), axis=1).astype("float32").t()

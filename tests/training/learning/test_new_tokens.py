"""Tokens that are new to a model: found, begun, trained as rows beside LoRA, saved, gone on from, and used."""

import json

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_xc2 import XComposer2ForCausalLM, XComposer2Processor
from paddle_xc2.cli import main
from paddle_xc2.models.token_rows import row_layers
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from paddle_xc2.training.arguments import FinetuneArguments
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.learning import new_tokens as token_rows
from paddle_xc2.training.learning.add_lora import add_lora
from paddle_xc2.training.learning.parts import choose_trainable
from tests.tiny import tiny_checkpoint, tiny_model

LORA = {"lora": True, "lora_rank": 4, "lora_alpha": 8, "save_strategy": "steps", "save_steps": 2}
ROWS = ".token_adapter.trainable_tokens_delta"
FIRST = 394  # id of [UNUSED_TOKEN_0] in `roomy`


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """A checkpoint whose vocabulary has 4 unused pieces."""
    return tiny_checkpoint(tmp_path_factory.mktemp("roomy"), num_unused=4)


@pytest.fixture
def lesson(tmp_path):
    """Data in which answers hold <defect>."""
    records = [
        {"id": str(i), "conversations": [{"from": "user", "value": f"Which one is {i}?"},
                                         {"from": "assistant", "value": f"It is a <defect> of {i % 3}."}]}
        for i in range(9)
    ]  # fmt: skip
    (tmp_path / "lesson.json").write_text(json.dumps(records))
    return [{"name": "lesson", "data_files": str(tmp_path / "lesson.json")}]


def tensors(directory):
    return load_file(directory / "adapter_model.safetensors")


def untrained(model, ids, seed=0):
    """Gives the head's rows of these tokens one direction, and the embedding's one length, as training does."""
    random = np.random.default_rng(seed)
    head, embedding = model.output.weight.numpy(), model.model.tok_embeddings.weight.numpy()
    away = random.standard_normal([head.shape[0], 1])
    head[:, ids] = away + 0.1 * random.standard_normal([head.shape[0], len(ids)])
    short = random.standard_normal([len(ids), embedding.shape[1]])
    lengths = 0.1 * (1 + 0.05 * random.standard_normal([len(ids), 1]))
    embedding[ids] = lengths * short / np.linalg.norm(short, axis=1, keepdims=True)
    model.output.weight.set_value(head)
    model.model.tok_embeddings.weight.set_value(embedding)


# Which tokens are new


def test_tokens_that_no_training_text_held_are_found():
    model, unused, never, only_asked = tiny_model(), list(range(100, 113)), [20, 30, 40], [50, 60]
    untrained(model, [*unused, *never, *only_asked])
    table = model.model.tok_embeddings.weight.numpy()
    table[only_asked] *= 20.0  # they stood in questions, so their embedding learned, but no answer held them
    model.model.tok_embeddings.weight.set_value(table)
    candidates = [*range(15, 65)]
    assert token_rows.new_to_head(model, candidates, unused) == sorted(never + only_asked)
    assert token_rows.new_to_embedding(model, candidates, unused) == never
    assert token_rows.new_to_head(model, [15, 16], unused) == token_rows.new_to_head(model, [], unused) == []


def test_tables_that_do_not_tell_name_nothing():
    """Random tables, and a vocabulary with too few unused tokens to compare with."""
    model = tiny_model()
    assert token_rows.new_to_head(model, range(300), list(range(300, 313))) == []
    untrained(model, list(range(20)))
    assert token_rows.new_to_head(model, range(20), list(range(7))) == []
    assert token_rows.new_to_embedding(model, range(20), list(range(7))) == []


def test_text_that_is_not_one_token(roomy):
    tokenizer = XComposer2Tokenizer.from_pretrained(roomy)
    assert token_rows.token_ids(tokenizer, ["e"]) == tokenizer.encode("e", add_special_tokens=False)
    with pytest.raises(
        ValueError, match='train_tokens: "<defect>" is not one token but [0-9] .*name these, or make it'
    ):
        token_rows.token_ids(tokenizer, ["<defect>"])


def test_new_tokens_begin_as_the_mean_of_what_they_replace(roomy):
    model = XComposer2ForCausalLM.from_pretrained(roomy)
    original = XComposer2Tokenizer.from_pretrained(roomy)
    tokenizer = original.with_new_tokens(["<defect>"])
    parts = original.encode("<defect>", add_special_tokens=False)
    assert len(parts) > 2
    embedding, head = model.model.tok_embeddings.weight.numpy(), model.output.weight.numpy()
    token_rows.start_new_tokens(model, tokenizer, original, ["<defect>"])
    np.testing.assert_allclose(
        model.model.tok_embeddings.weight.numpy()[FIRST], embedding[parts].mean(axis=0), atol=1e-6
    )
    np.testing.assert_allclose(model.output.weight.numpy()[:, FIRST], head[:, parts].mean(axis=1), atol=1e-6)
    others = np.arange(400) != FIRST
    np.testing.assert_array_equal(model.output.weight.numpy()[:, others], head[:, others])
    np.testing.assert_array_equal(model.model.tok_embeddings.weight.numpy()[others], embedding[others])


def test_rows_and_lora_of_the_output_head(roomy):
    tokenizer = XComposer2Tokenizer.from_pretrained(roomy)
    arguments = FinetuneArguments(lora=True, lora_target_modules=["output"], train_tokens=["e"])
    model = tiny_model()
    add_lora(model, arguments)
    with pytest.raises(ValueError, match="which learns by LoRA; leave output out of lora_target_modules"):
        token_rows.learn_token_rows(model, tokenizer, arguments, None, tokenizer)


def test_rows_and_the_whole_table(roomy):
    tokenizer = XComposer2Tokenizer.from_pretrained(roomy)
    arguments = FinetuneArguments(lora=True, train_tokens=["e"], freeze_exclude=["output.weight"])
    model = tiny_model()
    add_lora(model, arguments)
    token_rows.learn_token_rows(model, tokenizer, arguments, None, tokenizer)
    with pytest.raises(ValueError, match='output would learn whole and in rows at once; .*set "train_tokens": \\[\\]'):
        choose_trainable(model, arguments)


# In a run


def test_new_tokens_with_lora(config, roomy, lesson, tmp_path, metrics, capsys):
    """From the plan to the merged model: rows learn, are saved alone with the tokenizer, and are used everywhere."""
    path = config(
        **{**LORA, "model_name_or_path": str(roomy), "dataset": {"train": lesson}, "new_tokens": ["<defect>"]},
        learning_rate=1e-2, embeddings_lr=2e-2, max_steps=50, lora_dropout=0.0, logging_steps=50,
    )  # fmt: skip
    assert finetune(path) == 0
    told = capsys.readouterr().out
    assert "tokens       rows of the embedding for 1 token: <defect>\n" in told
    assert "rows of the output head for 1 token: <defect>\n" in told
    assert "rows of tokens             128 of            128\n" in told and "(embeddings 0.02)" in told
    assert "It is a <defect> of" in told  # of the first sample
    out = tmp_path / "out"
    saved = tensors(out)
    rows = {name: value for name, value in saved.items() if name.endswith(ROWS)}
    assert {name: value.shape for name, value in rows.items()} == {
        f"base_model.model.model.tok_embeddings{ROWS}": (1, 64),
        f"base_model.model.output{ROWS}": (1, 64),
    }
    assert not any("tok_embeddings.weight" in name or "output.weight" in name for name in saved)
    # The adapter is asked and answers with the token, and so is what becomes of it.
    question, answers = "Which one is 4?", []
    assert main(["merge", "--lora_path", str(out), "--output_path", str(tmp_path / "merged"), "--disable_tqdm"]) == 0
    for model_dir in (out, tmp_path / "merged"):
        model = XComposer2ForCausalLM.from_pretrained(model_dir)
        processor = XComposer2Processor.from_pretrained(model_dir)
        assert processor.tokenizer.encode("<defect>", False) == [FIRST]
        answers.append(model.chat(processor.tokenizer, question, do_sample=False, max_new_tokens=16)[0])
    assert answers[0] == answers[1] and answers[0].startswith("It is a <defect> of")
    loaded = XComposer2ForCausalLM.from_pretrained(out)
    loaded.merge_adapter()
    loaded.save_pretrained(tmp_path / "again", to="hf")  # the tokenizer comes along
    assert XComposer2Tokenizer.from_pretrained(tmp_path / "again").encode("<defect>", False) == [FIRST]
    loaded = XComposer2ForCausalLM.from_pretrained(out)
    loaded.unload_adapter()
    loaded.save_pretrained(tmp_path / "base")
    assert XComposer2Tokenizer.from_pretrained(tmp_path / "base").encode("<defect>", False) != [FIRST]


def test_going_on_is_exact(config, roomy, lesson, tmp_path, metrics):
    settings = {**LORA, "model_name_or_path": str(roomy), "dataset": {"train": lesson}, "new_tokens": ["<defect>"]}
    settings |= {"train_tokens": ["e"], "lora_dropout": 0.1, "max_steps": 6, "save_total_limit": 3}
    whole = config("whole.json", **{**settings, "output_dir": str(tmp_path / "whole")})
    assert finetune(whole) == 0
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    part = config("part.json", **{**settings, "output_dir": str(tmp_path / "part")})
    assert finetune(part, ["--resume_from_checkpoint", str(checkpoint)]) == 0
    want, got = tensors(tmp_path / "whole"), tensors(tmp_path / "part")
    assert want.keys() == got.keys() and sum(name.endswith(ROWS) for name in want) == 2
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    with pytest.raises(ValueError, match=r"train_tokens was \['e'\] and is None"):
        finetune(part, ["--resume_from_checkpoint", str(checkpoint), "--train_tokens", "null"])


def test_an_adapter_with_tokens_learns_more_of_them(config, roomy, lesson, tmp_path):
    """lora_path brings its tokens and rows along; what the next stage adds stands beside them."""
    settings = {**LORA, "model_name_or_path": str(roomy), "dataset": {"train": lesson}, "max_steps": 2}
    first = config("first.json", **settings, output_dir=str(tmp_path / "first"), new_tokens=["<defect>"])
    assert finetune(first) == 0
    second = config(
        "second.json", **settings, output_dir=str(tmp_path / "second"), lora_path=str(tmp_path / "first"),
        new_tokens=["<scratch>"], learning_rate=0.0,
    )  # fmt: skip
    assert finetune(second) == 0
    indices = json.loads((tmp_path / "second" / "adapter_config.json").read_text())["trainable_token_indices"]
    assert indices == {"model.tok_embeddings": [FIRST, FIRST + 1], "output": [FIRST, FIRST + 1]}
    name = f"base_model.model.output{ROWS}"
    np.testing.assert_array_equal(tensors(tmp_path / "second")[name][:1], tensors(tmp_path / "first")[name])
    tokenizer = XComposer2Tokenizer.from_pretrained(tmp_path / "second")
    assert tokenizer.encode("<defect><scratch>", False) == [FIRST, FIRST + 1]


@pytest.mark.parametrize(
    "stages", [(True, True), (True, False), (False, True)], ids=["whole", "then rows", "then whole"]
)
def test_rows_and_whole_tables_follow_each_other(config, roomy, lesson, tmp_path, stages):
    """What a stage learned of its tokens is what the next one begins with, though new_tokens names them again."""
    settings = {**LORA, "model_name_or_path": str(roomy), "dataset": {"train": lesson}, "max_steps": 4,
                "new_tokens": ["<defect>"], "lora_dropout": 0.0, "learning_rate": 1e-2}  # fmt: skip
    first = {"output_dir": str(tmp_path / "first"), "train_embeddings": stages[0]}
    assert finetune(config("first.json", **{**settings, **first})) == 0
    second = {"output_dir": str(tmp_path / "second"), "train_embeddings": stages[1], "learning_rate": 0.0}
    assert finetune(config("second.json", **{**settings, **second}, lora_path=str(tmp_path / "first"))) == 0
    models = [XComposer2ForCausalLM.from_pretrained(tmp_path / name) for name in ("first", "second")]
    for model in models:
        model.merge_adapter()
    before, after = ({name: value.numpy() for name, value in model.named_parameters()} for model in models)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert XComposer2Tokenizer.from_pretrained(tmp_path / "second").encode("<defect>", False) == [FIRST]


def test_tokens_of_an_adapter_that_is_gone_on_with(config, roomy, lesson, tmp_path, capsys):
    """Evaluated with the settings that it was trained with; a checkpoint knows them though lora_path is gone."""
    settings = {**LORA, "model_name_or_path": str(roomy), "dataset": {"train": lesson, "eval": lesson}, "max_steps": 4}
    settings |= {"new_tokens": ["<defect>"], "save_total_limit": 3}
    assert finetune(config("first.json", **settings, output_dir=str(tmp_path / "first"), do_eval=True)) == 0
    then = {"output_dir": str(tmp_path / "then"), "lora_path": str(tmp_path / "first")}
    evaluated = config("evaluated.json", **{**settings, **then}, do_train=False, do_eval=True)
    assert finetune(evaluated) == 0
    losses = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "evaluation loss" in line]
    assert len(losses) == 2 and float(losses[0]) == pytest.approx(float(losses[1]), abs=2e-4)
    then |= {"new_tokens": ["<scratch>"], "output_dir": str(tmp_path / "second")}
    second = config("second.json", **{**settings, **then})
    assert finetune(second) == 0
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    third = config("third.json", **{**settings, **then, "output_dir": str(tmp_path / "third")})
    assert finetune(third, ["--resume_from_checkpoint", str(tmp_path / "second" / "checkpoint-2")]) == 0
    want, got = tensors(tmp_path / "second"), tensors(tmp_path / "third")
    assert want.keys() == got.keys() and want[f"base_model.model.output{ROWS}"].shape == (2, 64)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    tokenizer = XComposer2Tokenizer.from_pretrained(tmp_path / "third")
    assert tokenizer.encode("<defect><scratch>", False) == [FIRST, FIRST + 1]


def test_the_closing_token_learns_in_the_head_alone(roomy):
    """It is the pad token too, whose embedding never learns."""
    tokenizer = XComposer2Tokenizer.from_pretrained(roomy)
    arguments = FinetuneArguments(lora=True, train_tokens=["</s>"])
    model = tiny_model()
    add_lora(model, arguments)
    token_rows.learn_token_rows(model, tokenizer, arguments, None, tokenizer)
    assert {path: layer.token_ids for path, layer in row_layers(model).items()} == {"output": (tokenizer.eos_token_id,)}


def test_new_tokens_without_lora(config, roomy, lesson, tmp_path):
    """The whole model learns; the tokenizer is saved with it, and the checkpoint is a model to start from."""
    settings = {"model_name_or_path": str(roomy), "dataset": {"train": lesson}, "max_steps": 1}
    assert finetune(config(**settings, new_tokens=["<defect>"])) == 0
    out = tmp_path / "out"
    assert XComposer2Tokenizer.from_pretrained(out).encode("<defect>", False) == [FIRST]
    next_config = config("next.json", **{**settings, "model_name_or_path": str(out)}, new_tokens=["<defect>"],
                         output_dir=str(tmp_path / "next"), learning_rate=0.0)  # fmt: skip
    assert finetune(next_config) == 0  # it is a token already, and its rows stay
    before, after = (XComposer2ForCausalLM.from_pretrained(path) for path in (out, tmp_path / "next"))
    np.testing.assert_array_equal(after.output.weight.numpy(), before.output.weight.numpy())


def test_tokens_that_the_data_needs_learn_by_themselves(config, roomy, lesson, tmp_path, capsys):
    """A model that never saw "<" and ">": their rows learn, though nobody names them."""
    model = XComposer2ForCausalLM.from_pretrained(roomy)
    tokenizer = XComposer2Tokenizer.from_pretrained(roomy)
    never = tokenizer.encode("<>", False)
    untrained(model, [*tokenizer.unused_ids, *never])
    model.save_pretrained(tmp_path / "model")
    settings = {**LORA, "model_name_or_path": str(tmp_path / "model"), "dataset": {"train": lesson}, "max_steps": 1}
    assert finetune(config(**settings)) == 0
    told = capsys.readouterr().out
    pieces = " ".join(tokenizer.convert_ids_to_tokens(sorted(never)))
    for table in ("embedding", "output head"):
        assert f"rows of the {table} for 2 tokens: {pieces}\n" in told
    indices = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["trainable_token_indices"]
    assert indices == {"model.tok_embeddings": sorted(never), "output": sorted(never)}
    assert not (tmp_path / "out" / "tokenizer.model").exists()  # it is the base's
    assert finetune(config(**settings, train_tokens=[], overwrite_output_dir=True)) == 0
    assert "rows of" not in capsys.readouterr().out


def test_whole_tables_beside_lora(config, roomy, lesson, tmp_path, capsys):
    settings = {**LORA, "model_name_or_path": str(roomy), "dataset": {"train": lesson}, "max_steps": 1}
    assert finetune(config(**settings, train_embeddings=True, embeddings_lr=1e-4, new_tokens=["<defect>"])) == 0
    assert "embeddings              51,200 of         51,200\n" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert content["modules_to_save"] == ["model.tok_embeddings", "output"] and "trainable_token_indices" not in content
    model = XComposer2ForCausalLM.from_pretrained(tmp_path / "out")
    assert not row_layers(model)
    assert model.provenance.replaced.keys() == {
        "model.tok_embeddings.weight",
        "output.weight",
    }


def test_new_tokens_that_nothing_teaches(config, roomy, workspace, tmp_path):
    path = config(
        **{"model_name_or_path": str(roomy), "do_train": False, "do_eval": True, "new_tokens": ["<defect>"]},
        evaluation_strategy="no",
    )
    with pytest.raises(ValueError, match='"new_tokens" are not all tokens of .* and "do_train" is false'):
        finetune(path)


def test_rows_of_a_table_that_an_adapter_holds_whole(roomy):
    model, tokenizer = tiny_model(), XComposer2Tokenizer.from_pretrained(roomy)
    token_rows.learn_token_rows(model, tokenizer, FinetuneArguments(lora=True, train_tokens=["e"]), None, tokenizer)
    assert len(token_rows.token_row_lines(model, tokenizer)) == 2
    model.provenance.replaced = {"output.weight": None}
    assert token_rows.token_row_lines(model, tokenizer)[2].endswith("PEFT does not read both together: merge first")


def test_new_tokens_that_are_one_already_learn_too(roomy):
    """A piece of the vocabulary, or a token that an earlier run has added."""
    tokenizer = XComposer2Tokenizer.from_pretrained(roomy).with_new_tokens(["<defect>"])
    model, arguments = tiny_model(), FinetuneArguments(lora=True, new_tokens=["<defect>", "e"], train_tokens=[])
    before = model.output.weight.numpy()
    token_rows.learn_token_rows(model, tokenizer, arguments, None, tokenizer)
    assert model.output.token_ids == tuple(sorted([FIRST, *tokenizer.encode("e", add_special_tokens=False)]))
    np.testing.assert_array_equal(model.output.rows.numpy(), before[:, list(model.output.token_ids)].T)


def test_learning_rate_of_rows():
    arguments = FinetuneArguments(lora=True, learning_rate=1e-3, embeddings_lr=5e-3, train_tokens=["e"])
    model = tiny_model()
    add_lora(model, arguments)
    from paddle_xc2.models.lora import replace_layer
    from paddle_xc2.models.token_rows import HeadRows

    replace_layer(model, "output", HeadRows(model.output, [5]))
    choose_trainable(model, arguments)
    assert model.output.rows.optimize_attr["learning_rate"] == pytest.approx(5.0)
    assert not model.output.rows.stop_gradient and model.output.base.weight.stop_gradient
    assert paddle.in_dynamic_mode()

"""Adapters in PEFT's and PaddleNLP's layout: read, applied, merged, taken away; and everything that can be wrong."""

import json

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from paddle_xc2 import XComposer2ForCausalLM
from paddle_xc2.checkpoint.adapter_files import Adapter, LowRank, TokenRows, merge, read_adapter
from paddle_xc2.checkpoint.lazy_tensor import LazyTensor, cast
from paddle_xc2.checkpoint.shards import read_checkpoint, read_shard
from paddle_xc2.models.lora import lora_layers
from paddle_xc2.weights.load_adapter import apply_adapter
from tests.golden import Golden
from tests.tiny import tiny_model

WQKV, W2 = "model.layers.0.attention.wqkv", "model.layers.1.feed_forward.w2"
SHAPES = {WQKV: (64, 128), W2: (96, 64)}  # in, out


def pairs(rank=4, modules=(WQKV, W2), shapes=SHAPES):
    """{name in PEFT's file: values}."""
    random, tensors = np.random.default_rng(0), {}
    for module in modules:
        inputs, outputs = shapes[module]
        for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            values = random.standard_normal(shape).astype(np.float32) * 0.1
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = values
    return tensors


def write_peft(directory, tensors, file="adapter_model.safetensors", **config):
    directory.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.05, **config}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, directory / file)
    return directory


def logits(model, ids=((1, 5, 6, 7, 90),)):
    with paddle.no_grad():
        return model(input_ids=paddle.to_tensor(ids)).logits.numpy()


@pytest.fixture(scope="module")
def golden():
    return Golden()


@pytest.fixture(scope="module")
def golden_checkpoint(golden, tmp_path_factory):
    return golden.checkpoint(tmp_path_factory.mktemp("golden"))


# Against upstream


def test_adapter_on_and_merged_are_upstreams(golden, golden_checkpoint):
    model = XComposer2ForCausalLM.from_pretrained(golden_checkpoint, dtype="float32")
    report = model.load_adapter(golden.directory / "adapter")
    assert report.num_updates == 10 and report.num_replaced == 0
    ids = golden.array("text.input_ids").astype("int64")
    assert golden.difference(logits(model, ids), "lora.text_logits") < 1e-4  # 1.6e-5 measured
    model.merge_adapter()
    assert golden.difference(logits(model, ids), "lora.text_logits") < 1e-4
    weight = model.model.layers[0].attention.wqkv.linear.weight.numpy().T
    assert golden.difference(weight, "lora.merged.model.layers.0.attention.wqkv.weight") < 1e-6


def test_merging_the_files_gives_pefts_sums(golden, golden_checkpoint):
    adapter = read_adapter(golden.directory / "adapter", read_shard)
    merged = merge(read_checkpoint(golden_checkpoint), adapter, golden.directory)
    assert golden.facts["merged_checksums"].keys() == adapter.updates.keys()
    for name, (total, absolute) in golden.facts["merged_checksums"].items():
        values = merged[name].load("float32", name).astype("float64")
        assert values.sum() == pytest.approx(total, abs=1e-3) and np.abs(values).sum() == pytest.approx(
            absolute, rel=1e-6
        )


@pytest.mark.parametrize("family", ["xc2_vl_7b", "xc2_4khd", "xc2d5", "llava_internlm2"])
def test_adapters_of_every_family(shared, family):
    golden = Golden(shared / "goldens" / family)
    model = XComposer2ForCausalLM.from_pretrained(golden.directory / "ckpt", dtype="float32")
    model.load_adapter(golden.directory / ("llm_adapter" if family.startswith("llava") else "adapter"))
    ids = golden.array("text.input_ids").astype("int64")
    assert golden.difference(logits(model, ids), "lora.text_logits") < 1e-4
    model.merge_adapter()
    assert golden.difference(logits(model, ids), "lora.merged_text_logits") < 1e-4


# Every setting


def expected(model, tensors, scale):
    """Weights of WQKV and W2 with the update, [in, out]."""
    parameters = dict(model.named_parameters())
    weights = {}
    for module in SHAPES:
        a, b = (tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
        weights[module] = parameters[f"{module}.linear.weight"].numpy() + scale[module] * (b @ a).T
    return weights


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, {WQKV: 2.0, W2: 2.0}),
        ({"use_rslora": True}, {WQKV: 4.0, W2: 4.0}),
        ({"alpha_pattern": {"attention.wqkv": 4}}, {WQKV: 1.0, W2: 2.0}),
        ({"r": 9, "rank_pattern": {"wqkv": 4, r"layers\.1\.feed_forward.w\d": 4}}, {WQKV: 2.0, W2: 2.0}),
        ({"layers_to_transform": [0, 1], "layers_pattern": "layers"}, {WQKV: 2.0, W2: 2.0}),
    ],
)
def test_scales(tmp_path, config, scale):
    tensors, model = pairs(), tiny_model()
    want, plain = expected(model, tensors, scale), logits(model)
    report = model.load_adapter(write_peft(tmp_path / "adapter", tensors, **config))
    assert report.num_updates == 2 and np.abs(logits(model) - plain).max() > 1e-2
    change = np.sqrt(
        sum(float(((want[m] - lora_layers(model)[f"{m}.linear"].base.weight.numpy()) ** 2).sum()) for m in want)
    )
    assert report.change_norm == pytest.approx(change, rel=1e-4)
    assert str(report) == f"2 low-rank updates, norm of the change {report.change_norm:.4g}"
    assert lora_layers(model)[f"{WQKV}.linear"].dropout.p == 0.05
    on = logits(model)
    model.merge_adapter()
    for module, weight in want.items():
        np.testing.assert_allclose(dict(model.named_parameters())[f"{module}.linear.weight"].numpy(), weight, atol=1e-6)
    np.testing.assert_allclose(logits(model), on, atol=5e-5)


def test_dora(tmp_path):
    tensors, model = pairs(modules=(WQKV,)), tiny_model()
    magnitude = np.linspace(0.5, 2.0, 128, dtype=np.float32)
    tensors[f"base_model.model.{WQKV}.lora_magnitude_vector"] = magnitude
    base = model.model.layers[0].attention.wqkv.linear.weight.numpy()
    a, b = (tensors[f"base_model.model.{WQKV}.lora_{side}.weight"] for side in "AB")
    direction = base.T + 2.0 * (b @ a)
    want = direction / np.linalg.norm(direction, axis=1, keepdims=True) * magnitude[:, None]
    directory = write_peft(tmp_path / "adapter", tensors, use_dora=True)
    model.load_adapter(directory)
    on = logits(model)
    model.merge_adapter()
    np.testing.assert_allclose(model.model.layers[0].attention.wqkv.linear.weight.numpy(), want.T, atol=1e-5)
    np.testing.assert_allclose(logits(model), on, atol=5e-5)
    weight = LazyTensor("float32", base.T.shape, lambda: base.T)
    merged = merge({f"{WQKV}.weight": weight}, read_adapter(directory, read_shard), directory)
    np.testing.assert_allclose(merged[f"{WQKV}.weight"].read(), want, atol=1e-5)


def test_whole_tensors_are_replaced_and_come_back(tmp_path):
    """modules_to_save, under the names of PEFT's file and of PEFT's model in memory."""
    model = tiny_model()
    before = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    plain = logits(model)
    weight = np.full((64, 32), 0.5, np.float32)  # PyTorch's layout: out, in
    head = np.random.default_rng(1).standard_normal((400, 64)).astype(np.float32)
    tensors = {
        **pairs(),
        "base_model.model.vision_proj.0.weight": weight,
        "base_model.model.output.modules_to_save.default.weight": head,
        "base_model.model.vit.vision_tower.vision_model.encoder.layers.0.mlp.fc1.base_layer.bias": np.ones(
            56, np.float32
        ),
    }
    report = model.load_adapter(write_peft(tmp_path / "adapter", tensors, modules_to_save=["vision_proj", "output"]))
    assert (report.num_updates, report.num_replaced) == (2, 3) and "3 tensors replaced whole" in str(report)
    assert model.provenance.replaced.keys() == {"vision_proj.0.weight", "output.weight", "vit.layers.0.mlp.fc1.bias"}
    np.testing.assert_array_equal(model.vision_proj[0].weight.numpy(), weight.T)
    np.testing.assert_array_equal(model.output.weight.numpy(), head.T)
    model.unload_adapter()
    assert not lora_layers(model) and not model.provenance.replaced
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), before[name])
    np.testing.assert_array_equal(logits(model), plain)


def test_paddlenlps_layout(tmp_path):
    """Names of our model and of PaddleMIX's, matrices as Paddle has them; the same model as from PEFT's files."""
    tensors = pairs()
    one = tiny_model()
    one.load_adapter(write_peft(tmp_path / "peft", tensors, use_rslora=True))
    for name, inner in (("ours", ".linear"), ("paddlemix", "")):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "lora_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "rslora": True}))
        (directory / "config.json").write_text("{}")  # PaddleNLP writes the model's beside it
        state = {}
        for key, value in tensors.items():
            module, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
            state[f"{module}{inner}.lora_{side}"] = paddle.to_tensor(np.ascontiguousarray(value.T))
        state["vision_proj.0.bias"] = paddle.ones([64])
        paddle.save(state, str(directory / "lora_model_state.pdparams"))
        other = tiny_model()
        report = other.load_adapter(directory)
        assert (report.num_updates, report.num_replaced) == (2, 1)
        np.testing.assert_array_equal(logits(other), logits(one))
        assert other.vision_proj[0].bias.numpy().tolist() == [1.0] * 64


def test_paddlenlps_errors(tmp_path):
    def write(config, state):
        (tmp_path / "lora_config.json").write_text(json.dumps(config))
        save_file(state, tmp_path / "peft_model-00001-of-00001.safetensors")

    with pytest.raises(
        FileNotFoundError, match=r"is no adapter: it has no adapter_config.json \(PEFT\) and no lora_config"
    ):
        read_adapter(tmp_path, read_shard)
    (tmp_path / "lora_config.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match="there is no lora_model_state.* or peft_model.*; copy the whole adapter"
    ):
        read_adapter(tmp_path, read_shard)
    write({"r": 4, "pissa": True}, {"x": np.ones(1)})
    with pytest.raises(ValueError, match="pissa is True, which is not understood; merge the adapter with the library"):
        read_adapter(tmp_path, read_shard)
    write({"r": 4}, {"model.somewhere.lora_A": np.ones((2, 2))})
    with pytest.raises(ValueError, match="holds 1 tensors of no part of the model, first model.somewhere.lora_A"):
        read_adapter(tmp_path, read_shard)
    write({"r": 5}, {f"{WQKV}.linear.lora_A": np.ones((64, 4)), f"{WQKV}.linear.lora_B": np.ones((4, 128))})
    with pytest.raises(ValueError, match="have rank 4, but lora_config.json says 5"):
        read_adapter(tmp_path, read_shard)


def test_adapters_of_xtuners_parts(tmp_path):
    """XTuner's adapter of the vision encoder names tensors as CLIP alone does."""
    model = tiny_model(xc2_family="llava-internlm2")
    fc1 = "vision_model.encoder.layers.0.mlp.fc1"
    model.load_adapter(write_peft(tmp_path / "adapter", pairs(modules=(fc1,), shapes={fc1: (32, 56)})))
    assert list(lora_layers(model)) == ["vit.layers.0.mlp.fc1"]


# What can be wrong


PREFIX = "base_model.model."
ROWS = ".token_adapter.trainable_tokens_delta"


def test_rows_of_tokens_are_replaced_and_come_back(tmp_path):
    """PEFT's trainable tokens: by the end of a module's name, in the order of the list."""
    random = np.random.default_rng(1)
    embedding, head = (random.standard_normal((n, 64)).astype(np.float32) for n in (3, 2))
    tensors = {f"{PREFIX}model.tok_embeddings{ROWS}": embedding, f"{PREFIX}output{ROWS}.default": head}
    ids = {"tok_embeddings": [90, 3, 399], "output": [5, 17]}
    directory = write_peft(tmp_path / "adapter", tensors, trainable_token_indices=ids)
    model = tiny_model()
    before, plain = dict(model.state_dict()), logits(model)
    before = {name: parameter.numpy() for name, parameter in before.items()}
    report = model.load_adapter(directory)
    assert str(report).startswith("0 low-rank updates, 5 rows of token tables replaced, norm of the change")
    with_rows = logits(model)
    assert np.abs(with_rows - plain).max() > 0.1
    change = np.concatenate(
        [embedding - before["model.tok_embeddings.weight"][[90, 3, 399]], head - before["output.weight"][:, [5, 17]].T]
    )
    assert report.change_norm == pytest.approx(np.linalg.norm(change), rel=1e-5)
    model.unload_adapter()
    assert not model.has_adapter
    np.testing.assert_array_equal(logits(model), plain)
    model.load_adapter(directory)
    model.merge_adapter()
    np.testing.assert_allclose(logits(model), with_rows, atol=1e-5)
    want = before["model.tok_embeddings.weight"].copy()
    want[[90, 3, 399]] = embedding
    np.testing.assert_array_equal(model.model.tok_embeddings.weight.numpy(), want)
    want = before["output.weight"].copy()
    want[:, [5, 17]] = head.T
    np.testing.assert_array_equal(model.output.weight.numpy(), want)
    for name in before.keys() - {"model.tok_embeddings.weight", "output.weight"}:
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), before[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rows_in_half_precision_merge_on_a_cpu(tmp_path, dtype):
    values = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)
    tensors = {**pairs(), f"{PREFIX}model.tok_embeddings{ROWS}": values, f"{PREFIX}output{ROWS}": values}
    ids = {"tok_embeddings": [90, 3], "output": [5, 17]}
    directory = write_peft(tmp_path / "adapter", tensors, trainable_token_indices=ids)
    tiny_model().save_pretrained(tmp_path / "model")
    model = XComposer2ForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
    before = [table.astype("float32").numpy() for table in (model.model.tok_embeddings.weight, model.output.weight.t())]
    model.load_adapter(directory)
    model.merge_adapter()
    after = [table.astype("float32").numpy() for table in (model.model.tok_embeddings.weight, model.output.weight.t())]
    rounded = paddle.to_tensor(values).astype(dtype).astype("float32").numpy()
    for old, new, rows in zip(before, after, ids.values(), strict=True):
        old[rows] = rounded
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_in_files_are_those_in_memory(tmp_path, dtype):
    """Saved, read, and merged into the files of the base, together with LoRA."""
    model = tiny_model()
    rows = {"tok_embeddings": [7, 2, 9]}  # a list would do as well, for the embedding
    values = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    tensors = {**pairs(), f"{PREFIX}model.tok_embeddings{ROWS}": values}
    model.load_adapter(write_peft(tmp_path / "first", tensors, trainable_token_indices=rows["tok_embeddings"]))
    model.save_adapter(tmp_path / "second")
    config = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert config["trainable_token_indices"] == {"model.tok_embeddings": [7, 2, 9]}
    adapter = read_adapter(tmp_path / "second", read_shard)
    token_ids, stored = adapter.rows["model.tok_embeddings.weight"]
    assert token_ids == (7, 2, 9) and adapter.updates.keys() == {f"{WQKV}.weight", f"{W2}.weight"}
    np.testing.assert_array_equal(stored.load("float32", "rows"), values)
    table = tiny_model().model.tok_embeddings.weight.numpy()
    names = [f"{WQKV}.weight", f"{W2}.weight"]
    base = {name: LazyTensor("float32", shape[::-1], lambda s=shape[::-1]: np.zeros(s, np.float32))
            for name, shape in zip(names, SHAPES.values(), strict=True)}  # fmt: skip
    stored_table = cast(table, "float32", dtype, "table")
    base["model.tok_embeddings.weight"] = LazyTensor(dtype, table.shape, lambda: stored_table)
    merged = merge(base, adapter, tmp_path)["model.tok_embeddings.weight"]
    want = stored_table.copy()
    want[[7, 2, 9]] = cast(values, "float32", dtype, "rows")
    assert merged.dtype == dtype
    np.testing.assert_array_equal(merged.read(), want)
    np.testing.assert_array_equal(stored_table, cast(table, "float32", dtype, "table"))  # the file's own stay


def test_tokenizer_that_is_damaged_leaves_the_model_as_it_was(tmp_path):
    model = tiny_model()
    plain = logits(model)
    directory = write_peft(tmp_path / "adapter", pairs())
    (directory / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="this is a Git LFS pointer"):
        model.load_adapter(directory)
    assert not model.has_adapter
    np.testing.assert_array_equal(logits(model), plain)


def rows_of(module, count=2, width=64):
    return {f"{PREFIX}{module}{ROWS}": np.ones((count, width), np.float32)}


@pytest.mark.parametrize(
    ("tensors", "indices", "message"),
    [
        (rows_of("output"), None, r"trainable_token_indices doesn't say which tokens the \[2, 64\] rows of output"),
        (rows_of("output"), {"tok_embeddings": [1, 2]}, "doesn't say which tokens the"),
        (rows_of("output"), {"output": [1]}, "doesn't say which tokens the"),
        (rows_of("output"), {"output": [1, 1]}, "doesn't say which tokens the"),
        (rows_of("output"), {"output": [1, -1]}, "doesn't say which tokens the"),
        (rows_of("output"), {"output": [1, "2"]}, "doesn't say which tokens the"),
        (rows_of("output", count=0), {"output": []}, "doesn't say which tokens the"),
        ({}, [1], "trainable_token_indices names tokens of the embedding, but the adapter holds no rows of"),
        ({}, {"output": [1]}, "trainable_token_indices names tokens of output, but the adapter holds no rows of them"),
        (rows_of("output"), {"output": [1, 2], "tok_embeddings": [1]}, "names tokens of tok_embeddings, but the adapt"),
        (rows_of("output"), {"output": [1, 400]}, r"first output.weight \[401, 64\], which is \[400, 64\] there"),
        (rows_of("output", width=63), {"output": [1, 2]}, r"first output.weight \[3, 63\], which is \[400, 64\] there"),
        (rows_of("vision_proj.0", width=32), {"0": [1, 2]}, "holds rows of vision_proj.0, which is no token table"),
        (rows_of(WQKV), {"wqkv": [1, 2]}, "holds rows of .*wqkv.*, which is no token table, or which it updates too"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_change_nothing(tmp_path, tensors, indices, message):
    model = tiny_model()
    plain = logits(model)
    directory = write_peft(tmp_path / "adapter", {**pairs(), **tensors}, trainable_token_indices=indices)
    with pytest.raises(ValueError, match=message):
        model.load_adapter(directory)
    assert not model.has_adapter
    np.testing.assert_array_equal(logits(model), plain)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda t: t.clear(), {}, "the adapter holds no tensor, it would change nothing; copy it again"),
        (
            lambda t: t.update({f"{PREFIX}model.layers.7.attention.wo.lora_A.weight": np.ones((4, 64), np.float32),
                                f"{PREFIX}model.layers.7.attention.wo.lora_B.weight": np.ones((64, 4), np.float32)}),
            {}, r"1 of its 3 tensors don't fit the base model, first model.layers.7.attention.wo.weight \[64, 64\], "
                "which is not there; was it trained on another base",
        ),
        (
            lambda t: t.update({f"{PREFIX}{WQKV}.lora_A.weight": np.ones((4, 63), np.float32)}),
            {}, r"first model.layers.0.attention.wqkv.weight \[128, 63\], which is \[128, 64\] there",
        ),
        (lambda t: t.update({f"{WQKV}.lora_A.weight": np.ones((4, 64), np.float32)}), {}, "wqkv.lora_A.weight twice"),
        (
            lambda t: t.update({f"{PREFIX}{WQKV}.lora_A.default.weight": np.ones((4, 64), np.float32)}),
            {},
            "wqkv.lora_A.weight twice",
        ),
        (
            lambda t: t, {"modules_to_save": ["model.tok_embeddings", "output", "lm_head"]},
            "modules_to_save names tok_embeddings, output, but the adapter holds no tensor of it; the adapter's files",
        ),
        (lambda t: t.pop(f"{PREFIX}{WQKV}.lora_A.weight"), {}, "wqkv.weight has a lora_B without its other half"),
        (
            lambda t: t.update({f"{PREFIX}{WQKV}.lora_A.weight": np.ones((3, 64), np.float32)}),
            {}, r"lora_A \[3, 64\] and lora_B \[128, 4\] of .* don't fit together",
        ),
        (
            lambda t: t.update({f"{PREFIX}{WQKV}.lora_magnitude_vector": np.ones(64, np.float32)}),
            {}, r"lora_magnitude_vector \[64\] and lora_B \[128, 4\] of .* don't fit together",
        ),
        (
            lambda t: t.update({f"{PREFIX}model.tok_embeddings.lora_embedding_A": np.ones((4, 400), np.float32)}),
            {}, "lora_embedding_A is of a kind of LoRA that is not understood; merge the adapter with PEFT",
        ),
        (lambda t: None, {"r": 8}, "the matrices of .* have rank 4, but adapter_config.json says 8"),
        (lambda t: None, {"use_dora": True}, "has no lora_magnitude_vector, but adapter_config.json says use_dora"),
        (lambda t: None, {"peft_type": "IA3"}, "peft_type is 'IA3', only 'LORA' is understood"),
        (lambda t: None, {"fan_in_fan_out": True}, "fan_in_fan_out is True, only False is understood"),
        (lambda t: None, {"lora_alpha": 0}, "lora_alpha is 0, expected a number above 0"),
        (lambda t: None, {"alpha_pattern": {"(": 1}}, 'alpha_pattern: "\\(" is no regular expression'),
        (lambda t: None, {"rank_pattern": [4]}, r"rank_pattern is \[4\], expected an object of at most 10000 na"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path, change, config, message):
    tensors = pairs()
    change(tensors)
    model = tiny_model()
    plain = logits(model)
    directory = write_peft(tmp_path / "adapter", tensors, **config)
    with pytest.raises(ValueError, match=message) as caught:
        model.load_adapter(directory)
    assert str(directory) in str(caught.value)
    assert not lora_layers(model)
    np.testing.assert_array_equal(logits(model), plain)


def test_missing_file(tmp_path):
    directory = write_peft(tmp_path / "adapter", pairs())
    (directory / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="there is no adapter_model.safetensors or adapter_model.bin"):
        tiny_model().load_adapter(directory)


def test_one_adapter_at_a_time(tmp_path):
    directory = write_peft(tmp_path / "adapter", pairs())
    model = tiny_model()
    with pytest.raises(ValueError, match=r"the model has no adapter to merge; load one with load_adapter\(path\)"):
        model.merge_adapter()
    with pytest.raises(ValueError, match="the model has no adapter to unload"):
        model.unload_adapter()
    model.load_adapter(directory)
    with pytest.raises(ValueError, match=r"has an adapter already; merge_adapter\(\) or unload_adapter\(\) first"):
        model.load_adapter(directory)
    model.unload_adapter()
    model.load_adapter(directory)


def test_values_that_were_not_kept_can_not_come_back(tmp_path):
    tensors = {"base_model.model.vision_proj.0.bias": np.ones(64, np.float32)}
    directory = write_peft(tmp_path / "adapter", tensors)
    model = tiny_model()
    apply_adapter(model, read_adapter(directory, read_shard), directory, keep_replaced=False)
    with pytest.raises(
        ValueError, match="values of vision_proj.0.bias were not kept while training; load the base again"
    ):
        model.unload_adapter()


def test_an_update_of_no_linear_layer(tmp_path):
    name = "vit.vision_tower.vision_model.embeddings.position_embedding"
    directory = write_peft(tmp_path / "adapter", pairs(modules=(name,), shapes={name: (32, 5)}))
    with pytest.raises(ValueError, match="updates vit.position_embedding, which is no linear layer"):
        tiny_model().load_adapter(directory)


def test_an_adapter_that_changes_nothing_says_so(tmp_path):
    tensors = {name: value * (".lora_A" in name) for name, value in pairs().items()}
    report = tiny_model().load_adapter(write_peft(tmp_path / "adapter", tensors))
    assert str(report) == "2 low-rank updates, norm of the change 0; it changes nothing yet"


def test_merging_goes_block_by_block(monkeypatch):
    monkeypatch.setattr("paddle_xc2.checkpoint.lazy_tensor.BLOCK_BYTES", 4 * 700 * 200)
    random = np.random.default_rng(0)
    base, a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((1000, 700), (3, 700), (1000, 3)))
    lazy = [LazyTensor("float32", x.shape, lambda x=x: x) for x in (base, a, b)]

    class OneUpdate:
        updates, replaced, rows = {"w": LowRank(lazy[1], lazy[2], 0.5)}, {}, {}

    merged = merge({"w": lazy[0]}, OneUpdate, "here")["w"]
    np.testing.assert_allclose(merged.read(), base + 0.5 * b @ a, atol=1e-5)


@pytest.mark.parametrize("name", ["lora_A", "lora_B", "vision_proj.0.bias"])
def test_numbers_that_are_not_finite_are_refused_and_change_nothing(tmp_path, name):
    model = tiny_model()
    before = logits(model)
    tensors = pairs() | {"base_model.model.vision_proj.0.bias": np.ones(64, np.float32)}
    for key in tensors:
        if name in key:
            tensors[key] = np.where(np.arange(tensors[key].size).reshape(tensors[key].shape) == 3, np.nan, tensors[key])
    with pytest.raises(ValueError, match="adapter: holds numbers that are not finite; its training went wrong"):
        model.load_adapter(write_peft(tmp_path / "adapter", tensors))
    assert not model.has_adapter
    np.testing.assert_array_equal(logits(model), before)
    assert np.isfinite(model.vision_proj[0].bias.numpy()).all()


def test_an_adapter_of_ours_that_changed_is_refused(tmp_path):
    """A flipped bit of a number, of a setting, of a fact: each would answer otherwise, in silence."""
    model = tiny_model()
    model.load_adapter(write_peft(tmp_path / "theirs", pairs()))
    model.save_pretrained(tmp_path / "ours")
    directory = tmp_path / "ours"
    for name in ("adapter_model.safetensors", "adapter_config.json", "paddle_xc2_adapter.json"):
        sound = (directory / name).read_bytes()
        changed = sound[:-1] + bytes([sound[-1] ^ 1]) if name.endswith("safetensors") else sound.replace(b"4", b"5", 1)
        (directory / name).write_bytes(changed if changed != sound else sound + b"\n")
        with pytest.raises(ValueError, match=rf"{name} has (changed|\d+ bytes instead)|have rank 4, but|is damaged"):
            tiny_model().load_adapter(directory)
        (directory / name).write_bytes(sound)
    assert tiny_model().load_adapter(directory).num_updates == 2
    (directory / "adapter_config.json").write_bytes((directory / "adapter_config.json").read_bytes() + b"\n")
    with pytest.raises(ValueError, match="if that was done on purpose, delete paddle_xc2_manifest.json there"):
        tiny_model().load_adapter(directory)
    (directory / "paddle_xc2_manifest.json").unlink()
    assert tiny_model().load_adapter(directory).num_updates == 2


def test_merging_rounds_once_to_the_dtype_that_is_asked_for():
    """Updates, whole tensors and rows of a base in bfloat16."""
    random = np.random.default_rng(0)
    base = {name: random.standard_normal((6, 4)).astype(np.float32) for name in ("a", "b", "c", "d")}
    bits = {name: cast(values, "float32", "bfloat16", name) for name, values in base.items()}
    stored = {name: LazyTensor("bfloat16", (6, 4), lambda name=name: bits[name]) for name in base}
    exact = {name: cast(bits[name], "bfloat16", "float32", name) for name in base}
    left, right, whole = (random.standard_normal(shape).astype(np.float32) for shape in ((6, 2), (2, 4), (6, 4)))

    def lazy(values):
        return LazyTensor("float32", values.shape, lambda: values)

    adapter = Adapter(
        updates={"a": LowRank(lazy(right), lazy(left), 0.5), "d": LowRank(lazy(right), lazy(left), 0.5)},
        replaced={"b": lazy(whole)},
        rows={"c": TokenRows((1, 5), lazy(whole[:2]))},
    )
    for dtype, kept in (("float32", "float32"), (None, "bfloat16"), ("float16", "float16")):
        merged = merge(stored, adapter, "here", dtype)
        rows = exact["c"].copy()
        rows[[1, 5]] = whole[:2]
        wanted = {"a": exact["a"] + 0.5 * left @ right, "b": whole, "c": rows, "d": exact["d"] + 0.5 * left @ right}
        for name, values in wanted.items():
            assert merged[name].dtype == kept
            np.testing.assert_array_equal(merged[name].load(kept, name), cast(values, "float32", kept, name))


def test_an_adapter_without_values_is_named(tmp_path):
    """PEFT's save_pretrained under DeepSpeed's ZeRO-3."""
    empty = {name: np.ones(0, np.float32) for name in pairs()}
    with pytest.raises(ValueError, match=r"4 tensors are empty \(shape \[0\]\), .*ZeRO-3, .*zero_to_fp32.py"):
        read_adapter(write_peft(tmp_path / "adapter", empty), read_shard)

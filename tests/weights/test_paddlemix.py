"""Checkpoints of PaddleMIX's port, written by PaddleNLP."""

import json

import numpy as np
import paddle
import pytest

from paddle_xc2.checkpoint.config_files import load_config
from paddle_xc2.checkpoint.shards import read_checkpoint
from paddle_xc2.checkpoint.xcomposer2_names import XCOMPOSER2_NAMES as NAMES
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.model import load_model
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from paddle_xc2.weights.convert import convert
from tests.tiny import tiny_config, tiny_model, tiny_tokenizer
from tests.weights.paddlemix_port import port, save_port

# How PaddleNLP writes: one file, shards with an index, safetensors.
WAYS = {
    "pdparams": {},
    "pdparams-shards": {"max_shard_size": "300KB"},
    "safetensors": {"safe_serialization": True},
    "safetensors-shards": {"safe_serialization": True, "max_shard_size": "300KB"},
}


@pytest.fixture(scope="module")
def theirs():
    paddle.seed(3)
    return port()


@pytest.fixture(scope="module")
def original(theirs, tmp_path_factory):
    """Read only."""
    return save_port(theirs, tmp_path_factory.mktemp("internlm_xcomposer2"))


def assert_equal_weights(model, port):
    expected = {name: tensor.astype("float32").numpy() for name, tensor in port.state_dict().items()}
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(
            parameter.numpy(), expected.pop(NAMES.from_paddle(name, "paddlemix")[0]), err_msg=name
        )
    assert all(".ln_post." in name for name in expected)


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_file(theirs, tmp_path, way):
    directory = save_port(theirs, tmp_path, **WAYS[way])
    pattern = "model_state*.pdparams" if "pdparams" in way else "model*.safetensors"
    assert (len(list(directory.glob(pattern))) > 1) == ("shards" in way)
    assert_equal_weights(load_model(directory), theirs)


@pytest.mark.parametrize("way", ["pdparams", "safetensors"])
def test_bfloat16(tmp_path, way):
    """Which both kinds of file hold as uint16."""
    model = port("bfloat16")
    directory = save_port(model, tmp_path, **WAYS[way])
    assert {tensor.dtype for tensor in read_checkpoint(directory).values()} == {"bfloat16"}
    assert load_config(directory).hf_config["torch_dtype"] == "bfloat16"
    assert_equal_weights(load_model(directory), model)


def test_image_features_are_theirs(theirs, original):
    """Computed by PaddleNLP's CLIP and by our ViT: names that were swapped would show."""
    pixels = paddle.randn([2, 3, 28, 28])
    with paddle.no_grad():
        states = theirs.vit.vision_tower(pixels, output_hidden_states=True, return_dict=True).hidden_states
        expected = theirs.vision_proj(states[-1][:, 1:])
        found = load_model(original).image_tokens(list(pixels))
    np.testing.assert_allclose(found.numpy(), expected.reshape([-1, 64]).numpy(), rtol=1e-4, atol=1e-5)


def test_config(original):
    config = load_config(original, read_checkpoint(original))
    assert (config.xc2_family, config.img_size) == ("xcomposer2-vl-7b", 28)
    assert (config.rms_norm_eps, config.rope_theta, config.bias) == (3e-5, 500000, False)
    assert config.vision_config == tiny_config().vision_config
    upstream = config.hf_config
    assert upstream["torch_dtype"] == "float32" and upstream["model_type"] == "internlm"
    assert upstream["auto_map"]["AutoConfig"] == "configuration_internlm_xcomposer2.InternLMXcomposer2Config"
    assert (upstream["pad_token_id"], upstream["rope_scaling"]) == (2, {"factor": 1.0, "type": "dynamic"})
    for key in ("vision_tower", "vision_projector", "attn_implementation", "paddlenlp_version"):
        assert key in json.loads((original / "config.json").read_text()) and key not in upstream


@pytest.mark.parametrize("to", ["paddle", "hf"])
def test_conversion(theirs, original, tmp_path, to):
    report = convert(original, tmp_path / to, to=to)
    assert report.layout == "paddlemix"
    assert set(report.dropped) == {f"vit.vision_tower.vision_model.ln_post.{name}" for name in ("weight", "bias")}
    assert_equal_weights(load_model(tmp_path / to), theirs)
    content = json.loads((tmp_path / to / "config.json").read_text())
    assert content["torch_dtype"] == "float32" and "vision_projector" not in content
    names = read_checkpoint(tmp_path / to)
    if to == "hf":
        assert set(names) == {NAMES.to_hf(name)[0] for name, _ in tiny_model().named_parameters()}


def test_what_lies_beside_the_weights(original, tmp_path):
    """PaddleMIX's own code and settings stay behind, the tokenizer gets upstream's names."""
    assert (original / "paddlemix_port.py").exists()  # copied by PaddleNLP, as PaddleMIX's modeling.py would be
    convert(original, tmp_path / "hf", to="hf")
    assert {path.name for path in (tmp_path / "hf").iterdir()} == {
        *("config.json", "clip_vision_config.json", "model.safetensors", "model.safetensors.index.json"),
        *("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "paddle_xc2_manifest.json"),
    }
    assert "auto_map" in json.loads((tmp_path / "hf/tokenizer_config.json").read_text())
    assert (tmp_path / "hf/tokenizer.model").read_bytes() == (original / "sentencepiece.bpe.model").read_bytes()


def test_processor_and_tokenizer(original, tmp_path):
    text = "What is in the picture?[UNUSED_TOKEN_145]\n"
    expected = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path)).encode(text)
    assert XComposer2Processor.from_pretrained(original).tokenizer.encode(text) == expected


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="sentencepiece.bpe.model: this is no SentencePiece model"):
        XComposer2Tokenizer.from_pretrained(tmp_path)


def test_no_tokenizer(theirs, tmp_path):
    directory = save_port(theirs, tmp_path / "original")
    (directory / "sentencepiece.bpe.model").unlink()
    convert(directory, tmp_path / "converted")
    assert not list((tmp_path / "converted").glob("*token*"))


def test_a_tensor_missing_is_named_as_paddlemix_does(theirs, tmp_path):
    directory = save_port(theirs, tmp_path)
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith("ln_pre.bias")}
    paddle.save(state, str(directory / "model_state.pdparams"))
    message = r"1 tensors that the model needs are missing: vit\.vision_tower\.vision_model\.ln_pre\.bias$"
    with pytest.raises(ValueError, match=message):
        load_model(directory)


def test_code_in_a_checkpoint_is_not_executed(original, tmp_path):
    import pickle

    class Attack:
        def __reduce__(self):
            return print, ("executed",)

    for name in ("config.json", "clip_vision_config.json"):
        (tmp_path / name).write_bytes((original / name).read_bytes())
    (tmp_path / "model_state.pdparams").write_bytes(pickle.dumps({"output.weight": Attack()}))
    with pytest.raises(ValueError, match=r"model_state\.pdparams: refused, .* asks for builtins\.print"):
        load_model(tmp_path)

"""Qwen-VL as a whole: a checkpoint is loaded, asked, trained on, adapted and written."""

import json

import numpy as np
import paddle
import pytest

from paddle_xc2 import load_model, load_processor
from paddle_xc2.data.qwen_processor import QwenVLProcessor
from paddle_xc2.generation import prefill
from paddle_xc2.generation.engine import Engine
from paddle_xc2.generation.request import Request
from paddle_xc2.generation.sampling_settings import SamplingSettings
from paddle_xc2.generation.served_model import ServedModel
from paddle_xc2.model import QwenVLForCausalLM
from paddle_xc2.models import block_cache
from paddle_xc2.models.key_value_cache import KeyValueCache
from paddle_xc2.models.lora import LoRALinear, layer_at, replace_layer
from paddle_xc2.weights.convert import convert
from tests.golden import Golden
from tests.tiny import tiny_family_tokenizer, tiny_model, tiny_qwen_checkpoint

# float32 on a CPU: upstream's numbers were met within 1.0e-5, beyond seq_length within 1.5e-5; margin 4x.
ATOL = 6e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_qwen_checkpoint(tmp_path_factory.mktemp("qwen") / "model")


@pytest.fixture(scope="module")
def golden(shared):
    return Golden(shared / "goldens" / "qwen_vl")


@pytest.fixture(scope="module")
def golden_model(golden):
    return load_model(golden.directory / "ckpt", dtype="float32")


def int64(array):
    return paddle.to_tensor(np.asarray(array).astype("int64"))


def test_a_directory_gets_the_classes_of_its_family(checkpoint):
    model, processor = load_model(checkpoint), load_processor(checkpoint)
    assert type(model) is QwenVLForCausalLM and type(processor) is QwenVLProcessor
    assert processor.tokenizer.image_tokens == model.config.num_image_tokens == 4


@pytest.mark.parametrize("to", ["paddle", "hf"])
def test_conversion_there_and_back(checkpoint, tmp_path, to):
    report = convert(checkpoint, tmp_path / "other", to=to)
    assert report.layout == "hf" and report.dropped == {}
    model, other = load_model(checkpoint), load_model(tmp_path / "other")
    for (name, parameter), (_, same) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_array_equal(parameter.numpy(), same.numpy(), err_msg=name)
    assert (tmp_path / "other" / "qwen.tiktoken").read_bytes() == (checkpoint / "qwen.tiktoken").read_bytes()


def test_an_adapter_has_pefts_names_and_comes_back(checkpoint, tmp_path):
    model = load_model(checkpoint)
    for path in ("model.layers.0.attn.c_attn", "model.layers.1.attn.c_proj", "model.layers.1.mlp.w2"):
        layer = LoRALinear(layer_at(model, path), rank=2, scaling=0.5)
        layer.lora_b.set_value(paddle.randn(layer.lora_b.shape))
        replace_layer(model, path, layer)
    model.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == sorted(
        f"transformer.h.{end}" for end in ("0.attn.c_attn", "1.attn.c_proj", "1.mlp.w2")
    )
    ids = int64([[5, 6, 7, 8]])
    again = load_model(tmp_path / "adapter")
    np.testing.assert_array_equal(again(ids).logits.numpy(), model(ids).logits.numpy())
    again.merge_adapter()
    np.testing.assert_allclose(again(ids).logits.numpy(), model(ids).logits.numpy(), rtol=0, atol=ATOL)


def test_four_bits_keep_the_bias(checkpoint):
    model, quantized = load_model(checkpoint), load_model(checkpoint, quantize="nf4")
    name = "model.layers.0.attn.c_attn"
    bias = dict(quantized.named_parameters())[f"{name}.bias"].numpy()
    np.testing.assert_array_equal(bias, dict(model.named_parameters())[f"{name}.bias"].numpy())
    assert f"{name}.weight" not in dict(quantized.named_parameters())
    zero = quantized.model.layers[0].attn.c_attn(paddle.zeros([1, 1, 64])).numpy()[0, 0]
    np.testing.assert_array_equal(zero, bias)


def test_layers_and_image_features_are_upstreams(golden, golden_model):
    ids = int64(golden.array("text.input_ids"))
    processor = load_processor(golden.directory / "ckpt")
    with paddle.no_grad():
        out = golden_model(ids, output_hidden_states=True)
        assert golden.difference(out.logits, "text.logits") < ATOL
        for index, states in enumerate(out.hidden_states):
            assert golden.difference(states, f"text.hidden{index}") < ATOL
        for path in sorted(golden.images.iterdir()):
            features = golden_model.encode_img(path)
            assert golden.difference(features, f"feat.{path.name}") < ATOL
            pixels = processor.image_transform(path)[None]
            assert golden.difference(pixels, f"pix.{path.name}") < 1e-6


@pytest.mark.parametrize("prefill", ["across", "beyond"])
def test_a_cache_across_seq_length_is_upstreams(golden, golden_model, prefill):
    facts = golden.facts["long_cached"][f"cached_{prefill}"]
    ids, cache = int64(golden.array("long.input_ids")), KeyValueCache()
    first, last = facts["positions"]
    with paddle.no_grad():
        rows = [golden_model(ids[:, : facts["prefill"]], past_key_values=cache).logits[:, -1:]]
        rows += [
            golden_model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(facts["prefill"], last + 1)
        ]
    rows = paddle.concat(rows, axis=1)[:, : last + 1 - first]
    assert golden.difference(rows, f"long.cached_{prefill}.logits") < ATOL


def test_greedy_answers_are_upstreams(golden, golden_model):
    """Those that end; of others upstream's `chat` drops the last token."""
    tokenizer = load_processor(golden.directory / "ckpt").tokenizer
    for name in ("history", "system_zh", "stop_im_start", "stop_im_end", "stop_endoftext"):
        case = golden.facts["chat"][name]
        settings = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 32, "history": case["history"]}
        answer, history = golden_model.chat(tokenizer, case["query"], meta_instruction=case["system"], **settings)
        assert history[-1] == (case["query"], answer)
        assert answer.strip() == case["response"], name


def test_the_engine_gives_what_each_prompt_gives_alone(tmp_path, monkeypatch):
    """Short and long ones at once: the rotary base of a long prompt stays that of its answer."""
    monkeypatch.setattr(block_cache, "BLOCK", 8)
    monkeypatch.setattr(prefill, "PIECE", 16)
    model = tiny_model(xc2_family="qwen-vl", seq_length=64)
    served = ServedModel.of(model, tiny_family_tokenizer(tmp_path, "qwen-vl"))
    questions = ("Hi", "What is in the picture? " * 3, "Which?", "Where is the digit? " * 9)
    asked = [served.processor.encode_chat(question) for question in questions]
    lengths = [len(prompt) for prompt in asked]
    assert min(lengths) + 12 < 64 < 128 < max(lengths)
    want = [
        model.generate(prompt.input_ids[None], max_new_tokens=12, eos_token_id=list(served.ends))[0][0].tolist()
        for prompt in asked
    ]
    with Engine(model) as engine:
        answers = [engine.submit(Request(served, prompt, SamplingSettings(), max_new_tokens=12)) for prompt in asked]
        assert [[token.id for token in answer.wait().tokens] for answer in answers] == want

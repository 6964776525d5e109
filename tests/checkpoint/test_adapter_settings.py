"""Settings of adapters: understood, of no meaning, or refused by name."""

import json
import time
from pathlib import Path

import pytest

from paddle_xc2.checkpoint.adapter_settings import by_pattern, check_paddlenlp, check_peft, patterns

PATH = Path("adapter_config.json")
# What peft 0.21.2 writes for LoraConfig(r=8, target_modules=["wqkv"], task_type="CAUSAL_LM").
PEFT = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "internlm/internlm-xcomposer2-7b",
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 8,
    "rank_pattern": {},
    "revision": "main",
    "target_modules": ["wqkv"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"init_lora_weights": False},
        {"init_lora_weights": None, "bias": "all"},
        {"init_lora_weights": "gaussian", "use_dora": True, "use_rslora": True},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}, "alpha_pattern": {"wqkv": 4}},
        {"loftq_config": {"loftq_bits": 4}, "corda_config": {"verbose": False}},  # without effect, as PEFT says
        {"lora_dtype": "bfloat16", "lorap_lr_ratio": 16.0, "lorap_emb_lr": 1e-6},  # ms-swift
        {"auto_mapping": {"base_model_class": "X", "unsloth_fixed": True}},
        {"of_a_later_version": None, "another": False, "a_third": {}, "a_fourth": [], "a_fifth": ""},
    ],
)
def test_what_is_understood(changes):
    check_peft(PATH, {**PEFT, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"init_lora_weights": kind}, f"init_lora_weights is '{kind}', only True or False or 'gauss") for kind in
          ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "mica", "of_a_later_version")),
        ({"alora_invocation_tokens": [60, 61]}, "alora_invocation_tokens is [60, 61], which is not understood"),
        ({"use_qalora": True}, "use_qalora is True, which is not understood"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication is [[0, 2], [1, 3]], which is not understood"),
        ({"lora_bias": True}, "lora_bias is True, which is not understood"),
        ({"megatron_config": {"a": 1}}, "megatron_config is {'a': 1}, which is not understood"),
        ({"target_parameters": ["w"]}, "target_parameters is ['w'], which is not understood"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config is {'top_k': 3}, which is not understood"),
        ({"kasa_config": {"beta": 1}}, "kasa_config is {'beta': 1}, which is not understood"),
        ({"monteclora_config": {"a": 1}}, "monteclora_config is {'a': 1}, which is not understood"),
        ({"velora_config": {"scale": 1.0}}, "velora_config is {'scale': 1.0}, which is not understood"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora is {'nblocks': 2}, which is not understood"),
        ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA', only 'LORA' is understood"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True, only False is understood"),
        ({"bias": 3}, "bias is 3, only 'none' or 'all' or 'lora_only' is understood"),
        ({"of_a_later_version": 0}, "of_a_later_version is 0, which is not understood"),
        ({"a\x1b[31m": "x" * 10**5}, "a\\x1b[31m is 'xxx"),
        ({"use_rslora": "false"}, "use_rslora is 'false', expected true or false"),
        ({"use_dora": [1]}, "use_dora is [1], expected true or false"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3, expected a name or a path"),
        ({"lora_dropout": "0.1"}, "lora_dropout is '0.1', expected a number from 0 to 1"),
        ({"lora_dropout": 1}, "lora_dropout is 1, expected a number from 0 to 1"),
    ],
)  # fmt: skip
def test_what_is_refused_by_name(changes, message):
    with pytest.raises(ValueError) as caught:
        check_peft(PATH, {**PEFT, **changes})
    said = str(caught.value)
    assert said.startswith(f"adapter_config.json: {message}") and len(said) < 400
    assert said.endswith("; merge the adapter with the library that wrote it, and convert the result")


def test_all_are_named_at_once():
    with pytest.raises(ValueError, match="use_qalora is True, .*; init_lora_weights is 'pissa', only"):
        check_peft(PATH, {"use_qalora": True, "init_lora_weights": "pissa"})


def test_paddlenlps_settings():
    from paddlenlp.peft import LoRAConfig

    check_paddlenlp(PATH, json.loads(json.dumps({**LoRAConfig(r=4, target_modules=["x"]).to_dict(), "scaling": 2.0})))
    check_paddlenlp(PATH, {"nola": False, "nola_basis_num": 1, "mora_type": 6, "lorapro_scaling_factor": 2.0})
    for changes, message in (
        ({"pissa": True, "loraga": True}, "pissa is True, which is not understood; loraga is True, which is not"),
        ({"use_mora": True}, "use_mora is True, which is not understood"),
        ({"lora_use_mixer": True}, "lora_use_mixer is True"),
        ({"do_qat": True}, "do_qat is True"),
        ({"enable_lora_list": [True, False]}, "enable_lora_list is [True, False], which is not understood"),
        ({"tensor_parallel_degree": 2}, "tensor_parallel_degree is 2, only -1 or 0 or 1 is understood"),
        ({"rslora": 1.5}, "rslora is 1.5, expected true or false"),
        ({"of_a_later_version": "x"}, "of_a_later_version is 'x', which is not understood"),
    ):
        with pytest.raises(ValueError) as caught:
            check_paddlenlp(PATH, changes)
        assert str(caught.value).startswith(f"adapter_config.json: {message}")


def test_patterns_are_names_or_simple_expressions():
    compiled = patterns(PATH, {"rank_pattern": {"wqkv": 4, r"layers\.[0-9]+\.feed_forward\.w\d": 8}}, "rank_pattern")
    names = ("model.layers.3.attention.wqkv", "model.layers.11.feed_forward.w2", "output")
    assert [by_pattern(compiled, name, 1) for name in names] == [4, 8, 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([4], "rank_pattern is [4], expected an object of at most 10000 names and numbers"),
        ({str(i): 1 for i in range(10_001)}, "rank_pattern is {'0': 1, "),
        ({"wqkv": None}, "wqkv is None, expected a number above 0"),
        ({"wqkv": float("inf")}, "wqkv is inf, expected a number above 0"),
        ({"(": 4}, 'rank_pattern: "(" is no regular expression'),
        ({"(a+)+b": 4}, "rank_pattern: the regular expression '(a+)+b' is too involved"),
        ({".*.*.*.*x": 4}, "rank_pattern: the regular expression '.*.*.*.*x' is too involved"),
        ({"a" * 201: 4}, "rank_pattern: the regular expression 'aaa"),
    ],
)
def test_patterns_that_are_refused(value, message):
    started = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        patterns(PATH, {"rank_pattern": value}, "rank_pattern")
    assert str(caught.value).startswith(f"adapter_config.json: {message}") and time.perf_counter() - started < 1

"""LLaVA from its parts: a fresh projector, pretrained alone, then fine-tuning, on photographs."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_sample_images

from paddle_xc2 import XComposer2ForCausalLM, XComposer2Processor, cli
from paddle_xc2.models.lora import named_parameters
from paddle_xc2.training.finetune import finetune
from tests.conftest import ROOT
from tests.tiny import tiny_model, tiny_tokenizer

CAPTIONS = {"china.jpg": "A red house near the river.", "flower.jpg": "The picture shows a flower."}
QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photographs, train.json in LLaVA's format, and fresh/: a tiny LLaVA whose projector knows nothing."""
    folder = tmp_path_factory.mktemp("llava")
    for image, name in zip(load_sample_images().images, CAPTIONS, strict=True):
        Image.fromarray(image).save(folder / name)
    turns = [
        [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": caption}]
        for caption in CAPTIONS.values()
    ]
    records = [{"id": name, "image": name, "conversations": turn} for name, turn in zip(CAPTIONS, turns, strict=True)]
    (folder / "train.json").write_text(json.dumps(records))

    whole, llm, clip = (folder / name for name in ("whole", "llm", "clip"))
    tiny_model(xc2_family="llava-internlm2", img_size=56, initializer_range=0.05).save_pretrained(whole, to="hf")
    tiny_tokenizer(whole)
    shutil.copytree(whole, llm, ignore=shutil.ignore_patterns("projector", "visual_encoder", "*manifest.json"))
    clip.mkdir()
    save_file(load_file(whole / "visual_encoder/model.safetensors"), clip / "model.safetensors")
    settings = json.loads((whole / "visual_encoder/config.json").read_text())
    (clip / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": settings}))
    assert cli.main(["convert", str(llm), str(folder / "fresh"), "--visual_encoder", str(clip)]) == 0
    return folder


def argument_file(folder, name, model, **changes):
    """The shipped file with what every user changes, and few steps on a CPU."""
    values = json.loads((ROOT / "config" / f"{name}.json").read_text(encoding="utf-8"))
    values["dataset"]["train"] = [{"name": "photos", "data_files": str(folder / "train.json")}]
    values |= {
        "model_name_or_path": str(folder / model),
        "output_dir": str(folder / f"{name}_out"),
        "evaluation_inputs": [QUESTION] * 2,
        "evaluation_images": [str(folder / image) for image in CAPTIONS],
        "evaluation_max_new_tokens": 12,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": 6,
        "evaluation_freq": 3,
        "save_strategy": "no",
        "fp16": False,
        "dataloader_num_workers": 0,
        "disable_tqdm": True,
        "logging_steps": 1,
        **changes,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(values))
    return path


def parameters(directory):
    return {name: value.numpy() for name, value in XComposer2ForCausalLM.from_pretrained(directory).named_parameters()}


@pytest.fixture(scope="module")
def pretrained(folder):
    assert finetune(argument_file(folder, "llava_pretrain", "fresh")) == 0
    return folder / "llava_pretrain_out"


def losses(out):
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries]


def answered_at(out):
    lines = (out / "evaluation_samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_pretraining_trains_the_projector_alone(folder, pretrained):
    before, after = parameters(folder / "fresh"), parameters(pretrained)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("vision_proj.")}
    assert losses(pretrained)[-1] < losses(pretrained)[0]
    assert answered_at(pretrained) == [0, 0, 3, 3, 6, 6]


def test_turns_begin_and_end_with_one_token(folder, pretrained):
    """Though the language model that it was made of knows no chat: else an answer would never end."""
    for path in (folder / "fresh", pretrained):
        tokenizer = XComposer2Processor.from_pretrained(path).tokenizer
        assert tokenizer.encode("<|im_start|><|im_end|>", add_special_tokens=False) == [399, 398]


def test_pretraining_looks_at_the_middle_of_a_picture(folder, pretrained):
    """And so does chat with what it trained."""
    trained, fresh = (XComposer2Processor.from_pretrained(path) for path in (pretrained, folder / "fresh"))
    assert trained.pad_image_to_square is False and fresh.pad_image_to_square is None
    picture = folder / "china.jpg"
    assert np.abs(trained.image_transform(picture) - fresh.image_transform(picture)).max() > 1


@pytest.fixture(scope="module")
def finetuned(folder, pretrained):
    changes = {"lora_rank": 8, "lora_alpha": 4, "vit_lora_rank": 4, "vit_lora_alpha": 1}
    assert finetune(argument_file(folder, "llava_finetune", pretrained.name, **changes)) == 0
    return folder / "llava_finetune_out"


def test_finetuning_trains_lora_and_the_projector(pretrained, finetuned):
    """The adapter goes on from the first stage's output, which is not written to; the projector is in it."""
    tensors = load_file(finetuned / "adapter_model.safetensors")
    ranks = {"vit": set(), "model": set()}
    for name, tensor in tensors.items():
        if name.endswith("lora_A.weight"):
            ranks["vit" if ".vit." in name else "model"].add(tensor.shape[0])
    assert ranks == {"vit": {4}, "model": {8}}
    assert sum("vision_proj" in name for name in tensors) == 4
    assert losses(finetuned)[-1] < losses(finetuned)[0]
    assert answered_at(finetuned) == [0, 0, 3, 3, 6, 6]
    base = json.loads((finetuned / "paddle_xc2_adapter.json").read_text())["base"]
    assert base["quantization"] == "nf4" and base["relative_path"] == "../llava_pretrain_out"
    before = parameters(pretrained)
    model = XComposer2ForCausalLM.from_pretrained(finetuned)
    trained = named_parameters(model)
    changed = {name for name, value in before.items() if not np.array_equal(value, trained[name].numpy())}
    assert changed == {name for name in before if name.startswith("vision_proj.")}


def test_finetuning_is_of_the_quantized_model(finetuned):
    """What was answered after the last step is what the adapter answers on the quantized base."""
    model = XComposer2ForCausalLM.from_pretrained(finetuned, quantize="nf4")
    processor = XComposer2Processor.from_pretrained(finetuned)
    assert processor.pad_image_to_square is True and model.config.pad_image_to_square is True
    lines = (finetuned / "evaluation_samples.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[-2:]:
        entry = json.loads(line)
        answer, _ = model.chat(
            processor.tokenizer,
            entry["question"],
            entry["image"],
            do_sample=False,
            max_new_tokens=12,
            repetition_penalty=1.0,
        )
        assert answer == entry["answer"]

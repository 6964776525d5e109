"""What PEFT makes of an adapter, and an adapter that PEFT makes: run by test_peft.py with an interpreter that has peft.

python peft_merge.py merge WEIGHTS.safetensors ADAPTER OUT.safetensors
python peft_merge.py make WEIGHTS.safetensors SETTINGS.json ADAPTER OUT.safetensors
"""

import json
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file


class Config(dict):
    """As much of a transformers model's config as PEFT looks at."""

    to_dict = dict
    model_type = "internlm"


def model_of(tensors):
    """Modules under the tensors' names: nn.Linear where a matrix is a linear layer's, PLoRA within it as upstream.

    The token embedding is an nn.Embedding.
    """
    root = torch.nn.Module()
    root.config, root.prepare_inputs_for_generation = Config(), None
    for name in sorted(tensors, key=lambda name: ("Plora" in name, name.endswith("bias"))):
        *path, last = name.split(".")
        owner = root
        for part in path[:-1]:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            owner = owner._modules[part]
        value = tensors[name]
        if path and path[-1] not in owner._modules:
            is_linear = last == "weight" and value.dim() == 2 and "embedding" not in name
            has_bias = f"{'.'.join(path)}.bias" in tensors
            module = torch.nn.Linear(*value.shape[::-1], bias=has_bias) if is_linear else torch.nn.Module()
            if path[-1] == "tok_embeddings":
                module = torch.nn.Embedding(*value.shape)
            owner.add_module(path[-1], module)
        module = owner._modules[path[-1]] if path else root
        module.register_parameter(last, torch.nn.Parameter(value.clone()))
    return root


def main(job, weights, *others):
    base = model_of(load_file(weights))
    if job == "merge":
        adapter, out = others
        model = PeftModel.from_pretrained(base, adapter)
    else:
        settings, adapter, out = others
        torch.manual_seed(0)
        with open(settings) as file:
            model = get_peft_model(base, LoraConfig(**json.load(file)))
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.data.normal_(0.0, 0.05)
            elif any(part in name for part in ("magnitude", "modules_to_save", "trainable_tokens_delta")):
                parameter.data.mul_(1.1)
        model.save_pretrained(adapter)
    merged = model.merge_and_unload().state_dict()
    save_file({name: value.contiguous() for name, value in merged.items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])

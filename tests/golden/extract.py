"""Cuts the reference values of this folder out of a full set of goldens; see README.md.

python tests/golden/extract.py path/to/goldens
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
FAMILY = "xc2_7b"
CHECKPOINT_FILES = ("config.json", "clip_vision_config.json", "tokenizer.model")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
IMAGES = ("china_640x427.jpg",)  # from scikit-learn; the set's other photographs are not ours to copy

# PLoRA of the last layer, but for wqkv: it acts after the last attention on image positions, whose outputs nobody uses.
# As zeros it takes no room, and no value of this folder depends on it but logits at image positions.
ZEROED = tuple(
    f"model.layers.1.{module}.Plora_{letter}.weight"
    for module in ("attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
    for letter in "AB"
)
ARRAYS = (
    "pos_embed.native",
    "pos_embed.resized_10",
    "pix.chat.china_640x427.jpg",
    "vit.hidden0.china_640x427.jpg",
    "vit.hidden1.china_640x427.jpg",
    "vit.feat.china_640x427.jpg",
    "vit.feat.flower_portrait.png",  # in place of the picture, wherever the ViT is frozen
    "vit.feat.panda.jpeg",
    "proj.china_640x427.jpg",
    "text.input_ids",
    "text.hidden0",
    "text.hidden1",
    "text.last_hidden",
    "text.logits",
    "pad_left.input_ids",
    "pad_left.attention_mask",
    "pad_left.logits",
    "train.one_image.labels",
    "train.one_image.im_mask",
    "train.one_image.logit_rows",
    "train.one_image.logits_at_rows",
    "train.multi_turn.labels",
    "train.text.labels",
    "train.two_images.labels",
    "grad.one_image.model.layers.0.attention.wqkv.weight",
    "grad.one_image.model.layers.0.attention.wo.Plora_B.weight",
    "grad.one_image.model.layers.1.feed_forward.w2.weight",
    "grad.one_image.model.layers.0.attention_norm.weight",
    "grad.one_image.model.norm.weight",
    "grad.one_image.vision_proj.0.weight",
    "grad.one_image.vision_proj.2.bias",
    "grad.one_image.vit.vision_tower.vision_model.encoder.layers.1.self_attn.q_proj.weight",
    "grad.one_image.vit.vision_tower.vision_model.embeddings.class_embedding",
    "grad.one_image.tok_rows",
    "grad.one_image.tok_embeddings_rows",
    "lora.text_logits",
    "lora.merged.model.layers.0.attention.wqkv.weight",
)
THINNED = {  # arrays stored in part: every n-th of the values that the full set has
    "pix.chat.china_640x427.jpg": 11,
    "pad_left.logits": 3,
    "text.logits": 3,
    "lora.text_logits": 3,
    "train.one_image.logits_at_rows": 7,
}
ROPE_TABLES = tuple(
    f"rope.xc2.{scaling}.{length}.{part}"
    for scaling, length in (("plain", "len48"), ("lin4", "len48"), ("ntk2", "len20"), ("ntk2", "len97"))
    for part in ("cos", "sin")
)
FACTS = ("family", "texts", "chat_images", "eoa_id", "curve_full", "curve_lora", "merged_checksums")
TRAIN_FACTS = ("loss", "length", "grad_norm_per_param", "params_without_grad", "params_zero_grad", "label_tokens_text")
CHAT_FACTS = ("query", "kwargs", "input_ids", "layout_ids_image_as_-200", "im_mask_runs", "new_ids", "margins")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("goldens", type=Path, help="the folder that holds NOTES.md")
    goldens = parser.parse_args().goldens
    source, target = goldens / FAMILY, HERE / FAMILY
    for folder in ("ckpt", "images", "adapter"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for name in CHECKPOINT_FILES:
        shutil.copyfile(source / "ckpt" / name, target / "ckpt" / name)
    for name in ADAPTER_FILES:
        shutil.copyfile(source / "adapter" / name, target / "adapter" / name)
    for name in IMAGES:
        shutil.copyfile(source / "images" / name, target / "images" / name)

    weights = {}
    for shard in sorted((source / "ckpt").glob("*.safetensors")):
        weights.update(load_file(shard))
    weights.update({name: np.zeros_like(weights[name]) for name in ZEROED})
    np.savez_compressed(target / "weights.npz", **weights)

    facts = json.loads((source / "golden.json").read_text(encoding="utf-8"))
    full = load_file(source / "golden.safetensors")
    arrays, table = {}, {}
    for name in ARRAYS:
        every = THINNED.get(name, 1)
        arrays[name] = full[name].reshape(-1)[::every] if every > 1 else full[name]
        table[name] = {"shape": facts["arrays"][name]["shape"], "stride": facts["arrays"][name]["stride"] * every}
    np.savez_compressed(target / "golden.npz", **arrays)

    kept = {name: facts[name] for name in FACTS}
    kept["train_samples"] = {name: facts["train_samples"][name] for name in facts["curve_full"]["order"]}
    kept["train_forward"] = {
        name: {key: value for key, value in facts["train_forward"][name].items() if key in TRAIN_FACTS}
        for name in kept["train_samples"]
    }
    kept["chat"] = {
        name: {key: value for key, value in case.items() if key in CHAT_FACTS}
        for name, case in facts["chat"].items()
        if "no_placeholder" not in name and "pen1.3" not in name
    }
    kept["arrays"] = table
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in kept.items())
    (target / "golden.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")

    rope = load_file(goldens / "rope" / "golden.safetensors")
    np.savez_compressed(HERE / "rope.npz", **{name: rope[name] for name in ROPE_TABLES})


if __name__ == "__main__":
    main()

"""The family comes from the checkpoint itself."""

import json

import pytest

from paddle_xc2.families.table import FAMILIES, XCOMPOSER2_META_INSTRUCTION, detect_family, family_named

ARCHITECTURE = {"architectures": ["InternLMXComposer2ForCausalLM"]}
TENSORS = ("model.norm.weight", "vision_proj.0.weight")
TILED = (*TENSORS, "plora_glb_GN", "plora_sub_GN")


@pytest.mark.parametrize(
    "config, tensor_names, name",
    [
        ({"img_size": 224, "model_type": "internlm"}, TENSORS, "xcomposer2-7b"),
        ({"img_size": 490, "model_type": "internlm"}, TENSORS, "xcomposer2-vl-7b"),
        ({"img_size": 490}, (), "xcomposer2-vl-7b"),
        ({"model_type": "internlm"}, TILED, "xcomposer2-4khd-7b"),
        ({"img_size": 490, "model_type": "internlm"}, TILED, "xcomposer2-4khd-7b"),
        ({"img_size": 560, "model_type": "internlm2"}, TILED, "xcomposer2d5-7b"),
        ({"img_size": 560}, (), "xcomposer2d5-7b"),
        ({"img_size": 490, "xc2_family": "xcomposer2-7b"}, TENSORS, "xcomposer2-7b"),  # ours says it
    ],
)
def test_detection(config, tensor_names, name):
    assert detect_family({**ARCHITECTURE, **config}, tensor_names) is family_named(name)


@pytest.mark.parametrize("set_name", ["xc2_7b", "xc2_vl_7b", "xc2_4khd", "xc2d5"])
def test_detection_of_the_reference_checkpoints(shared, set_name):
    names = {
        "xc2_7b": "xcomposer2-7b",
        "xc2_vl_7b": "xcomposer2-vl-7b",
        "xc2_4khd": "xcomposer2-4khd-7b",
        "xc2d5": "xcomposer2d5-7b",
    }
    directory = shared / "goldens" / set_name / "ckpt"
    config = json.loads((directory / "config.json").read_text())
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert detect_family(config, tuple(index["weight_map"])).name == names[set_name]


@pytest.mark.parametrize("architectures", [None, [], ["LlamaForCausalLM"]])
def test_another_model(architectures):
    with pytest.raises(ValueError) as caught:
        detect_family({"architectures": architectures}, source="there/config.json")
    assert str(caught.value) == (
        f"there/config.json: architectures is {architectures or 'missing'}, expected "
        "['InternLMXComposer2ForCausalLM']; this is not an InternLM-XComposer2 checkpoint"
    )


def test_unknown_name():
    with pytest.raises(ValueError, match='unknown model family "gpt"; known are xcomposer2-7b, xcomposer2-vl-7b'):
        family_named("gpt")
    with pytest.raises(ValueError, match='unknown model family "gpt"'):
        detect_family({"xc2_family": "gpt"})


def test_rows_are_told_apart():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    released = [name for family in FAMILIES for name in family.released_names]
    assert len(set(released)) == len(released) and all("/" in name for name in released)


@pytest.mark.parametrize("name, side, tokens", [("xcomposer2-7b", 224, 256), ("xcomposer2-vl-7b", 490, 1225)])
def test_image_tokens_of_square_families(name, side, tokens):
    family = family_named(name)
    assert family.image_size == side and family.tiling is None
    assert family.num_image_tokens(side, side, patch_size=14) == tokens


@pytest.mark.parametrize(
    "name, side, per_tile, per_row", [("xcomposer2-4khd-7b", 336, 144, 12), ("xcomposer2d5-7b", 560, 400, 20)]
)
def test_image_tokens_of_tiled_families(name, side, per_tile, per_row):
    """CONTRACT: (h w + 1) tiles' tokens, one separator between the views, (h + 1) per_row after the rows."""
    family = family_named(name)
    for height, width in ((1, 1), (2, 3), (5, 1)):
        want = (height * width + 1) * per_tile + 1 + (height + 1) * per_row
        assert family.num_image_tokens(height * side, width * side, patch_size=14) == want


def test_plora_scale_is_one():
    """goldens/NOTES.md, quirk 13: alpha and rank are both 256 in every released family that has PLoRA."""
    assert all((family.plora_alpha, family.plora_rank) == (256.0, 256) for family in FAMILIES if family.plora_rank)
    assert [family.name for family in FAMILIES if not family.plora_rank] == ["llava-internlm2", "qwen-vl"]


def test_meta_instruction_is_upstreams(shared):
    golden = json.loads((shared / "goldens/xc2_7b/golden.json").read_text(encoding="utf-8"))
    (call,) = golden["chat"]["text.meta_default"]["tokenizer_calls"]
    assert call["text"][0].startswith(f"<s>[UNUSED_TOKEN_146]system\n{XCOMPOSER2_META_INSTRUCTION}[UNUSED_TOKEN_145]\n")

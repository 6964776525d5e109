import pytest

from paddle_xc2.training.learning.parts import MODEL_PARTS, part_of, set_trainable, trainable_table
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def frozen_parts(model):
    learning = {part_of(name).name for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    return {part_of(name).name for name, _ in model.named_parameters()} - learning


def test_everything_learns_by_default(model):
    counts = set_trainable(model)
    assert frozen_parts(model) == set()
    assert list(counts) == [part.name for part in MODEL_PARTS[:-1]]
    assert sum(size for _, size in counts.values()) == sum(parameter.size for parameter in model.parameters())
    assert all(learning == size for learning, size in counts.values())


def test_parts():
    assert part_of("model.layers.0.attention.wqkv.linear.weight").name == "language model"
    assert part_of("model.layers.0.attention.wqkv.plora_a.weight").name == "PLoRA"
    assert part_of("output.weight").name == part_of("model.tok_embeddings.weight").name == "embeddings"
    assert part_of("vit.layers.0.mlp.fc1.bias").name == "ViT"
    assert part_of("vision_proj.0.weight").name == "projector"
    assert part_of("plora_glb_GN").name == "other"


def test_fixed_parts(model):
    set_trainable(model, fix_vit=True)
    assert frozen_parts(model) == {"ViT"}
    set_trainable(model, fix_sampler=True)
    assert frozen_parts(model) == {"projector"}
    set_trainable(model)
    assert frozen_parts(model) == set()


def test_patterns(model):
    counts = set_trainable(model, freeze_include=["vit.*", "*.plora_?.weight"])
    assert frozen_parts(model) == {"ViT", "PLoRA"}
    assert counts["ViT"][0] == 0 < counts["ViT"][1]
    set_trainable(model, fix_vit=True, freeze_exclude=["vit.layers.1.*"])
    learning = [name for name, parameter in model.named_parameters() if not parameter.stop_gradient]
    assert [name for name in learning if name.startswith("vit.")] and "vit.layers.0.mlp.fc1.weight" not in learning
    # As PaddleMIX: what both lists match stays as it would be without them.
    set_trainable(model, fix_vit=True, freeze_include=["v*"], freeze_exclude=["v*"])
    assert frozen_parts(model) == {"ViT"}


def test_pattern_that_matches_nothing(model):
    with pytest.raises(ValueError) as caught:
        set_trainable(model, freeze_include=["vision_tower.*"])
    text = str(caught.value)
    assert text.startswith('freeze_include: the pattern "vision_tower.*" matches no parameter; names are like ')
    assert "vit.layers.*.mlp.fc1.weight" in text and "model.norm.weight" in text


def test_nothing_left(model):
    with pytest.raises(ValueError, match="every parameter is frozen, nothing is left to train"):
        set_trainable(model, freeze_include=["*"])


def test_table():
    lines = trainable_table({"language model": (1200, 1200), "ViT": (0, 34)})
    assert lines[0].split() == ["language", "model", "1,200", "of", "1,200"]
    assert lines[1].split() == ["ViT", "0", "of", "34", "frozen"]
    assert lines[2].split() == ["all", "1,200", "of", "1,234"]

import numpy as np
import pytest

from paddle_xc2.checkpoint.lazy_tensor import LazyTensor
from paddle_xc2.checkpoint.name_table import LAYOUTS
from paddle_xc2.checkpoint.names import NAMES, names_of, names_of_tensors
from paddle_xc2.checkpoint.xcomposer2_names import DROPPED, RULES, XCOMPOSER2_NAMES
from paddle_xc2.families.table import FAMILIES
from tests.tiny import tiny_model

to_paddle, from_paddle, to_hf = XCOMPOSER2_NAMES.to_paddle, XCOMPOSER2_NAMES.from_paddle, XCOMPOSER2_NAMES.to_hf
layout_of, reason_dropped = XCOMPOSER2_NAMES.layout_of, XCOMPOSER2_NAMES.reason_dropped


@pytest.mark.parametrize("table", NAMES.values(), ids=NAMES)
def test_there_and_back(table):
    for rule in table.rules:
        ours = rule.paddle.replace("{}", "17")
        assert table.to_paddle(ours, "paddle") == table.from_paddle(ours, "paddle") == (ours, False)
        for layout in table.layouts:
            theirs = rule.name_in(layout).replace("{}", "17")
            assert table.to_paddle(theirs, layout) == (ours, rule.transpose and layout == "hf")
            assert table.from_paddle(ours, layout) == (theirs, rule.transpose and layout == "hf")
        assert table.to_hf(ours) == table.from_paddle(ours, "hf")


@pytest.mark.parametrize("table", NAMES.values(), ids=NAMES)
def test_a_tensor_from_any_layout_into_any_other(table):
    stored = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = LazyTensor("float32", (2, 3), lambda: stored)
    for rule in table.rules:
        for source in table.layouts:
            for target in table.layouts:
                name, wanted = (rule.name_in(layout).replace("{}", "17") for layout in (source, target))
                found = table.relabelled(name, tensor, source, target)
                turned = rule.transpose and (source == "hf") != (target == "hf")
                assert found[0] == wanted
                np.testing.assert_array_equal(found[1].read(), stored.T if turned else stored)
    assert table.relabelled("of no model", tensor, "hf", "paddle") is None


@pytest.mark.parametrize("table", NAMES.values(), ids=NAMES)
def test_no_name_stands_twice(table):
    for layout in table.layouts:
        assert len({rule.name_in(layout) for rule in table.rules}) == len(table.rules)
    for layout in ("hf", "paddlemix"):
        assert len({dropped.name_in(layout) for dropped in table.dropped}) == len(table.dropped)
        assert not {rule.name_in(layout) for rule in RULES} & {dropped.name_in(layout) for dropped in DROPPED}


def test_a_checkpoint_is_of_the_family_whose_names_it_has():
    for table in NAMES.values():
        for layout in table.layouts:
            names = [rule.name_in(layout).replace("{}", "0") for rule in table.rules]
            found, found_layout = names_of_tensors([names[0] + "x", *names[1:]])
            assert found is table and found_layout == layout
    assert {names_of(family) for family in FAMILIES} == set(NAMES.values())


def test_paddlemix_names_are_those_of_paddlenlps_clip():
    """PaddleMIX's `vit.vision_tower` is PaddleNLP's CLIPVisionModel; this is that model, not a list of its names."""
    from paddlenlp.transformers import CLIPVisionConfig, CLIPVisionModel

    ours = {name: tensor.shape for name, tensor in tiny_model().named_parameters() if name.startswith("vit.")}
    sizes = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14))
    found, dropped = {}, set()
    for name, tensor in clip.state_dict().items():
        if reason_dropped(f"vit.vision_tower.{name}", "paddlemix"):
            dropped.add(name)
        else:
            found[to_paddle(f"vit.vision_tower.{name}", "paddlemix")[0]] = tensor.shape
    assert found == ours
    assert dropped == {"vision_model.ln_post.weight", "vision_model.ln_post.bias"}


def test_every_parameter_of_the_model_has_a_name():
    names = [name for name, _ in tiny_model().named_parameters()]
    assert [name for name in names if to_hf(name) is None] == []
    patterns = {to_hf(name)[0] for name in names}
    assert len(patterns) == len(names)


def test_transposes_are_the_linear_weights():
    """Stated in the table, held here against the layers' types."""
    from paddle import nn

    for layer_name, layer in tiny_model().named_sublayers():
        for name, _ in layer.named_parameters(prefix=layer_name, include_sublayers=False):
            assert to_hf(name)[1] == (isinstance(layer, nn.Linear) and name.endswith("weight")), name


@pytest.mark.parametrize(
    "name",
    [
        "output.weight.0",
        "base_model.output.weight",
        "model.layers.x.ffn_norm.weight",
        "model.layers.0.1.ffn_norm.weight",
        "model.layers.0.ffn_norm_weight",
        "model.layers.0.attention.wqkv.Plora_C.weight",
    ],
)
def test_patterns_are_anchored(name):
    for layout in LAYOUTS:
        assert to_paddle(name, layout) is None and from_paddle(name, layout) is None
        assert reason_dropped(name, layout) is None


def test_goldens_are_accounted_for(shared):
    """Upstream's own names: every one is in the table, or dropped with a reason."""
    from paddle_xc2.checkpoint.shards import read_checkpoint

    dropped = {}
    for golden in ("xc2_7b", "xc2_vl_7b"):
        names = list(read_checkpoint(shared / "goldens" / golden / "ckpt"))
        assert layout_of(names) == "hf"
        assert layout_of([to_paddle(name)[0] for name in names if to_paddle(name)]) == "paddle"
        dropped |= {name: reason_dropped(name) for name in names if to_paddle(name) is None}
    assert None not in dropped.values()
    prefix = "vit.vision_tower.vision_model."
    ends = {name.removeprefix(prefix) for name in dropped}
    assert ends == {"post_layernorm.weight", "post_layernorm.bias", "embeddings.position_ids"}


def test_layout_of_a_checkpoint_with_a_renamed_tensor():
    names = [name for name, _ in tiny_model().named_parameters()]
    assert layout_of([names[0] + "x", *names[1:]]) == "paddle"
    assert layout_of([to_hf(name)[0] for name in names[1:]] + [names[0] + "x"]) == "hf"
    assert layout_of([from_paddle(name, "paddlemix")[0] for name in names[1:]] + [names[0] + "x"]) == "paddlemix"
    assert layout_of([]) == "hf"

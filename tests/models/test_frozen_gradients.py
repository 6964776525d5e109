"""What a parameter learns doesn't depend on which others learn: in every family, with every kind of adapter."""

import random
import re

import numpy as np
import paddle
import pytest

from paddle_xc2.data.collate import collate_rows, to_tensors
from paddle_xc2.data.encode import Example
from paddle_xc2.families.table import FAMILIES
from paddle_xc2.models.layer_norm import LayerNorm
from paddle_xc2.models.lora import LoRALinear, is_lora, layer_at, lora_layers, named_parameters, replace_layer
from paddle_xc2.models.nf4 import NF4Linear
from paddle_xc2.models.token_rows import EmbeddingRows, HeadRows
from paddle_xc2.training.learning.add_lora import PRESETS, target_layers
from paddle_xc2.training.learning.parts import set_trainable
from paddle_xc2.weights.quantize import quantizable_layers
from tests.tiny import TINY_VOCAB_SIZE, tiny_model

# float32 on a CPU, relative to a parameter's largest gradient: they were equal to the bit; with another order of sums
# they would not be. Below a frozen norm of Paddle's they were 0.1 and more apart.
RTOL = 2e-6
KINDS = {  # which linear layers are updated
    "whole": (),
    "lora": (*PRESETS,),
    "dora": ("language_model", "vit", "projector"),  # not of the head: rows of new tokens and an update exclude it
    "nf4 lora": (*PRESETS,),
    "lora beside whole vision": ("language_model",),
    "lora beside whole projector": ("language_model", "vit"),
}
NEW_TOKENS = [7, 398]


def make(family, kind):
    """A tiny model of a family, with the adapters of `kind`; all updates are drawn, none is zero."""
    side = family.image_size if family.tiling else 56
    vision = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision["patch_size"] = side // 4
    model = tiny_model(xc2_family=family.name, img_size=side, plora_dropout=0.0, vision_config=vision)
    for name, parameter in named_parameters(model).items():
        if re.search(r"(norm|ln_).*weight", name):  # ones would hide where a norm's weight is left out
            parameter.set_value(paddle.uniform(parameter.shape, min=0.3, max=2.0))
    if kind == "nf4 lora":
        for name, layer in quantizable_layers(model).items():
            quantized = NF4Linear(*layer.weight.shape, bias=layer.bias)
            quantized.quantize([layer.weight])
            replace_layer(model, name.removesuffix(".weight"), quantized)
    if kind == "whole":
        return model
    for path in target_layers(model, KINDS[kind]):
        layer = LoRALinear(layer_at(model, path), 3, 0.7, dora=kind == "dora")
        layer.lora_b.set_value(paddle.randn(layer.lora_b.shape) * 0.1)
        replace_layer(model, path, layer)
    if "output" not in lora_layers(model):
        model.model.tok_embeddings = EmbeddingRows(model.model.tok_embeddings, NEW_TOKENS)
        model.output = HeadRows(model.output, NEW_TOKENS)
    return model


def batches(model):
    """(padded, packed): text alone, a picture, and two of unequal size where the family takes them."""
    side, tiled = model.config.img_size, model.config.family.tiling is not None
    draw = np.random.default_rng(0)
    examples = []
    for tiles in ([], [(1, 1)], [(1, 2), (2, 1)]):
        sizes = [(side * rows, side * columns) if tiled else (side, side) for rows, columns in tiles]
        pictures = [draw.normal(size=[3, *size]).astype("float32") for size in sizes]
        with paddle.no_grad():
            slots = model.image_tokens([paddle.to_tensor(picture) for picture in pictures]).shape[0] if sizes else 0
        ids = draw.integers(3, TINY_VOCAB_SIZE, [slots + 9])
        ids[:3] = *NEW_TOKENS, model.config.pad_token_id
        mask = np.zeros([len(ids)], bool)
        mask[4 : 4 + slots] = True
        labels = np.where(np.arange(len(ids)) < 6 + slots, -100, ids)
        labels[-2:] = NEW_TOKENS
        examples.append(Example(ids, labels, mask, pictures))
    pad = model.config.pad_token_id
    return [to_tensors(collate_rows(rows, pad)) for rows in ([[one] for one in examples], [examples[:2], examples[2:]])]


def gradients(model, batch, recompute=False):
    """{name: gradient or None} of all parameters."""
    model.train()
    model.recompute_enable() if recompute else model.recompute_disable()
    for parameter in model.parameters():
        parameter.clear_gradient(False)  # Layer.clear_gradients leaves those of frozen ones
    model(**batch).loss.backward()
    return {name: None if p.grad is None else p.grad.numpy() for name, p in named_parameters(model).items()}


def freeze(model, kind, draw: random.Random):
    """Lets something learn that `set_trainable` can choose: parts, beside LoRA or alone, and patterns of names."""
    names = list(named_parameters(model))
    kinds = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names})
    patterns = draw.sample(kinds, draw.randrange(len(kinds) // 2)) + draw.sample(names, draw.randrange(len(names) // 3))
    settings = {"fix_vit": draw.random() < 0.5, "fix_sampler": draw.random() < 0.5, "freeze_include": patterns}
    if kind != "whole":
        settings["beside_lora"] = set(draw.sample(["PLoRA", "other"], draw.randrange(3)))
        settings["fix_vit"] |= "vit" in KINDS[kind]  # not whole and by LoRA at once
        settings["fix_sampler"] |= "projector" in KINDS[kind]
    set_trainable(model, **settings)


SUBSETS = 4  # for each family and kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    # The vl family differs from the first in its image size alone, which is set here.
    "family",
    [family for family in FAMILIES if "vl" not in family.name],
    ids=lambda family: family.name,
)
def test_gradients_of_what_learns_are_those_of_everything(family, kind):
    model = make(family, kind)
    layouts = batches(model)
    for parameter in model.parameters():
        parameter.stop_gradient = False
    wanted = [gradients(model, batch) for batch in layouts]
    draw = random.Random(f"{family.name} {kind}")
    for index in range(SUBSETS):
        freeze(model, kind, draw)
        got = gradients(model, layouts[index % 2], recompute=index in (0, 3))
        compared = 0
        for name, parameter in named_parameters(model).items():
            want = wanted[index % 2][name]
            assert (got[name] is None) == (parameter.stop_gradient or want is None), name
            if got[name] is not None:
                compared += 1
                atol = RTOL * max(np.abs(want).max(), 1e-3)
                np.testing.assert_allclose(got[name], want, rtol=0, atol=atol, err_msg=f"{name}, {index}")
        assert compared


def written_out(layer, x):
    """The norm in single operations, whose gradients Paddle composes itself."""
    centred = x - x.mean(axis=-1, keepdim=True)
    return centred * paddle.rsqrt(centred.square().mean(axis=-1, keepdim=True) + layer._epsilon) * layer.weight + (
        layer.bias
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_norms_below_lora_on_the_vision_encoder(monkeypatch, recompute):
    """LLaVA's second stage, 20 steps: as with norms that learn but aren't updated, and as with norms written out."""
    llava = next(family for family in FAMILIES if family.name == "llava-internlm2")

    def twenty_steps(norms_learn=False):
        model = make(llava, "lora beside whole projector")
        set_trainable(model, fix_vit=True, beside_lora=())
        learning = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
        for name, parameter in named_parameters(model).items():
            if norms_learn and re.search(r"vit.*norm.*weight", name):
                parameter.stop_gradient = False
        optimizer = paddle.optimizer.AdamW(3e-3, parameters=learning)
        batch = batches(model)[0]
        losses = []
        model.train()
        if recompute:
            model.recompute_enable()
        for _ in range(20):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses.append(float(loss))
        return losses, {name: parameter.numpy() for name, parameter in lora_parameters(model).items()}

    got = twenty_steps()
    assert got[0][-1] < 0.7 * got[0][0]
    others = [twenty_steps(norms_learn=True)]
    monkeypatch.setattr(LayerNorm, "forward", written_out)
    others.append(twenty_steps())
    for losses, parameters in others:
        np.testing.assert_allclose(got[0], losses, rtol=1e-5)
        for name, value in parameters.items():
            np.testing.assert_allclose(got[1][name], value, rtol=0, atol=1e-5, err_msg=name)


def lora_parameters(model):
    return {name: parameter for name, parameter in model.named_parameters() if is_lora(name)}

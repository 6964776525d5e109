"""The whole model: against upstream stage by stage, and what must hold without a reference."""

import numpy as np
import paddle
import pytest

from paddle_xc2 import XComposer2ForCausalLM, XComposer2Processor
from paddle_xc2.checkpoint.xcomposer2_names import XCOMPOSER2_NAMES
from paddle_xc2.data.collate import collate_arrays, to_tensors
from paddle_xc2.data.conversation import Conversation
from paddle_xc2.data.encode import Example, encode_training
from paddle_xc2.data.records.dialects import read_record
from paddle_xc2.families.special_tokens import IGNORE_INDEX
from paddle_xc2.models.image_features import fill_image_slots
from paddle_xc2.models.loss import token_loss_sum
from tests.tiny import TINY_VOCAB_SIZE, tiny_config, tiny_model

PICTURE = "china_640x427.jpg"
# float32 on a CPU, logits of up to 5: 3.7e-6 between one batch layout and another; 4x.
ATOL = 1.5e-5


def load(checkpoint):
    model = XComposer2ForCausalLM.from_pretrained(checkpoint, dtype="float32")
    model.eval()
    return model


def norm_of(*tensors):
    """Of all values together, in float64: Paddle's float32 sum over 50,000 squares is off by 3.5e-5."""
    return float(np.sqrt(sum((tensor.numpy().astype("float64") ** 2).sum() for tensor in tensors)))


# Against upstream


@pytest.fixture(scope="module")
def processor(golden_checkpoint):
    return XComposer2Processor.from_pretrained(golden_checkpoint)


def batch_of(golden, processor, name):
    return processor.collate([processor.encode_sample(golden.record(name), image_folder=golden.images)])


def test_text_logits_are_upstreams(golden, golden_model):
    # float32 on a CPU: 1.7e-5 of logits up to 11; upstream's own noise is 1.8e-5 (weights * (1 + 1e-7)); 5x.
    with paddle.no_grad():
        ids = paddle.to_tensor(golden.array("text.input_ids"))
        assert golden.difference(golden_model(ids).logits.numpy(), "text.logits") < 1e-4
        mask = golden.array("pad_left.attention_mask")
        out = golden_model(paddle.to_tensor(golden.array("pad_left.input_ids")), attention_mask=paddle.to_tensor(mask))
    assert golden.difference(out.logits.numpy(), "pad_left.logits", where=mask[:, :, None] == 1) < 1e-4


def test_training_loss_and_logits_are_upstreams(golden, golden_model, processor):
    batch = batch_of(golden, processor, "one_image")
    with paddle.no_grad():
        out = golden_model(**batch)
    assert abs(float(out.loss) - golden.facts["train_forward"]["one_image"]["loss"]) < 1e-5  # 1e-6 measured, of 9.5
    rows = golden.array("train.one_image.logit_rows").astype(int)
    # Rows at image slots depend on weights that the repository's checkpoint leaves out.
    text = ~golden.array("train.one_image.im_mask").astype(bool)[:, rows, None]
    assert golden.difference(out.logits.numpy()[:, rows], "train.one_image.logits_at_rows", where=text) < 1e-4


def test_every_gradient_is_upstreams(golden, golden_checkpoint, processor):
    """Norms of all parameters, whole tensors of some, and which of them are zero or missing."""
    model = load(golden_checkpoint)
    model(**batch_of(golden, processor, "one_image")).loss.backward()
    parameters = dict(model.named_parameters())
    facts = golden.facts["train_forward"]["one_image"]
    for name, norm in facts["grad_norm_per_param"].items():
        grad = parameters.pop(XCOMPOSER2_NAMES.to_paddle(name)[0]).grad
        # float32 on a CPU: 3.2e-6 measured, relative to the norm; the bias of a ViT's key has none but noise of 6e-8.
        assert abs(norm_of(grad) - norm) <= 2e-5 * norm + 1e-6, name
    assert not parameters
    assert all("post_layernorm" in name for name in facts["params_without_grad"])
    parameters = dict(model.named_parameters())
    for name in golden.names("grad.one_image."):
        if name.startswith("tok_"):
            continue
        ours, transpose = XCOMPOSER2_NAMES.to_paddle(name)
        grad = parameters[ours].grad.numpy()
        want = golden.array(f"grad.one_image.{name}")
        error = np.linalg.norm((grad.T if transpose else grad) - want) / np.linalg.norm(want)
        assert error < 2e-5, name  # 3.2e-6 measured
    rows = golden.array("grad.one_image.tok_rows").astype(int)
    grad = model.model.tok_embeddings.weight.grad.numpy()
    assert np.flatnonzero(np.abs(grad).sum(axis=1)).tolist() == rows.tolist()
    assert golden.difference(grad[rows], "grad.one_image.tok_embeddings_rows") < 1e-5  # 1.4e-6 measured


def test_gradients_of_a_text_sample(golden, golden_checkpoint, processor):
    """PLoRA has zero gradients, not none, so that AdamW decays it as upstream's does; ViT and projector have none."""
    model = load(golden_checkpoint)
    model(**batch_of(golden, processor, "text")).loss.backward()
    facts = golden.facts["train_forward"]["text"]
    parameters = dict(model.named_parameters())
    for name, norm in facts["grad_norm_per_param"].items():
        assert abs(norm_of(parameters.pop(XCOMPOSER2_NAMES.to_paddle(name)[0]).grad) - norm) <= 2e-5 * norm, name
    assert len(facts["params_zero_grad"]) == 20
    assert all(parameter.grad is None for parameter in parameters.values())
    assert all(name.startswith(("vit.", "vision_proj.")) for name in parameters)


def test_twenty_steps_of_adamw_are_upstreams(golden, golden_checkpoint, processor):
    """The ViT is frozen in this curve, so its features are stored in place of the pictures."""
    model = load(golden_checkpoint)
    curve = golden.facts["curve_full"]
    trained = [p for name, p in model.named_parameters() if not name.startswith("vit.")]
    optimizer = paddle.optimizer.AdamW(
        1e-3, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, parameters=trained,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
    )  # fmt: skip
    differences = []
    for step, want in enumerate(curve["losses"]):
        name = curve["order"][step % len(curve["order"])]
        pictures = golden.facts["train_samples"][name]["images"]
        labels = golden.array(f"train.{name}.labels").astype("int64")
        messages, _ = read_record(golden.record(name), name)
        conversation = Conversation(messages, tuple(pictures), name)
        example = encode_training(conversation, processor.tokenizer, processor.family, [256] * len(pictures))
        assert example.labels.tolist() == labels[0].tolist()
        mask = paddle.to_tensor(example.image_mask).unsqueeze(0)
        embeddings = model.model.embed(paddle.to_tensor(example.input_ids).unsqueeze(0))
        if pictures:
            slots = paddle.to_tensor(np.flatnonzero(example.image_mask))
            features = np.concatenate([golden.array(f"vit.feat.{picture}")[0] for picture in pictures])
            embeddings = fill_image_slots(embeddings, model.vision_proj(paddle.to_tensor(features)), slots)
        hidden_states = model.model(embeddings, image_mask=mask)
        loss_sum, losses = token_loss_sum(hidden_states, model.output.weight, paddle.to_tensor(labels))
        loss = loss_sum / len(losses)
        differences.append(abs(float(loss) - want))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)  # a parameter without a gradient is left alone, as upstream does
    # float32 on a CPU: 2.1e-5 at most; upstream's own noise is 1.5e-4 (weights * (1 + 1e-7)).
    assert max(differences) < 1e-3, differences


def test_greedy_answer_is_upstreams(golden, golden_model, processor):
    case = golden.facts["chat"]["one_image.pen1.0"]
    meta = case["kwargs"]["meta_instruction"]
    batch = processor.collate([processor.encode_chat(case["query"], [golden.images / PICTURE], meta_instruction=meta)])
    del batch["labels"]
    new, cache = [], None
    with paddle.no_grad():
        for _ in case["new_ids"]:
            out = golden_model(**batch, past_key_values=cache, use_cache=True)
            new.append(int(out.logits[0, -1].argmax()))
            batch, cache = {"input_ids": paddle.to_tensor([[new[-1]]])}, out.past_key_values
    assert min(case["margins"]) > 1e-3  # between the best and the second token: far above what sums in another order do
    assert new == case["new_ids"]


def test_all_samples_from_file_to_gradient(full_golden, tmp_path):
    """JSON record and picture to loss, logits and the norm of the whole gradient, for both families."""
    checkpoint = full_golden.checkpoint(tmp_path)
    processor, model = XComposer2Processor.from_pretrained(checkpoint), load(checkpoint)
    for name in full_golden.facts["curve_full"]["order"]:
        model.clear_gradients()
        out = model(**batch_of(full_golden, processor, name))
        facts = full_golden.facts["train_forward"][name]
        assert abs(float(out.loss) - facts["loss"]) < 1e-5, name  # 1e-6 measured, of 10
        rows = full_golden.array(f"train.{name}.logit_rows").astype(int)
        assert full_golden.difference(out.logits.numpy()[:, rows], f"train.{name}.logits_at_rows") < 1e-4, name
        if "grad_norm" in facts:
            out.loss.backward()
            norm = norm_of(*(p.grad for p in model.parameters() if p.grad is not None))
            assert abs(norm - facts["grad_norm"]["all"]) < 2e-5 * norm, name  # 1.7e-6 measured


# Without a reference


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def example(*parts, seed=0):
    """An Example of images ("image", 4 tokens each) and random texts (their lengths); the second half is trained."""
    rng = np.random.default_rng(seed)
    ids = [np.zeros(4, int) if part == "image" else rng.integers(3, TINY_VOCAB_SIZE, part) for part in parts]
    mask = np.concatenate([np.full(len(x), part == "image") for x, part in zip(ids, parts, strict=True)])
    ids = np.concatenate(ids)
    labels = np.where(mask | (np.arange(len(ids)) < len(ids) // 2), IGNORE_INDEX, ids)
    pixels = [rng.standard_normal([3, 28, 28], np.float32) for part in parts if part == "image"]
    return Example(ids.astype(np.int64), labels.astype(np.int64), mask, pixels)


def collate(examples, **kwargs):
    return to_tensors(collate_arrays(examples, pad_token_id=2, **kwargs))


MIXED = [
    example(2, "image", 6, seed=1),
    example(9, seed=2),
    example("image", 3, "image", 8, seed=3),
    example(5, seed=4),
]


@pytest.mark.parametrize("layout", [{"padding_side": "right"}, {"padding_side": "left"}, {"packed": True}])
def test_a_batch_is_its_samples_one_by_one(layout):
    """Text-only and image samples of different lengths: logits, loss and gradients."""
    model = tiny_model()
    alone = [model(**collate([sample])) for sample in MIXED]
    total = sum(out.num_trained_tokens for out in alone)
    want_loss = sum(out.loss * out.num_trained_tokens for out in alone) / total
    want_loss.backward()
    want_grads = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.clear_gradient(set_to_zero=False)

    batch = collate(MIXED, **layout)
    out = model(**batch)
    out.loss.backward()
    assert out.num_trained_tokens == total
    assert abs(float(out.loss) - float(want_loss)) < 1e-5  # 1e-6 measured, of 7
    real = batch["attention_mask"].numpy() > 0
    want_logits = np.concatenate([one.logits.numpy()[0] for one in alone])
    np.testing.assert_allclose(out.logits.numpy()[real], want_logits, rtol=0, atol=ATOL)
    for name, parameter in model.named_parameters():
        # 3e-7 measured, of gradients of up to 0.4
        np.testing.assert_allclose(parameter.grad.numpy(), want_grads[name], rtol=0, atol=2e-6, err_msg=name)


def test_an_image_mask_without_images_is_no_mask(model):
    ids = paddle.randint(3, TINY_VOCAB_SIZE, [2, 7])
    none, nothing = model(ids), model(ids, image_mask=paddle.zeros([2, 7], "bool"))
    np.testing.assert_array_equal(none.logits.numpy(), nothing.logits.numpy())
    with paddle.no_grad():
        np.testing.assert_array_equal(
            model(ids, image_mask=paddle.zeros([2, 7], "bool")).logits.numpy(), none.logits.numpy()
        )


def test_images_matter_and_so_does_their_order(model):
    batch = collate([MIXED[2]])
    logits = model(**batch).logits
    batch["pixel_values"] = batch["pixel_values"][::-1]
    assert (model(**batch).logits - logits).abs().max() > 1e-2


def test_only_later_tokens_see_an_image(model):
    sample = example(4, "image", 5)
    with_image = model(**collate([sample])).logits
    sample.pixel_values = [-sample.pixel_values[0]]
    other_image = model(**collate([sample])).logits
    np.testing.assert_array_equal(with_image[:, :4].numpy(), other_image[:, :4].numpy())
    assert ((with_image - other_image)[:, 4:].abs().max(axis=-1) > 1e-3).all()


def test_known_image_features_in_place_of_pictures(model):
    batch = collate([MIXED[2]])
    want = model(**batch).logits
    features = model.image_tokens(batch.pop("pixel_values"))
    np.testing.assert_array_equal(model(**batch, image_features=features).logits.numpy(), want.numpy())


def test_plain_masks_of_ones_change_nothing(model):
    ids = paddle.randint(3, TINY_VOCAB_SIZE, [1, 6])
    for mask in (paddle.ones([1, 6], "int64"), paddle.ones([1, 6], "bool")):
        np.testing.assert_array_equal(model(ids, attention_mask=mask).logits.numpy(), model(ids).logits.numpy())


def test_loss_is_the_mean_over_trained_tokens_or_what_is_asked(model):
    batch = collate(MIXED[:2])
    out = model(**batch)
    assert out.loss.dtype == paddle.float32 and out.loss.shape == []
    logits, labels = out.logits[:, :-1].reshape([-1, TINY_VOCAB_SIZE]), batch["labels"][:, 1:].flatten()
    rows = paddle.nonzero(labels != IGNORE_INDEX).flatten()
    want = paddle.nn.functional.cross_entropy(logits[rows], labels[rows])
    assert abs(float(out.loss) - float(want)) < 1e-5  # none measured; a sum in another order
    assert out.num_trained_tokens == len(rows)
    halves = [float(model(**collate([sample]), loss_denominator=len(rows)).loss) for sample in MIXED[:2]]
    assert abs(sum(halves) - float(want)) < 1e-5


def test_logits_are_computed_when_asked_for(monkeypatch):
    model, calls = tiny_model(), []
    model.output.register_forward_post_hook(lambda layer, inputs, out: calls.append(1))
    out = model(**collate([MIXED[1]]))
    assert out.loss is not None and not calls
    assert out.logits.shape == [1, 9, TINY_VOCAB_SIZE] and out.logits.dtype == paddle.float32
    assert out.logits is out.logits and len(calls) == 1


def test_without_labels_and_cache(model):
    out = model(paddle.to_tensor([[5, 6, 7]]))
    assert out.loss is None and out.num_trained_tokens is None and out.past_key_values is None
    assert out.last_hidden_state.shape == [1, 3, 64]


def gradients(model, batch):
    for parameter in model.parameters():
        parameter.clear_gradient(set_to_zero=False)
    paddle.seed(7)
    loss = model(**batch).loss
    loss.backward()
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}, float(loss)


@pytest.mark.parametrize("frozen", [(), ("vit.",), ("vit.", "vision_proj.", "model.tok_embeddings.")])
def test_recompute_gives_the_same_gradients(frozen):
    """Bit for bit, with dropout, whatever is frozen below the layers."""
    model = tiny_model(plora_dropout=0.3)
    model.train()
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = name.startswith(frozen) if frozen else False
    batch = collate(MIXED)
    plain, plain_loss = gradients(model, batch)
    model.recompute_enable()
    again, again_loss = gradients(model, batch)
    model.recompute_disable()
    assert again_loss == plain_loss and again.keys() == plain.keys()
    assert not model.config.use_recompute
    for name in plain:
        np.testing.assert_array_equal(again[name], plain[name], err_msg=name)


def test_a_blank_image_gives_zero_gradients_and_the_same_loss():
    """Ranks without an image must reduce the same gradients as those with one."""
    model = tiny_model(plora_dropout=0.0)
    model.train()
    batch = collate([MIXED[1]])
    without, loss = gradients(model, batch)
    assert not any(name.startswith(("vit.", "vision_proj.")) for name in without)
    model.run_vision_always = True
    with_blank, same_loss = gradients(model, batch)
    assert same_loss == loss
    assert with_blank.keys() == dict(model.named_parameters()).keys()
    for name, grad in with_blank.items():
        if name in without:
            np.testing.assert_array_equal(grad, without[name], err_msg=name)
        else:
            assert not grad.any(), name


def test_two_samples_can_be_learned_by_heart():
    model = tiny_model(plora_dropout=0.0)
    model.train()
    batch = collate([example(2, "image", 6, seed=5), example(9, seed=6)])
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=model.parameters())
    losses = []
    for _ in range(40):
        loss = model(**batch).loss
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    assert losses[0] > 4 and losses[-1] < 0.05  # 7.3 and 0.007 measured


def test_encode_img_takes_what_the_processor_makes(model):
    pixels = paddle.randn([3, 28, 28])
    tokens = model.encode_img(pixels)
    assert tokens.shape == [1, 4, 64] and tokens.stop_gradient
    np.testing.assert_array_equal(model.encode_img(pixels.unsqueeze(0)).numpy(), tokens.numpy())
    np.testing.assert_array_equal(model.image_tokens([pixels]).numpy(), tokens[0].numpy())


def test_encode_img_takes_a_path_or_a_picture(golden, golden_model):
    from PIL import Image

    path = golden.images / PICTURE
    for image in (path, str(path), Image.open(path)):
        assert golden.difference(golden_model.encode_img(image).numpy(), f"proj.{PICTURE}") < 2e-5  # 3.3e-6 measured


def test_construction_is_lazy_under_lazy_guard():
    """How a loader builds the model without computing random weights that it replaces."""
    with paddle.LazyGuard():
        lazy = XComposer2ForCausalLM(tiny_config())
    ready = tiny_model()
    for name, parameter in lazy.named_parameters():
        parameter.set_value(dict(ready.named_parameters())[name])
    lazy.eval()
    batch = collate(MIXED)
    np.testing.assert_array_equal(lazy(**batch).logits.numpy(), ready(**batch).logits.numpy())


def test_first_names_of_parameters(model):
    """CONTRACT: the parts of the model are told by them."""
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"vit", "vision_proj", "model", "output"}
    assert model.get_input_embeddings() is model.model.tok_embeddings
    assert model.get_output_embeddings() is model.output


def test_no_warning_reaches_the_user(recwarn):
    model = tiny_model()
    model(**collate(MIXED)).loss.backward()
    assert [str(warning.message) for warning in recwarn] == []


# Errors


def test_slots_without_images(model):
    batch = collate([MIXED[0]])
    batch["pixel_values"] = []
    with pytest.raises(ValueError, match="input_ids hold 4 image slots, but there are no images"):
        model(**batch)


def test_images_without_a_mask(model):
    with pytest.raises(ValueError, match="images are given, but no slot in image_mask says where they belong"):
        model(paddle.to_tensor([[5, 6, 7, 8]]), pixel_values=[paddle.zeros([3, 28, 28])])
    with pytest.raises(ValueError, match="images are given, but no slot"), paddle.no_grad():
        model(paddle.to_tensor([[5, 6]]), paddle.zeros([1, 2], "bool"), [paddle.zeros([3, 28, 28])])


def test_more_images_than_slots(model):
    batch = collate([MIXED[0]])
    batch["pixel_values"] *= 2
    with pytest.raises(ValueError, match="hold 4 image slots, the images give 8 image tokens; check that no sample"):
        model(**batch)


def test_nothing_to_learn(model):
    with pytest.raises(ValueError, match="no trained token"):
        model(paddle.to_tensor([[5, 6]]), labels=paddle.full([1, 2], IGNORE_INDEX, "int64"))

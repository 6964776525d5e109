import itertools

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddle_xc2.generation.generate import decode_steps, end_ids, generate
from paddle_xc2.generation.runner import check_finite, pad_left
from paddle_xc2.generation.sampling_settings import SamplingSettings
from tests.tiny import tiny_model

NEW = 8


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    model.eval()
    return model


@pytest.fixture(scope="module")
def prompts(model):
    """Three prompts of unequal length: text, one image, two images. Each is (ids, image mask, pixel values)."""
    rng = np.random.default_rng(0)
    slots = model.config.num_image_tokens
    side = model.config.img_size

    def prompt(*parts):
        ids, mask = [], []
        for part in parts:
            length = slots if part == "image" else part
            ids += [0] * slots if part == "image" else rng.integers(3, model.config.vocab_size, part).tolist()
            mask += [part == "image"] * length
        images = [paddle.to_tensor(rng.normal(size=[3, side, side]).astype("float32")) for p in parts if p == "image"]
        return np.array([ids]), np.array([mask]), images

    return [prompt(11), prompt(3, "image", 5), prompt(2, "image", 4, "image", 3)]


def greedy_by_full_forwards(model, ids, mask, images, steps):
    """The same answer without a cache: every step runs the whole sequence."""
    for _ in range(steps):
        with paddle.no_grad():
            logits = model(paddle.to_tensor(ids), image_mask=paddle.to_tensor(mask), pixel_values=images).logits
        ids = np.append(ids, [[int(logits[0, -1].argmax())]], axis=1)
        mask = np.append(mask, [[False]], axis=1)
    return ids[0, -steps:].tolist()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_cached_greedy_decoding_equals_full_forwards(model, prompts, index):
    ids, mask, images = prompts[index]
    got, _ = model.generate(
        paddle.to_tensor(ids), image_mask=mask, pixel_values=images, max_new_tokens=NEW, eos_token_id=[]
    )
    assert got[0].tolist() == greedy_by_full_forwards(model, ids, mask, images, NEW)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.5}, {"num_beams": 3}])
def test_a_batch_equals_its_prompts_one_by_one(model, prompts, side, settings):
    alone = [
        model.generate(ids, image_mask=mask, pixel_values=images, max_new_tokens=NEW, eos_token_id=[], **settings)
        for ids, mask, images in prompts
    ]
    width = max(ids.shape[1] for ids, _, _ in prompts)

    def padded(row, value):
        lengths = (width - row.shape[1], 0) if side == "left" else (0, width - row.shape[1])
        return np.pad(row, [(0, 0), lengths], constant_values=value)

    ids, scores = model.generate(
        np.concatenate([padded(ids, 2) for ids, _, _ in prompts]),
        image_mask=np.concatenate([padded(mask, False) for _, mask, _ in prompts]),
        attention_mask=np.concatenate([padded(np.ones_like(ids), 0) for ids, _, _ in prompts]),
        pixel_values=[image for _, _, images in prompts for image in images],
        max_new_tokens=NEW,
        eos_token_id=[],
        **settings,
    )
    assert ids.tolist() == [one.tolist()[0] for one, _ in alone]
    np.testing.assert_allclose(scores.numpy(), np.concatenate([score.numpy() for _, score in alone]), atol=1e-4)


def test_known_tokens_stand_for_the_pixels_of_an_image(model, prompts):
    """Of all images, or of some."""
    ids, mask, images = prompts[2]
    assert len(images) > 1
    want, _ = model.generate(ids, image_mask=mask, pixel_values=images, max_new_tokens=NEW)
    known = [model.encode_img(image)[0] for image in images]
    for given in (known, [images[0], *known[1:]], [known[0], *images[1:]]):
        got, _ = model.generate(ids, image_mask=mask, pixel_values=given, max_new_tokens=NEW)
        assert got.tolist() == want.tolist()


def test_a_row_ends_at_an_end_token_and_is_padded(model, prompts):
    (text, _, _), (other, _, _) = prompts[0], prompts[0]
    free, _ = model.generate(text, max_new_tokens=NEW, eos_token_id=[])
    end = free[0].tolist()[3]
    first = free[0].tolist().index(end)
    batch = np.concatenate([text, np.roll(other, 3, axis=1)])
    got, _ = model.generate(batch, max_new_tokens=NEW, eos_token_id=[end])
    row = got[0].tolist()
    assert row[: first + 1] == free[0].tolist()[: first + 1]
    assert set(row[first + 1 :]) <= {model.config.pad_token_id}


def test_generation_stops_when_every_row_has_ended(model, prompts):
    text = prompts[0][0]
    free, _ = model.generate(text, max_new_tokens=NEW, eos_token_id=[])
    got, _ = model.generate(text, max_new_tokens=NEW, eos_token_id=free[0].tolist()[0])
    assert got.shape == [1, 1]


def test_score_is_the_mean_log_probability(model, prompts):
    ids = prompts[0][0]
    new, score = model.generate(ids, max_new_tokens=4, eos_token_id=[])
    whole = paddle.to_tensor(np.concatenate([ids, new.numpy()], axis=1))
    with paddle.no_grad():
        log_probabilities = F.log_softmax(model(whole).logits[0], axis=-1).numpy()
    places = np.arange(ids.shape[1] - 1, whole.shape[1] - 1)
    assert float(score) == pytest.approx(log_probabilities[places, new.numpy()[0]].mean(), abs=1e-5)


def test_beams_find_the_best_of_all_sequences():
    model = tiny_model(vocab_size=12)
    model.eval()
    prompt = np.array([[1, 5, 7, 3]])
    with paddle.no_grad():
        scored = []
        for pair in itertools.product(range(12), repeat=2):
            whole = paddle.to_tensor(np.concatenate([prompt, [pair]], axis=1))
            log_probabilities = F.log_softmax(model(whole).logits[0], axis=-1).numpy()
            scored.append((log_probabilities[3, pair[0]] + log_probabilities[4, pair[1]], list(pair)))
    best, sequence = max(scored)
    # 2 * num_beams candidates have to fit in a vocabulary of 12 at the first step, where one beam is open.
    ids, score = model.generate(prompt, max_new_tokens=2, num_beams=6, eos_token_id=[])
    assert ids[0].tolist() == sequence
    assert float(score) == pytest.approx(best / 2, abs=1e-5)


def test_beams_end_at_an_end_token(model, prompts):
    ids, mask, images = prompts[1]
    free, _ = model.generate(
        ids, image_mask=mask, pixel_values=images, max_new_tokens=NEW, num_beams=3, eos_token_id=[]
    )
    end = free[0].tolist()[2]
    got, _ = model.generate(
        ids, image_mask=mask, pixel_values=images, max_new_tokens=NEW, num_beams=3, eos_token_id=end
    )
    row = got[0].tolist()
    assert end not in row or set(row[row.index(end) + 1 :]) <= {model.config.pad_token_id}


def test_repetition_penalty_sees_the_prompt_only_without_images(model, prompts):
    """goldens/NOTES.md, quirk 12: upstream gives image prompts as embeddings, which the penalty can't see."""
    ids, mask, images = prompts[1]
    plain, _ = model.generate(ids, image_mask=mask, pixel_values=images, max_new_tokens=1, eos_token_id=[])
    with_first = np.concatenate([[[int(plain)]], ids[:, 1:]], axis=1)
    kept, _ = model.generate(
        with_first, image_mask=mask, pixel_values=images, max_new_tokens=1, repetition_penalty=1e6, eos_token_id=[]
    )
    unpenalized, _ = model.generate(with_first, image_mask=mask, pixel_values=images, max_new_tokens=1, eos_token_id=[])
    assert int(kept) == int(unpenalized)
    text = prompts[0][0]
    penalized, _ = model.generate(text, max_new_tokens=NEW, repetition_penalty=1e6, eos_token_id=[])
    assert not set(penalized[0].tolist()) & set(text[0].tolist())
    assert len(set(penalized[0].tolist())) == NEW


def test_sampling_repeats_with_the_seed(model, prompts):
    def sample(seed):
        paddle.seed(seed)
        return model.generate(prompts[0][0], max_new_tokens=NEW, do_sample=True, temperature=5.0, eos_token_id=[])[
            0
        ].tolist()

    assert sample(7) == sample(7) != sample(8)


def test_streamer_gets_every_step(model, prompts):
    class Streamer:
        def __init__(self):
            self.steps, self.ended = [], False

        def put(self, ids):
            self.steps.append(ids.tolist())

        def end(self):
            self.ended = True

    streamer = Streamer()
    ids, _ = model.generate(prompts[0][0], max_new_tokens=NEW, eos_token_id=[], streamer=streamer)
    assert np.array(streamer.steps).T.tolist() == ids.tolist() and streamer.ended


def test_training_mode_is_restored(model, prompts):
    model.train()
    try:
        model.generate(prompts[0][0], max_new_tokens=2)
        assert model.training
    finally:
        model.eval()


HOW = {"greedy": {}, "sampled": {"do_sample": True, "top_k": 0}, "beams": {"num_beams": 2}}


@pytest.mark.parametrize("settings", HOW.values(), ids=HOW)
def test_nothing_that_is_quadratic_in_the_vocabulary(model, prompts, settings, monkeypatch):
    """Paddle's log_softmax on a CPU takes 4 seconds for 92,544 words."""

    def refused(*args, **kwargs):
        raise AssertionError("log_softmax is called")

    monkeypatch.setattr(paddle._C_ops, "log_softmax", refused)
    with pytest.raises(AssertionError, match="log_softmax is called"):
        F.log_softmax(paddle.zeros([1, 3]))
    model.generate(prompts[0][0], max_new_tokens=2, repetition_penalty=1.2, **settings)


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.5}, {"do_sample": True, "top_p": 0.9}])
def test_steps_at_once_change_nothing(model, prompts, settings, monkeypatch):
    """As on a GPU, where the host looks at several tokens together."""
    text = prompts[0][0]
    batch = np.concatenate([text, np.roll(text, 3, axis=1)])
    free, _ = model.generate(batch, max_new_tokens=NEW, eos_token_id=[])
    arguments = {"max_new_tokens": NEW, "eos_token_id": [free[0].tolist()[2]], **settings}

    def generated():
        paddle.seed(3)
        return [x.numpy() for x in model.generate(batch, **arguments)]

    want = generated()
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    monkeypatch.setattr("paddle_xc2.models.rotary._on_device", lambda values, device: paddle.to_tensor(values))
    for steps in (3, 8, 50):
        monkeypatch.setattr("paddle_xc2.generation.generate.STEPS_AT_ONCE", steps)
        for ours, theirs in zip(generated(), want, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_an_abandoned_stream_leaves_the_model_in_its_mode(model, prompts):
    model.train()
    try:
        steps = decode_steps(model, pad_left(model, prompts[0][0]), SamplingSettings(), NEW, end_ids(model, []))
        next(steps)
        steps.close()
        assert model.training
    finally:
        model.eval()


@pytest.fixture
def spoiled():
    model = tiny_model()
    weight = model.model.layers[1].attention.wo.linear.weight
    values = weight.numpy()
    values[0, 0] = np.nan
    weight.set_value(values)
    return model


@pytest.mark.parametrize("settings", HOW.values(), ids=HOW)
def test_a_model_that_computes_nan(spoiled, prompts, settings):
    """A padded batch, in which the second prompt has pictures."""
    (text, text_mask, _), (ids, mask, images) = prompts[0], prompts[2]
    missing = ids.shape[1] - text.shape[1]
    pad = [(0, 0), (missing, 0)]
    with pytest.raises(ValueError) as caught:
        spoiled.generate(
            np.concatenate([np.pad(text, pad), ids]),
            attention_mask=np.concatenate([np.pad(np.ones_like(text), pad), np.ones_like(ids)]),
            image_mask=np.concatenate([np.pad(text_mask, pad), mask]),
            pixel_values=images,
            **settings,
        )
    assert str(caught.value) == (
        "there is no answer from token 1 on: the model computes NaN, in float32, and it begins at model.layers.1, "
        "where the weights model.layers.1.attention.wo.linear.weight are not finite; load sound ones, or make them anew"
    )


def test_nan_that_begins_later_and_in_one_row(model, prompts, monkeypatch):
    """The row that it begins in is the one that is looked at, with what it has said so far."""
    first, other = prompts[0][0], np.roll(prompts[0][0], 3, axis=1)
    free, _ = model.generate(np.concatenate([first, other]), max_new_tokens=NEW, eos_token_id=[])
    word = free[1].tolist()[1]
    assert word not in [*first[0], *other[0], *free[0].tolist(), free[1].tolist()[0]]
    broken = tiny_model()
    row = broken.model.tok_embeddings.weight.numpy()
    row[word] = np.inf
    broken.model.tok_embeddings.weight.set_value(row)
    with pytest.raises(ValueError, match="from token 3 on: the model computes infinity.* begins at model.tok_emb"):
        broken.generate(np.concatenate([first, other]), max_new_tokens=NEW, eos_token_id=[])
    # A row that has ended computes on, for nobody.
    ended, _ = broken.generate(np.concatenate([first, other]), max_new_tokens=NEW, eos_token_id=[word])
    assert ended[0].tolist() == free[0].tolist()


def test_nan_that_comes_and_goes(model, prompts, monkeypatch):
    monkeypatch.setattr("paddle_xc2.generation.runner.describe_not_finite", lambda model, **batch: "")
    with pytest.raises(ValueError, match="from token 3 on: the model's logits are not finite, but they are when they"):
        check_finite(model, pad_left(model, prompts[0][0]), 0, np.array([5, 6]), np.array([np.inf]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0, but must be at least 1"),
        ({"num_beams": 0}, "num_beams is 0, but must be at least 1"),
        ({"num_beams": 10**9}, "num_beams is 1000000000, but must be at most 256; each keeps a cache of its own"),
        ({"num_beams": 2, "do_sample": True}, "beams can be neither sampled nor streamed"),
        ({"attention_mask": np.ones([1, 3])}, r"attention_mask is \[1, 3\], input_ids are \[1, 4\]"),
        ({"attention_mask": np.zeros([1, 4])}, "prompt 0 of the batch is empty"),
    ],
)
def test_wrong_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(model, np.array([[1, 5, 6, 7]]), **arguments)

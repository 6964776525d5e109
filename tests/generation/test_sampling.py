import numpy as np
import paddle
import pytest

from paddle_xc2.generation.sampling import choose, penalize_repetition
from paddle_xc2.generation.sampling_settings import SamplingSettings

SCORES = paddle.to_tensor(np.log(np.array([[0.5, 0.3, 0.15, 0.05]], "float32")))


def draw(count: int, **settings) -> np.ndarray:
    """Share of each of the four tokens in `count` draws."""
    drawn = choose(SCORES.expand([count, 4]), SamplingSettings(do_sample=True, **settings)).numpy()
    return np.bincount(drawn, minlength=4) / count


def test_greedy_takes_the_likeliest():
    assert choose(SCORES.flip(1), SamplingSettings()).tolist() == [3]


def test_sampling_follows_the_distribution():
    # Standard error of a share at 20000 draws is at most 0.0036.
    np.testing.assert_allclose(draw(20000, top_k=0), [0.5, 0.3, 0.15, 0.05], atol=0.015)


def test_temperature_sharpens():
    sharp = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    np.testing.assert_allclose(draw(20000, top_k=0, temperature=0.5), sharp / sharp.sum(), atol=0.015)


def test_top_k_keeps_the_likeliest():
    np.testing.assert_allclose(draw(20000, top_k=2), [0.625, 0.375, 0, 0], atol=0.015)


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.999, 4)])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    assert (draw(2000, top_k=0, top_p=top_p) > 0).sum() == kept


def test_top_k_larger_than_the_vocabulary_is_all():
    assert (draw(2000, top_k=50) > 0).all()


@pytest.mark.parametrize("top_p", [0.5, 0.97, 1.0])
def test_top_p_without_sorting_everything(top_p, monkeypatch):
    """Where a few candidates don't reach top_p, all are sorted; what is drawn is the same."""
    scores = paddle.to_tensor(np.log(np.random.default_rng(0).dirichlet(np.full(40, 0.3), 1)).astype("float32"))
    settings = SamplingSettings(do_sample=True, top_k=0, top_p=top_p)

    def drawn():
        paddle.seed(5)
        return choose(scores.expand([500, 40]), settings).tolist()

    want = drawn()
    monkeypatch.setattr("paddle_xc2.generation.sampling.FEW", 4)
    assert drawn() == want


def test_every_row_draws_for_itself():
    scores = paddle.to_tensor([[0.0, -50.0, -50.0], [-50.0, 0.0, -50.0], [-50.0, -50.0, 0.0]])
    for settings in ({"top_k": 0}, {"top_k": 2}, {"top_k": 0, "top_p": 0.9}):
        assert choose(scores, SamplingSettings(do_sample=True, **settings)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("settings", [{}, {"top_k": 0}, {"top_k": 2}, {"top_k": 0, "top_p": 0.9}])
def test_scores_that_are_no_numbers_give_some_token(settings):
    scores = paddle.full([2, 4], float("nan"))
    assert all(0 <= token < 4 for token in choose(scores, SamplingSettings(do_sample=True, **settings)).tolist())


def test_repetition_penalty_makes_seen_tokens_less_likely():
    scores = paddle.to_tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = paddle.to_tensor(np.array([[1, 1, 0, 0]], np.uint8))
    np.testing.assert_allclose(penalize_repetition(scores, seen, 2.0).numpy(), [[1.0, -4.0, 2.0, -2.0]])
    assert penalize_repetition(scores, seen, 1.0) is scores


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"temperature": 0.0},
            "temperature is 0.0, but must be above 0 and finite; for greedy decoding set do_sample false",
        ),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1, but must be 0"),
        ({"top_p": 0.0}, "top_p is 0.0, but must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, but must be above 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        SamplingSettings(**values)

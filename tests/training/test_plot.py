"""loss.png: what is drawn, and that it can be."""

import math

import pytest
from PIL import Image

from paddle_xc2.training import plot
from paddle_xc2.training.plot import draw_metrics, smooth, smoothing_window

TRAINED = {"step": 1, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-4, "tokens_per_second": 300.0}
EVALUATED = {"step": 2, "eval_loss": 3.0, "eval_exact_match": 0.5, "eval_bleu": 0.1}
LOSS, LOG = "loss (nats a trained token)", "the same, logarithmic"


def trained(*losses):
    return [{**TRAINED, "step": step, "loss": loss} for step, loss in enumerate(losses, 1)]


def evaluated(*losses):
    return [{"step": step, "eval_loss": loss} for step, loss in enumerate(losses, 1)]


@pytest.fixture
def panels(monkeypatch):
    """What was drawn: {panel: its axes}."""
    seen = {}
    draw = plot._draw_curves

    def record(axes, entries, title, keys):
        draw(axes, entries, title, keys)
        seen[title] = axes

    monkeypatch.setattr(plot, "_draw_curves", record)
    return seen


def curves(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_panels(tmp_path, panels):
    full = [{**entry, "grad_norm": 1.0, "peak_memory_gb": 2.0} for entry in trained(3.0, 1.5, 1.0)]
    draw_metrics([*full[:2], EVALUATED, full[2]], tmp_path / "loss.png")
    assert curves(panels.pop(LOSS)) == {"training": [3.0, 1.5, 1.0], "evaluation": [3.0]}
    assert curves(panels.pop("score of the answers")) == {"exact match": [0.5], "bleu": [0.1]}
    assert {title: next(iter(curves(axes).values())) for title, axes in panels.items()} == {
        "learning rate": [1e-4] * 3,
        "gradient norm": [1.0] * 3,
        "tokens a second": [300.0] * 3,
        "peak memory (GB)": [2.0] * 3,
    }


def test_what_was_not_measured_has_no_panel(tmp_path, panels):
    draw_metrics([{**TRAINED, "loss": None}, {**TRAINED, "loss": math.nan}], tmp_path / "loss.png")
    assert set(panels) == {LOSS, "learning rate", "tokens a second"} and curves(panels[LOSS]) == {}


def test_training_is_smoothed_and_evaluations_are_not(tmp_path, panels):
    losses = [2.0 + index % 2 for index in range(120)]
    draw_metrics([*trained(*losses), *evaluated(*losses)], tmp_path / "loss.png")
    drawn = curves(panels[LOSS])
    assert drawn["training, mean of 5 points"] == smooth(losses, 5) and drawn["evaluation"] == losses
    assert {"measured", "measured, mean of 5 points"} == set(curves(panels["tokens a second"]))
    shown = [text.get_text() for text in panels[LOSS].get_legend().get_texts()]
    assert shown[:3] == ["training", "training, mean of 5 points", "evaluation"]


def test_a_loss_that_falls_far_is_also_drawn_on_a_logarithmic_axis(tmp_path, panels):
    draw_metrics(trained(8.0, 1.0, 0.1), tmp_path / "loss.png")
    assert (panels[LOSS].get_yscale(), panels[LOG].get_yscale()) == ("linear", "log")
    panels.clear()
    draw_metrics(trained(2.0, 1.0), tmp_path / "loss.png")
    assert LOG not in panels
    draw_metrics(trained(8.0, 0.0), tmp_path / "loss.png")
    assert LOG not in panels  # no logarithm of zero


def test_overfitting_shows(tmp_path, panels):
    draw_metrics([*trained(2.0, 1.0, 0.5, 0.2), *evaluated(2.0, 1.0, 1.2, 1.5)], tmp_path / "loss.png")
    axes = panels[LOSS]
    assert curves(axes)["lowest evaluation: 1.0000, step 2"] == [1.0]
    (shade,) = axes.patches
    assert shade.get_label() == "from here on it learns by heart: training falls, evaluation rises"
    assert shade.get_extents().transformed(axes.transData.inverted()).x0 == pytest.approx(2)
    draw_metrics([*trained(2.0, 1.0, 0.5), *evaluated(2.0, 1.0, 1.01)], tmp_path / "loss.png")
    assert not panels[LOSS].patches


@pytest.mark.parametrize("entries", [[], trained(2.0, None), evaluated(3.0), evaluated(math.nan, 3.0)])
def test_plot(tmp_path, entries):
    draw_metrics(entries, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size[0] > 400
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


def test_smoothing():
    assert smooth([3.0, 3.0, 3.0], 3) == [3.0, 3.0, 3.0]
    assert smooth([0.0, 3.0, 6.0, 6.0], 3) == [1.5, 3.0, 5.0, 6.0]
    assert smooth([1.0, 2.0], 1) == [1.0, 2.0] and smooth([], 3) == []
    assert [smoothing_window(number) for number in (0, 59, 60, 300, 10**5)] == [1, 1, 3, 11, 51]

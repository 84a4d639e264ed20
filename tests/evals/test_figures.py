"""Figures of the transfer benchmark, on the committed results."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_jax.evals.figures import retrieved, shots, zero_shot
from clip_jax.evals.results import read_results
from clip_jax.plotting.style import NotDrawn

HERE = Path(__file__).parents[2] / "experiments" / "results" / "transfer"
SETS = {"food": ("food10", "food"), "birds": ("birds525", "birds"), "nothing": ("a", "b")}


@pytest.fixture(scope="module")
def table():
    return pd.concat([read_results(HERE / name) for name in ("results.csv", "poster.csv")], ignore_index=True)


def texts_of(axis):
    return [t.get_text() for t in axis.texts]


def test_zero_shot_figure_labels_value_interval_and_count(table):
    (axis,) = zero_shot(table, SETS).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == ["food", "birds"]
    assert texts_of(axis)[0] == "0.099 [0.083, 0.117]  1,250 pictures"
    assert texts_of(axis)[1] == "0.098 [0.082, 0.116]  1,250 pictures"
    assert len(texts_of(axis)) == 4


def test_shots_figure_draws_probes_against_zero_shot(table):
    food, birds = shots(table, SETS).axes
    assert "no training split" in texts_of(birds)
    assert "no training split" not in texts_of(food)
    curve = next(line for line in food.lines if len(line.get_xdata()) == 5)
    assert list(curve.get_xdata()) == [1, 2, 4, 8, 16]
    assert curve.get_ydata()[0] == pytest.approx(0.1618, abs=1e-4)
    levels = {float(line.get_ydata()[0]) for line in food.lines if set(line.get_xdata()) == {0, 1}}
    assert levels == {0.0992, 0.0984, 0.1}


def test_figures_of_two_models_have_one_panel_each(table):
    both = pd.concat([table, table.assign(model="another")])
    assert [a.get_title("left") for a in zero_shot(both, SETS).axes] == [table["model"][0], "another"]
    assert len(shots(both, SETS).axes) == 4


def test_figures_without_measurements_are_not_drawn(table):
    for figure in (zero_shot, shots):
        with pytest.raises(NotDrawn):
            figure(table, {"nothing": ("a", "b")})


def test_retrieved_frames_the_images_of_the_caption_alone():
    images = [(np.full((8, 8, 3), shade, np.uint8), is_own) for shade, is_own in ((0, False), (90, True), (200, False))]
    figure = retrieved([("a red square " * 20, images), ("a blue ring", images)])
    framed = [[spine.get_visible() for spine in axis.spines.values()] for axis in figure.axes[:3]]
    assert framed == [[False] * 4, [True] * 4, [False] * 4]
    assert figure.axes[0].texts[0].get_text().endswith(" …")
    assert figure.axes[3].texts[0].get_text() == "a blue ring"
    figure.draw_without_rendering()
    assert len({round(axis.get_position().width, 6) for axis in figure.axes}) == 1

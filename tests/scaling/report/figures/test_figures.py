"""Figures for tables that are hard to draw: a reason instead of an empty plot."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clip_jax.scaling.analysis.analyze import analyze
from clip_jax.scaling.report.figures import FIGURES, NotDrawn, draw, draw_all


@pytest.fixture(scope="module")
def rich(runs, curves):
    """Analyze six sizes at five budgets, with learning curves."""
    df = runs(curves["power law"], budgets=5, sizes=6, seeds=1, noise=0.01)
    early, late = (
        df[["run_id", "flops"]].assign(step=i, error=df["error_mean"] * worse, flops=df["flops"] * share)
        for i, (worse, share) in enumerate(((1.2, 0.25), (1.1, 0.5)))
    )
    return analyze(df, curves=pd.concat([early, late]))


@pytest.mark.thorough
def test_draw_all_of_a_rich_table_gives_every_figure(rich, tmp_path):
    assert draw_all(rich, tmp_path) == dict.fromkeys(FIGURES)
    for name in FIGURES:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 500
            assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.thorough
def test_contour_holds_every_run_and_the_path(rich):
    axis = draw("contour", rich).axes[0]
    x, y = rich.rows["samples_seen"], rich.rows["params"]
    assert axis.get_xlim()[0] < x.min() < x.max() < axis.get_xlim()[1]
    assert axis.get_ylim()[0] < y.min() < y.max() < axis.get_ylim()[1]
    path = next(line for line in axis.lines if line.get_label() == "compute-optimal path")
    cost = path.get_xdata() * path.get_ydata() * 6  # of the simulated runs
    best = np.interp(np.log(rich.frontier.points["flops"]), np.log(cost), np.log(path.get_ydata()))
    assert np.abs(best - np.log(rich.frontier.points["params"])).max() < np.log(2.5)


def test_isoflop_figure_marks_a_refused_parabola(runs, curves):
    df = runs(curves["power law"], budgets=4, sizes=5, seeds=1, noise=0.0)
    first = df["budget"] == df["budget"].min()
    df.loc[first, "error_mean"] = 0.7 - 0.02 * np.array([2, 1, 0, 1, 2])  # opens downward
    analysis = analyze(df, full=False)
    assert analysis.valleys[0]["status"].endswith("opens downward")
    figure = draw("isoflop", analysis)
    hollow = [line for line in figure.axes[0].lines if line.get_label() == f"{df['budget'].min():.2g}"]
    assert hollow[0].get_markerfacecolor() == "white"
    stars = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert len(stars) == 3


@pytest.mark.thorough
def test_draw_all_without_budgets_gives_the_reason(runs, curves, tmp_path):
    df = runs(curves["power law"], budgets=5, sizes=1, seeds=1).drop(columns="budget")
    (tmp_path / "isoflop.png").write_text("of an earlier report")
    reasons = draw_all(analyze(df), tmp_path)
    assert reasons["isoflop"] == "the table has no column 'budget'"
    assert "at least 8 are needed" in reasons["contour"]
    assert "at least 8 are needed" in reasons["allocation"]
    assert reasons["learning_curves"].startswith("the table has no evaluations")
    assert reasons["error_vs_flops"] is None
    assert {p.stem for p in tmp_path.iterdir()} == {name for name, reason in reasons.items() if reason is None}


def test_error_vs_flops_of_one_budget_has_no_law(runs, curves):
    analysis = analyze(runs(curves["sigmoid in log C"], budgets=1))
    assert draw("error_vs_flops", analysis).axes
    for name in ("residuals", "cloud"):
        with pytest.raises(NotDrawn) as caught:
            draw(name, analysis)
        assert caught.value.args == (analysis.law["why"],)


def test_error_vs_flops_loss_above_one_is_inside_the_axes(runs):
    df = runs(lambda c: 6.5 * (c / 1e10) ** -0.05, budgets=4, sizes=3, seeds=1)
    low, high = draw("error_vs_flops", analyze(df, full=False)).axes[0].get_ylim()
    assert low < df["error_mean"].min()
    assert df["error_mean"].max() < high


def test_learning_curves_of_unknown_runs_are_not_drawn(runs, curves):
    df = runs(curves["power law"], budgets=3, sizes=1, seeds=1)
    strange = pd.DataFrame({"run_id": ["?"], "step": [1], "flops": [1e10], "error": [0.5]})
    with pytest.raises(NotDrawn):
        draw("learning_curves", analyze(df, curves=strange, full=False))


def test_learning_curves_of_one_evaluation_each_are_not_drawn(runs, curves):
    df = runs(curves["power law"], budgets=3, sizes=1, seeds=1)
    once = df[["run_id", "flops"]].assign(step=1, error=df["error_mean"])
    with pytest.raises(NotDrawn):
        draw("learning_curves", analyze(df, curves=once, full=False))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["contour", "allocation"])
def test_draw_unidentified_surface_is_left_out(rich, name):
    flat = replace(rich.surface, fit=replace(rich.surface.fit, flat=("E below",)))
    assert not flat.fit.identified
    flat_analysis = replace(rich, surface=flat, valleys=[])
    with pytest.raises(NotDrawn) as caught:
        draw(name, flat_analysis)
    assert "E" in caught.value.args[0].replace(";", " ").replace("(", " ").split()  # the parameter that is not known


@pytest.mark.thorough
def test_contour_error_never_above_one(runs):
    analysis = analyze(runs(lambda c: 0.7 * (c / 1e10) ** -0.1, budgets=5, sizes=6, seeds=1, noise=0.01))
    n, d = (analysis.rows[c].to_numpy() for c in ("params", "samples_seen"))
    corner = analysis.surface.fit.predict({"params": n[:1] * 0 + n.min() / 2, "samples_seen": d[:1] * 0 + d.min() / 2})
    assert analysis.rows["error_mean"].max() < 1 < corner[0]
    axis = draw("contour", analysis).axes[0]
    filled = next(c for c in axis.collections if getattr(c, "filled", False))
    assert filled.zmax <= 1
    assert np.ma.count_masked(filled.get_array()) == 0
    assert axis.figure.axes[1].get_ylim()[1] <= 1

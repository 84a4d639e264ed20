"""The headline figure: what must be seen on it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from clip_jax.plotting.style import ceiling, label_of
from clip_jax.scaling.analysis.analyze import Analysis, analyze
from clip_jax.scaling.report.figures import draw
from clip_jax.scaling.report.figures.headline import AVERAGED_KEY, headline
from clip_jax.scaling.report.figures.same_curves import same_curves
from clip_jax.scaling.report.figures.seeds import point_names, standard_errors


@pytest.fixture(scope="module")
def analysis(runs, curves):
    return analyze(runs(curves["power law"], budgets=6, sizes=3, seeds=3, noise=0.02), full=False)


@pytest.fixture(scope="module")
def steep(runs):
    """Analyze a law that falls by more than ten times between the data and the target."""
    return analyze(runs(lambda c: 0.97 / (1 + (c / 5e11) ** 1.2), budgets=7, sizes=3, seeds=2), full=False)


def axis_of(analysis):
    return draw("error_vs_flops", analysis).axes[0]


def labels_of(axis):
    return axis.get_legend_handles_labels()[1]


def test_standard_errors_equal_those_over_seeds(analysis):
    points, rows = analysis.frontier.points, analysis.rows
    first = points.iloc[0]
    of_cell = rows[(rows["budget"] == first["budget"]) & (rows["params"] == first["params"])]["error_mean"]
    assert standard_errors(rows, points)[0] == pytest.approx(of_cell.std() / np.sqrt(3))
    assert np.isnan(standard_errors(rows.assign(seed=0), points)).all()


def test_error_vs_flops_bars_are_standard_errors(analysis):
    axis = axis_of(analysis)
    bars = next(c for c in axis.containers if len(c[0:1]) and c[0] is None)  # bars without a marker of their own
    segments = bars[2][0].get_segments()
    assert len(segments) == len(analysis.frontier.points)
    se, error = standard_errors(analysis.rows, analysis.frontier.points), analysis.frontier.points["error"]
    assert [s[1, 1] - s[0, 1] for s in segments] == pytest.approx(list(2 * se))
    assert [s[:, 1].mean() for s in segments] == pytest.approx(list(error))
    assert any("standard error" in label for label in labels_of(axis))


@pytest.mark.parametrize(("copies", "size"), [(1, 7.5), (20, 4.33)])
def test_error_vs_flops_many_points_have_small_markers(analysis, copies, size):
    frontier = analysis.frontier
    points = pd.concat([frontier.points] * copies, ignore_index=True)
    many = replace(analysis, frontiers={frontier.rule: replace(frontier, points=points)})
    (line,) = [v for v in axis_of(many).lines if str(v.get_label()).startswith("frontier")]
    assert line.get_markersize() == pytest.approx(size, rel=0.05)


def test_error_vs_flops_one_seed_says_no_bars(runs, curves):
    axis = axis_of(analyze(runs(curves["power law"], budgets=4, sizes=1, seeds=1), full=False))
    assert any("no error bars" in label for label in labels_of(axis))


def test_error_vs_flops_forecast_inside_the_axis(steep):
    axis = axis_of(steep)
    row = headline(steep).forecast
    low, high = axis.get_ylim()
    assert row["predicted"] < steep.rows["error_mean"].min() / 5
    assert low < row["low"] < row["predicted"] < row["high"] < high
    assert axis.get_xlim()[1] > row["flops"]
    assert any("extrapolates 10×" in text.get_text() for text in axis.texts)


def test_error_vs_flops_open_ends_are_arrows_inside_the_axis(analysis):
    law = {**analysis.law, "averaged": [{**r, "run": [0.0, None]} for r in analysis.law["averaged"]]}
    axis = axis_of(replace(analysis, law=law))
    arrows = [line for line in axis.lines if line.get_marker() in ("v", "^")]
    assert arrows
    for line in arrows:
        assert axis.get_ylim()[0] <= line.get_ydata()[0] <= axis.get_ylim()[1]
    assert axis.get_ylim()[0] > headline(analysis).forecast["predicted"] / 10


def test_error_vs_flops_axis_ends_at_what_an_error_can_be(steep):
    assert axis_of(steep).get_ylim()[1] <= 1
    known = replace(steep, law={**steep.law, "chance": 0.975})
    highest = steep.rows["error_mean"].max()
    assert highest > 0.975  # a run above guessing stays on the axis, and nothing lies higher
    assert highest < axis_of(known).get_ylim()[1] <= highest * 1.01


def test_ceiling_of_error_loss_and_chance():
    assert ceiling("error_mean", [0.2, 0.9]) == 1
    assert ceiling("val_loss", [0.2, 0.9]) == np.inf
    assert ceiling("error_mean", [0.2], chance=0.8) == 0.8
    assert ceiling("perplexity", [3.0]) == np.inf


def test_error_vs_flops_identical_curves_once(runs, curves):
    analysis = analyze(runs(curves["power law"], budgets=4, sizes=1, seeds=1), full=False)  # so few that E is held at 0
    fitted = analysis.frontier.fitted
    assert fitted["saturating"].fit.values["E"] == pytest.approx(0, abs=1e-3)
    grid = np.geomspace(1e10, 1e14, 50)
    assert same_curves(fitted, grid, "saturating")[0][:2] == ("saturating", "power")
    for name, axis in (("error_vs_flops", axis_of(analysis)), ("residuals", draw("residuals", analysis).axes[0])):
        joint = [label for label in labels_of(axis) if "power law = " in label]
        assert len(joint) == 1, name
        assert not any(label.startswith("saturating power law") for label in labels_of(axis))


def test_error_vs_flops_rivals_answers_beside_the_forecast(steep):
    labels = labels_of(axis_of(steep))
    for row in steep.law["next_budget"]:
        assert any(row["form"] in label and f"{row['predicted']:.3g} at 10×" in label for label in labels)


def averaged_bands(self, grid):
    """Stand for the method to come: the mean of all forms, and bands of a fifth and a third about it."""
    y = np.mean([f.fit.predict(np.asarray(grid, float)) for f in self.frontier.fitted.values()], axis=0)
    return {"median": y, "low": y / 1.2, "high": y * 1.2, "run_low": y / 1.3, "run_high": y * 1.3}


def test_headline_averaged_bands_come_first(steep, monkeypatch):
    monkeypatch.setattr(Analysis, "averaged_bands", averaged_bands, raising=False)
    law = {k: v for k, v in steep.law.items() if k != "averaged"}
    averaged = replace(steep, law=law)
    first = headline(averaged)
    predictions = [f.fit.predict(averaged.target) for f in averaged.frontier.fitted.values()]
    assert first.key == AVERAGED_KEY
    assert first.forecast["predicted"] == pytest.approx(np.mean(predictions))
    axis = axis_of(averaged)
    lines = {line.get_label(): line for line in axis.lines}
    thick = lines["averaged over forms"].get_linewidth()
    assert all(line.get_linewidth() < thick for label, line in lines.items() if " at 10×" in label)


def test_headline_averaged_row_of_law_json_is_what_is_said(steep, monkeypatch):
    monkeypatch.setattr(Analysis, "averaged_bands", averaged_bands, raising=False)
    row = {
        "flops": steep.target, "median": 0.05, "curve": [0.04, 0.06], "run": [0.03, 0.07],
        "weights": {"power law": 0.25, "sigmoid in log C": 0.75},
    }  # fmt: skip
    averaged = replace(steep, law={**steep.law, "averaged": [{**row, "flops": 1.0}, row]})
    assert headline(averaged).forecast == {"flops": steep.target, "predicted": 0.05, "low": 0.03, "high": 0.07}
    assert any("weight 0.75" in label for label in labels_of(axis_of(averaged)))


def test_headline_without_averages_is_the_best_form(analysis, monkeypatch):
    monkeypatch.setattr(Analysis, "averaged", None)
    assert headline(analysis).key == analysis.winner


def test_label_of_names_the_task_of_a_mean_of_one():
    one = pd.DataFrame({"error_mean": [0.5, 0.4], "error/a": [0.5, 0.4], "error/control": [0.9, 0.9]})
    two = one.assign(**{"error/a": [0.6, 0.5], "error/b": [0.4, 0.3]})
    none = one.assign(**{"error/a": np.nan, "error/control": np.nan})
    assert label_of("error_mean", one) == "zero-shot error, a"
    assert label_of("error_mean", two) == "zero-shot error, mean over tasks"
    assert label_of("error_mean", none) == label_of("error_mean") == "zero-shot error"
    assert label_of("error/b", two) == "zero-shot error, b"
    assert label_of("val_loss", two) == "val loss"


def test_point_names_budget_or_run(analysis, runs, curves):
    assert point_names(analysis, analysis.frontier.points)[0] == "budget 1e+10"
    loose = analyze(runs(curves["power law"], budgets=4, sizes=1, seeds=1).drop(columns="budget"), full=False)
    assert point_names(loose, loose.frontier.points) == ["r0", "r1", "r2", "r3"]

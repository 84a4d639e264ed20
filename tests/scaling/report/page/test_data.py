"""What the page's script looks up is what was fitted."""

from dataclasses import replace

import numpy as np
import pytest

from clip_jax.scaling.analysis.analyze import Analysis, analyze
from clip_jax.scaling.analysis.frontier_fit import FrontierFit
from clip_jax.scaling.report.figures.headline import AVERAGED_KEY
from clip_jax.scaling.report.page.data import embedded

ENDS = {"low": 0.4, "high": 0.6, "run_low": 0.3, "run_high": 0.7}


@pytest.fixture(scope="module")
def analysis(runs, curves):
    return analyze(runs(curves["power law"], budgets=5, sizes=3, seeds=1, noise=0.01), full=False)


def test_embedded_curves_equal_the_predictions(analysis):
    data = embedded(analysis)
    grid = np.array(data["grid"])
    assert grid[0] < analysis.rows["flops"].min()
    assert grid[-1] == pytest.approx(analysis.rows["flops"].max() * 100)
    between = np.sqrt(grid[1:] * grid[:-1])
    for key, fit in data["rules"][0]["fits"].items():
        if key == AVERAGED_KEY:
            continue
        fitted = analysis.frontier.fitted[key]
        straight = np.sqrt(np.array(fit["y"])[1:] * np.array(fit["y"])[:-1])
        assert np.abs(np.log(straight / fitted.fit.predict(between))).max() < 1e-3
        assert fit["values"] == pytest.approx(fitted.fit.values)


def test_embedded_bands_equal_the_profile_at_the_target(analysis):
    data = embedded(analysis)
    fit = data["rules"][0]["fits"]["power"]
    curve = analysis.frontier.fitted["power"].curve_at(analysis.target)
    at = [np.exp(np.interp(np.log(analysis.target), np.log(data["grid"]), np.log(fit[k]))) for k in ("low", "high")]
    assert at == pytest.approx([curve.low, curve.high], rel=2e-3)
    assert all(a <= b for a, b in zip(fit["run_low"], fit["low"], strict=True))


def test_embedded_open_end_is_null(analysis, monkeypatch):
    real = FrontierFit.curve_at
    monkeypatch.setattr(FrontierFit, "curve_at", lambda self, c: replace(real(self, c), low=0.0, open_low=True))
    (rule, frontier), *others = analysis.frontiers.items()
    fitted = {key: replace(fit) for key, fit in frontier.fitted.items()}  # none of its bands is computed yet
    frontiers = {rule: replace(frontier, fitted=fitted), **dict(others)}
    fit = embedded(replace(analysis, frontiers=frontiers))["rules"][0]["fits"]["power"]
    assert set(fit["low"]) == {None}
    assert None not in fit["high"]


def test_embedded_points_carry_standard_errors(runs, curves):
    repeated = analyze(runs(curves["power law"], budgets=4, sizes=1, seeds=3), full=False)
    points = embedded(repeated)["rules"][0]["points"]
    assert [p["se"] for p in points] == pytest.approx(list(repeated.frontier.points["sd"] / np.sqrt(3)))
    assert {p["x"] for p in points} == set(repeated.frontier.points["flops"])


def test_embedded_one_seed_has_no_standard_error(analysis):
    assert {p["se"] for p in embedded(analysis)["rules"][0]["points"]} == {None}


def test_embedded_equal_curves_name_their_leader(runs, curves):
    few = analyze(runs(curves["power law"], budgets=4, sizes=1, seeds=1), full=False)  # so few that E is held at 0
    fits = embedded(few)["rules"][0]["fits"]
    assert fits["power"]["same"] == fits["saturating"]["same"]
    assert fits["sigmoid"]["same"] == "sigmoid"


def test_embedded_ceiling_of_error_and_loss(analysis, runs):
    assert embedded(analysis)["ceiling"] == 1
    loss = runs(lambda c: 6.5 * (c / 1e10) ** -0.05, budgets=4, sizes=1, seeds=1)
    assert embedded(analyze(loss, full=False))["ceiling"] is None


def test_embedded_averaged_first_on_the_reported_frontier(analysis, monkeypatch):
    def averaged(self, grid):
        return {"median": grid**0 * 0.5, **{k: grid**0 * v for k, v in ENDS.items()}}

    monkeypatch.setattr(Analysis, "averaged_bands", averaged, raising=False)
    data = embedded(analysis)
    assert data["law"] == next(iter(data["rules"][0]["fits"])) == "averaged"
    fit = data["rules"][0]["fits"]["averaged"]
    assert {k: set(fit[k]) for k in ENDS} == {k: {v} for k, v in ENDS.items()}
    assert set(fit["y"]) == {0.5}
    assert all("averaged" not in rule["fits"] for rule in data["rules"][1:])

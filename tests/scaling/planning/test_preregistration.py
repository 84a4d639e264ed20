"""A forecast registered before its runs: what it holds, how often it covers, what grading sees."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.planning.preregistration import grade, picture_scatter, preregister
from clip_jax.scaling.report.figures.forecast import draw_forecast

from ...user_errors import raises_user_error


def split(df):
    """Return (the rows below the largest budget, that budget)."""
    target = df["budget"].max()
    return df[df["budget"] < target], float(target)


@pytest.fixture(scope="module")
def graded(runs, curves):
    """Return (registered, outcome, all rows) of a planted power law with three seeds per cell."""
    df = runs(curves["power law"], noise=0.01, seeds=3)
    below, target = split(df)
    registered = preregister(below, "error_mean", target, seeds=3, pictures=[(0.5, 20_000)])
    registered = json.loads(json.dumps(registered))  # as it is read back
    return registered, grade(registered, df), df


def test_preregister_band_holds_a_planted_law(graded, curves):
    registered, outcome, _df = graded
    truth = curves["power law"](registered["target"])
    low, high = registered["mean"]
    assert low < truth < high
    assert registered["predicted"] == pytest.approx(truth, rel=0.03)
    assert outcome["inside"]
    assert outcome["beats_naive"]
    assert outcome["amendments"] == []
    assert outcome["measured"] == pytest.approx(truth, rel=0.03)
    assert len(outcome["seeds"]) == 3
    assert outcome["flops"] == registered["target"]


def test_preregister_bands_add_seed_and_example_scatter(graded):
    registered, _, df = graded
    below, target = split(df)
    alone = preregister(below, "error_mean", target, seeds=3)
    width = {k: np.log(registered[k][1] / registered[k][0]) for k in ("curve", "mean", "run", "mean_new_pictures")}
    assert width["curve"] < width["mean"] <= width["run"]
    assert width["mean"] < width["mean_new_pictures"]
    assert np.log(alone["mean"][1] / alone["mean"][0]) < width["mean"]


def test_preregister_backtests_each_earlier_budget(graded):
    registered, _, _ = graded
    frontier = registered["frontier"]
    assert [r["flops"] for r in registered["rehearsals"]] == [p["flops"] for p in frontier[4:]]
    assert [r["naive"] for r in registered["rehearsals"]] == [p["error"] for p in frontier[3:-1]]


def test_grade_reports_changes_after_the_forecast(graded):
    registered, _, df = graded
    changed = df.copy()
    changed.loc[0, "error_mean"] *= 1.01
    assert "not those that the forecast was made from" in grade(registered, changed)["amendments"][0]
    target = df[df["budget"] == df["budget"].max()]
    best = target[target["params"] == grade(registered, df)["params"]].iloc[:1].assign(run_id="more", seed=9)
    assert grade(registered, pd.concat([df, best]))["amendments"] == ["4 seeds were trained, 3 were registered"]


def test_grade_of_a_miss_is_outside(graded):
    registered, _, df = graded
    worse = df.copy()
    worse.loc[worse["budget"] == worse["budget"].max(), "error_mean"] *= 1.5
    outcome = grade(registered, worse)
    assert not outcome["inside"]
    assert not outcome["beats_naive"]
    assert not any(s["inside"] for s in outcome["seeds"])


def test_grade_open_side_leaves_nothing_outside(graded):
    registered, _, df = graded
    low = registered["mean"][0]
    assert grade({**registered, "mean": [None, 1.0], "run": [None, None]}, df)["inside"]
    outcome = grade({**registered, "mean": [None, low], "run": [None, low]}, df)
    assert not outcome["inside"]
    assert not any(s["inside"] for s in outcome["seeds"])


@pytest.mark.thorough
def test_preregister_bands_cover_planted_laws(runs, curves):
    inside = []
    for seed in range(8):
        df = runs(curves["power law"], noise=0.02, sizes=3, seeds=2, seed=seed)
        below, target = split(df)
        inside.append(grade(preregister(below, "error_mean", target, seeds=2), df)["inside"])
    assert sum(inside) >= 6  # 95 % wanted; of 95 %, fewer than six of eight is a chance of 1 in 170


def test_preregister_impossible_target_is_refused(graded, runs, curves):
    registered, _, df = graded
    below, target = split(df)
    with raises_user_error(field="target", value=1e13, hint="before its runs"):
        preregister(df, "error_mean", target, seeds=2)
    with raises_user_error(field="budgets", reason="4 budgets have finished"):
        preregister(below[below["budget"] < 4e11], "error_mean", target, seeds=2)
    with raises_user_error(field="seeds", value=1):
        preregister(below, "error_mean", target, seeds=1)
    with raises_user_error(field="seed", reason="second seed"):
        preregister(below[below["seed"] == 0], "error_mean", target, seeds=2)
    with raises_user_error(field="target", value=1e13, reason="has finished"):
        grade(registered, below)
    with raises_user_error(field="seeds", reason="3 were registered"):
        grade(registered, pd.concat([below, df[(df["budget"] == target) & (df["seed"] == 0)]]))


def test_draw_forecast_has_axes(graded):
    registered, outcome, df = graded
    assert draw_forecast([(registered, outcome)], df).axes


def test_picture_scatter_is_binomial_at_the_forecast_error():
    one = [(0.5, 500)]
    assert picture_scatter(0.4, one, same=False) == pytest.approx(np.sqrt(0.8 / (0.2 * 500)))
    # of the 250 pictures still wrong at 0.5, a binomial number stays wrong at 0.2
    rng = np.random.default_rng(0)
    simulated = np.std(rng.binomial(250, 0.4, 100_000) / 500) / 0.2
    assert picture_scatter(0.4, one, same=True) == pytest.approx(simulated, rel=0.02)
    assert picture_scatter(1.0, one, same=True) == 0
    assert picture_scatter(0.4, [(0.5, 500)] * 4, same=True) == pytest.approx(simulated / 2, rel=0.02)
    assert picture_scatter(0.4, [], same=False) == 0


def test_grade_of_a_forecast_made_after_its_runs_is_refused():
    folder = Path(__file__).parents[3] / "experiments" / "results" / "icons"
    later = json.loads((folder / "forecast_averaged.json").read_text())
    with raises_user_error(field="forecast", reason="after its runs"):
        grade(later, pd.read_csv(folder / "runs.csv", dtype={"run_id": str}))
    registered, graded = (json.loads((folder / f"{name}.json").read_text()) for name in ("forecast", "outcome"))
    assert grade(registered, pd.read_csv(folder / "runs.csv", dtype={"run_id": str})) == graded

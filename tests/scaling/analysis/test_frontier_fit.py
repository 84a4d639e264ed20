"""Intervals, bands and influence that a report shows."""

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.analysis.averaging import average
from clip_jax.scaling.analysis.frontier_fit import (
    BUDGET,
    HULL,
    PARETO,
    TooFewPoints,
    fit_frontier,
    interval_sides,
    rules_for,
    select,
)
from clip_jax.scaling.laws import BoundedPowerLaw, PowerLaw, SaturatingPowerLaw
from clip_jax.scaling.profile.noise import NO_NOISE, Noise
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.profile.profile_likelihood import parameter_interval

from ...user_errors import raises_user_error

C = np.geomspace(1e10, 1e13, 8)


def points(noise=0.02, seed=0):
    y = 0.7 * (C / C[0]) ** -0.1 * np.exp(noise * np.random.default_rng(seed).standard_normal(len(C)))
    return pd.DataFrame({"flops": C, "error": y})


def cloud(runs=60):
    rng = np.random.default_rng(1)
    x = np.exp(rng.uniform(np.log(1e10), np.log(1e13), runs))
    return pd.DataFrame({"flops": x, "error": 0.7 * (x / 1e10) ** -0.1 * np.exp(rng.exponential(0.1, runs))})


@pytest.fixture(scope="module")
def fitted():
    return fit_frontier(PowerLaw(), points(), points(), rule=BUDGET, noise=NO_NOISE, planned=True)


def test_frontier_fit_of_planned_budgets_has_profile_intervals(fitted):
    single = parameter_interval(fitted.fit, "b")
    assert (fitted.intervals["b"].low, fitted.intervals["b"].high) == (single.low, single.high)
    assert fitted.as_data()["interval_kind"] == "profile likelihood"


def test_frontier_fit_intervals_widen_with_seed_noise(fitted):
    noisy = fit_frontier(PowerLaw(), points(), points(), rule=BUDGET, noise=Noise(0.2), planned=True)
    assert noisy.intervals["b"].width > fitted.intervals["b"].width


def test_frontier_fit_of_a_picked_frontier_has_the_wider_interval():
    df = cloud()
    front = select(PARETO, df)
    picked = fit_frontier(PowerLaw(), front, df, rule=PARETO, noise=NO_NOISE, planned=False)
    single, again = parameter_interval(picked.fit, "b"), picked.reselected.interval("b")
    assert picked.intervals["b"].low == min(single.low, again[0])
    assert picked.intervals["b"].high == max(single.high, again[1])
    assert picked.intervals["b"].width > single.width
    assert "selected again" in picked.as_data()["interval_kind"]


def test_frontier_fit_bands_meet_the_intervals_at_the_knots(fitted):
    grid = np.geomspace(5e9, 1e15, 50)
    grid[20] = C.max() * 10
    band = fitted.bands(grid)
    curve = fitted.curve_at(C.max() * 10)
    run = fitted.run_at(C.max() * 10)
    assert (band["low"][20], band["high"][20]) == pytest.approx((curve.low, curve.high))
    assert (band["run_low"][20], band["run_high"][20]) == pytest.approx((run.low, run.high))
    assert np.all(band["run_low"] < band["low"])
    assert np.all(band["low"] < band["y"])
    ahead = fitted.forecast(C.max() * 10)
    assert (ahead["low"], ahead["high"], ahead["predicted"]) == (run.low, run.high, curve.value)


def test_frontier_fit_leave_one_out_finds_the_influential_point():
    bent = points(0.002)
    bent.loc[7, "error"] *= 1.5
    rows = fit_frontier(PowerLaw(), bent, bent, rule=BUDGET, noise=NO_NOISE, planned=True).leave_one_out()
    assert [r["flops"] for r in rows] == pytest.approx(C)
    assert max(rows, key=lambda r: abs(r["shift"]))["flops"] == C[7]
    assert rows[7]["exponent"] == pytest.approx(0.1, abs=0.003)


def test_fit_frontier_of_too_few_points_is_refused():
    few = points().head(2)
    with raises_user_error(TooFewPoints, field="frontier", reason="2 points"):
        fit_frontier(PowerLaw(), few, few, rule=BUDGET, noise=NO_NOISE, planned=True)


@pytest.mark.parametrize("count", [4, 5])
def test_fit_frontier_of_few_points_reports_values_of_one_form(count):
    few = points().head(count)
    fit = fit_frontier(SaturatingPowerLaw(), few, few, rule=BUDGET, noise=NO_NOISE, planned=True)
    data, ahead = fit.as_data(), fit.forecast(C.max())
    assert data["fixed"] == []
    assert set(data["intervals"]) == {"E", "a", "b"}
    assert all(i.value == data["values"][n] for n, i in fit.intervals.items())
    assert ahead["predicted"] == fit.fit.predict(C.max()) == fit.bands(C)["y"][-1]
    assert any("too few to tell E" in w for w in data["warnings"])


def test_fit_frontier_without_degrees_of_freedom_has_open_intervals():
    few = points().head(3)
    fit = fit_frontier(SaturatingPowerLaw(), few, few, rule=BUDGET, noise=NO_NOISE, planned=True)
    data, ahead = fit.as_data(), fit.forecast(C.max())
    assert all(i["open"] == ["below", "above"] for i in data["intervals"].values())
    assert not data["identified"]
    assert (ahead["low"], ahead["high"]) == (-np.inf, np.inf)
    assert any("nothing is tested" in w for w in data["warnings"])


def test_rules_for_unplanned_budgets_exclude_the_budget_rule():
    assert rules_for(True)[0] == BUDGET
    assert BUDGET not in rules_for(False)
    assert len(select(HULL, cloud())) <= len(select(PARETO, cloud()))


def test_fit_frontier_known_chance_holds_the_top_and_drops_points_above_it_for_open_laws():
    above = points().assign(budget=C)
    above.loc[0, "error"] = 0.95
    bounded = fit_frontier(BoundedPowerLaw(), above, above, rule=BUDGET, noise=NO_NOISE, planned=True, chance=0.9)
    power = fit_frontier(PowerLaw(), above, above, rule=BUDGET, noise=NO_NOISE, planned=True, chance=0.9)
    assert bounded.fit.points == 8
    assert bounded.fit.values["top"] == 0.9
    assert "top" in bounded.as_data()["fixed"]
    assert power.fit.points == 7


def test_no_curve_exceeds_guessing_whatever_its_form_and_a_run_may():
    df = points(0.05).assign(budget=C)
    chance = float(df["error"].max()) * 1.01
    fitted = fit_frontier(PowerLaw(), df, df, rule=BUDGET, noise=NO_NOISE, planned=True, chance=chance)
    below = C.min() / 2
    assert fitted.fit.predict(np.array([below]))[0] > chance
    bands = fitted.bands(np.geomspace(below, C.max(), 50))
    assert max(bands["y"].max(), bands["high"].max()) == chance < bands["run_high"].max()
    assert (
        fitted.run_at(below).value
        == fitted.curve_at(below).value
        == fitted.curve_at(below).high
        == fitted.curve(np.array([below]))[0]
        == chance
    )
    averaged = average({"power": fitted}, chance)
    assert averaged.forecast(below)["forms"][0]["predicted"] == chance


def test_fit_frontier_winners_bias_moves_the_upper_end_of_the_forecast():
    df = points().assign(budget=C)
    plain = fit_frontier(PowerLaw(), df, df, rule=BUDGET, noise=NO_NOISE, planned=True, bias={})
    lucky = fit_frontier(PowerLaw(), df, df, rule=BUDGET, noise=NO_NOISE, planned=True, bias=dict.fromkeys(C, -0.03))
    at = C.max() * 10
    assert lucky.curve_at(at).high == pytest.approx(plain.curve_at(at).high * np.exp(0.03), rel=1e-3)
    assert lucky.curve_at(at).low == pytest.approx(plain.curve_at(at).low, rel=1e-4)


def test_frontier_fit_warnings_name_an_outlier_by_its_compute():
    df = points(0.002)
    df.loc[3, "error"] *= 1.3
    fit = fit_frontier(PowerLaw(), df, df, rule=BUDGET, noise=NO_NOISE, planned=True)
    assert any(f"{C[3]:.3g} FLOPs" in w for w in fit.warnings())


def test_sides_of_an_open_interval_are_none():
    sides = interval_sides(Interval(1.0, 0.0, 2.0, 0.95, open_low=True))
    assert sides == {"low": None, "high": 2.0, "open": ["below"]}
    assert interval_sides(None) == {"low": None, "high": None, "open": []}

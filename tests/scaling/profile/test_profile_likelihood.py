"""Profile intervals: exact on a line, open where data say nothing, one-sided where they say half."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import linregress, t

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import PowerLaw, SaturatingPowerLaw, ShiftedPowerLaw
from clip_jax.scaling.profile.noise import Noise, pooled
from clip_jax.scaling.profile.profile_likelihood import (
    parameter_interval,
    parameter_statistic,
    prediction_interval,
    prediction_statistic,
    statistic,
    threshold,
)

from ...user_errors import raises_user_error

RESULTS = Path(__file__).parents[3] / "experiments/results"

C = np.geomspace(1e10, 1e13, 8)
NOISE = np.random.default_rng(0).standard_normal(8)
LINE = 0.7 * (C / C[0]) ** -0.1 * np.exp(0.02 * NOISE)


@pytest.fixture(scope="module")
def line():
    return fit_law(PowerLaw(), C, LINE, loss=Loss("squares"))


def test_parameter_interval_on_a_line_is_students(line):
    regression, q = linregress(np.log(C), np.log(LINE)), t.ppf(0.975, 6)
    b, a = parameter_interval(line, "b"), parameter_interval(line, "a")
    assert (b.low, b.high) == pytest.approx(
        (-regression.slope - q * regression.stderr, -regression.slope + q * regression.stderr), rel=1e-5
    )
    ends = np.exp(regression.intercept + np.array([-q, q]) * regression.intercept_stderr)
    assert (a.low, a.high) == pytest.approx(tuple(ends), rel=1e-5)


def test_prediction_interval_on_a_line_is_students_and_a_new_run_adds_scatter(line):
    x, q = np.log(C), t.ppf(0.975, 6)
    for at in (1e14, 3e11):
        leverage = 1 / 8 + (np.log(at) - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
        for new, more in ((False, 0), (True, 1)):
            interval = prediction_interval(line, at, new_run=new)
            half = q * line.residual_sd * np.sqrt(leverage + more)
            wanted = np.exp(np.log(line.predict(at)) + np.array([-half, half]))
            assert (interval.low, interval.high) == pytest.approx(tuple(wanted), rel=1e-4)
            assert line.predict(at) in interval


def test_interval_ends_are_where_the_statistic_reaches_the_threshold(line):
    b = parameter_interval(line, "b")
    np.testing.assert_allclose(parameter_statistic(line, "b", [b.low, b.high]), threshold(line, 0.95), rtol=1e-3)
    p = prediction_interval(line, 1e14)
    np.testing.assert_allclose(prediction_statistic(line, 1e14, [p.low, p.high]), threshold(line, 0.95), rtol=1e-3)


def test_parameter_interval_of_an_asymptote_near_zero_is_open_below():
    fit = fit_law(SaturatingPowerLaw(), C, LINE, loss=Loss("squares"), fixed={})
    interval = parameter_interval(fit, "E")
    assert (interval.low, interval.open_low, interval.open_high) == (0.0, True, False)
    assert 0.1 < interval.high < 0.3


@pytest.mark.parametrize("loss", [Loss("huber", delta=0.005), Loss("absolute")], ids=str)
def test_parameter_interval_of_robust_losses_widens_as_theory_predicts(loss):
    c, ratios = np.geomspace(1e10, 1e13, 60), []
    for seed in range(6):
        y = 0.7 * (c / c[0]) ** -0.1 * np.exp(0.02 * np.random.default_rng(seed).standard_normal(60))
        plain, robust = (
            parameter_interval(fit_law(PowerLaw(), c, y, loss=kind), "b") for kind in (Loss("squares"), loss)
        )
        ratios.append(robust.width / plain.width)
        assert 0.093 < robust.low < robust.value < robust.high < 0.107
    assert 1.0 < np.mean(ratios) < 1.5  # a median needs pi/2 times the points of a mean: 1.25


def test_parameter_interval_known_noise_is_a_floor(line):
    assert parameter_interval(line, "b", noise=Noise(0.1)).width > 3 * parameter_interval(line, "b").width
    assert parameter_interval(line, "b", noise=Noise(1e-4)) == parameter_interval(line, "b")


def test_pooled_scale_of_agreeing_seeds_adds_degrees_of_freedom():
    assert pooled(4e-4, 4, Noise(0.02, 12)) == pytest.approx((4e-4, 16))
    assert pooled(1e-4, 4, Noise(0.02, 12)) == pytest.approx((4e-4, 16))  # never below what seeds show
    assert pooled(1e-2, 4, Noise(0.02, 12)) == (1e-2, 4)  # something else scatters too
    assert pooled(1e-4, 4, Noise(0.02)) == pytest.approx((4e-4, 4))  # a known lower limit adds none


def test_intervals_without_a_degree_of_freedom_are_open():
    fit = fit_law(SaturatingPowerLaw(), C[:3], LINE[:3], fixed={})
    b, ahead = parameter_interval(fit, "b"), prediction_interval(fit, C[-1] * 10)
    assert b.open_low
    assert b.open_high
    assert ahead.bounded_ends == (-np.inf, np.inf)
    assert not fit.identified


def test_prediction_from_few_points_carries_the_free_asymptote_and_its_value_is_the_fits():
    c = np.geomspace(1e19, 1e21, 4)
    y = 1.6 + 95.18 * c**-0.0941
    fit = fit_law(SaturatingPowerLaw(), c, y * np.exp([1e-4, -1e-4, 1e-4, -1e-4]))
    interval = prediction_interval(fit, 1e23)
    assert interval.low <= 1.6 + 95.18 * 1e23**-0.0941 <= interval.high
    assert interval.value == float(fit.predict(1e23))


@pytest.mark.parametrize("kind", ["huber", "absolute"])
def test_interval_value_is_that_of_the_fit(kind):
    y = (0.1 + LINE) * np.exp(0.02 * np.random.default_rng(3).standard_normal(len(C)))
    fit = fit_law(SaturatingPowerLaw(), C, y, loss=Loss(kind, delta=1e-3))
    ahead, b = prediction_interval(fit, 1e13), parameter_interval(fit, "b")
    assert (ahead.value, b.value) == (float(fit.predict(1e13)), fit.values["b"])
    assert ahead.value in ahead
    assert b.value in b


def test_parameter_statistic_rises_away_from_the_optimum_where_single_fits_fail():
    points = json.loads((RESULTS / "photos/law.json").read_text())["frontiers"]["pareto"]["points"]
    c, y = (np.array([p[k] for p in points]) for k in ("flops", "error"))
    fit = fit_law(ShiftedPowerLaw(), c, y, profile=False)  # nine points do not bound its exponent above
    profile = parameter_statistic(fit, "b", np.linspace(fit.values["b"], 2.0, 120)[1:])
    assert (np.diff(profile) >= 0).all()
    assert parameter_interval(fit, "b").open_high


def test_parameter_interval_of_a_fixed_parameter_is_refused():
    fit = fit_law(SaturatingPowerLaw(), C, LINE, fixed={"E": 0.0})
    with raises_user_error(field="E", reason="fixed"):
        parameter_interval(fit, "E")


def test_intervals_of_a_bent_law_on_few_points_cover_95_percent():
    # 200 tables: a share of 95 % is between 181 and 198 of them in 999 of 1000 cases (binomial).
    from dataclasses import replace

    from clip_jax.scaling.data.observations import Points
    from clip_jax.scaling.fit.solver import solve

    law, count, truth = SaturatingPowerLaw(), 200, {"E": 0.15, "a": 0.5 * 1e10**0.25, "b": 0.25}
    exact = law.curve(truth, {"flops": np.log(C)}, np)
    y = exact * np.exp(0.02 * np.random.default_rng(5).standard_normal((count, 8)))
    first = fit_law(law, C, exact, loss=Loss("squares"), fixed={"E": 0.15}, profile=False)
    begin = np.tile(law.theta(truth, first.references), (count, 1))

    def solved(free):
        return solve(law, first.logs, y, begin, first.low, first.high, first.loss, free=np.array(free))

    best, held = solved([False, True, True]), solved([False, True, False])
    fits = [
        replace(first, theta=t, objective=o, data=Points(first.data.columns, row, np.ones(8)))
        for t, o, row in zip(best.theta, best.objective, y, strict=True)
    ]
    inside = [float(statistic(f, o)) <= threshold(f, 0.95) for f, o in zip(fits, held.objective, strict=True)]
    assert 181 <= sum(inside) <= 198
    for i in (0, 1):  # what inversion says is what the interval's ends say
        assert (0.25 in parameter_interval(fits[i], "b")) == inside[i]

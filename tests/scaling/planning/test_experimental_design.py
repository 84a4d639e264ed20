"""Plans that pay: simulated to the end, they beat what one would do without thinking."""

import numpy as np
import pytest

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import PowerLaw, SaturatingPowerLaw
from clip_jax.scaling.planning.experimental_design import ChosenRun, best_runs, cheapest_plan
from clip_jax.scaling.profile.profile_likelihood import prediction_interval

from ...user_errors import raises_user_error

SQUARES, SD = Loss("squares"), 0.01
TRUTH = {"E": 0.15, "a": 0.5 * 1e10**0.25, "b": 0.25}
KNOWN = np.geomspace(1e10, 1e11, 9)
CANDIDATES = np.geomspace(1e10, 3e12, 12)
TARGET, BUDGET = 1e15, 6e12


def measure(c, rng):
    law = SaturatingPowerLaw()
    return law.curve(TRUTH, {"flops": np.log(c)}, np) * np.exp(SD * rng.standard_normal(len(c)))


def width_with(runs, y, rng):
    c = np.append(KNOWN, np.repeat(CANDIDATES, runs))
    fit = fit_law(SaturatingPowerLaw(), c, np.append(y, measure(c[9:], rng)), loss=SQUARES, fixed={}, profile=False)
    interval = prediction_interval(fit, TARGET)
    return min(np.log(interval.high / max(interval.low, 1e-3)), 5.0)


def test_best_runs_narrow_the_interval_more_than_naive_ones():
    widths = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        y = measure(KNOWN, rng)
        fit = fit_law(SaturatingPowerLaw(), KNOWN, y, loss=SQUARES, fixed={}, profile=False)
        plan = best_runs(fit, TARGET, CANDIDATES, CANDIDATES, BUDGET, floor=SD)
        assert plan.cost <= BUDGET
        assert plan.after < plan.before
        even = np.zeros(12, int)  # evenly over all sizes that the budget holds
        while even @ CANDIDATES + CANDIDATES[:11].sum() <= BUDGET:
            even[:11] += 1
        cheap = np.zeros(12, int)  # many cheap runs
        cheap[:4] = 8
        widths.append([width_with(r, y, np.random.default_rng(100 + seed)) for r in (plan.runs, even, cheap)])
    chosen, even, cheap = np.mean(widths, axis=0)
    assert chosen < 0.85 * even
    assert chosen < 0.5 * cheap


def test_best_runs_predicted_width_is_realized():
    rng = np.random.default_rng(0)
    c = np.geomspace(1e10, 1e12, 12)
    y = 0.7 * (c / 1e10) ** -0.1 * np.exp(SD * rng.standard_normal(12))
    fit = fit_law(PowerLaw(), c, y, loss=SQUARES)
    plan = best_runs(fit, 1e14, c, c, 4e12)
    now = prediction_interval(fit, 1e14)
    assert plan.before == pytest.approx(np.log(now.high / now.low) / 2, rel=1e-3)
    more = np.append(c, np.repeat(c, plan.runs))
    ymore = np.append(y, 0.7 * (more[12:] / 1e10) ** -0.1 * np.exp(SD * rng.standard_normal(len(more) - 12)))
    later = fit_law(PowerLaw(), more, ymore, loss=SQUARES)
    interval = prediction_interval(later, 1e14)
    scaled = (
        np.log(interval.high / interval.low) / 2 * fit.residual_sd / later.residual_sd
    )  # with the scatter it assumed
    assert plan.after == pytest.approx(scaled, rel=0.02)


def test_best_runs_of_candidates_that_scatter_more_help_less():
    rng = np.random.default_rng(0)
    c = np.geomspace(1e10, 1e12, 12)
    fit = fit_law(PowerLaw(), c, 0.7 * (c / 1e10) ** -0.1 * np.exp(SD * rng.standard_normal(12)), loss=SQUARES)
    two, costs = np.array([1e11, 1e12]), np.ones(2)
    plain, noisy = (best_runs(fit, 1e14, two, costs, 4, floors=f) for f in (None, np.array([0.0, 0.5])))
    assert plain.runs.tolist() == [0, 4]
    assert noisy.runs[0] > 0
    assert plain.before == noisy.before
    assert plain.after < noisy.after


def test_best_runs_half_width_is_of_ln_y_in_every_space_of_the_loss():
    c = np.geomspace(1e10, 1e12, 12)
    y = 0.7 * (c / 1e10) ** -0.1 * np.exp(1e-4 * np.random.default_rng(0).standard_normal(12))
    widths = [
        best_runs(fit_law(PowerLaw(), c, y, loss=Loss("squares", s)), 1e13, c, c, 1e13)
        for s in ("log", "linear", "log1p")
    ]
    # scatter is constant in another unit in each, but over half a decade of y that changes little
    assert [w.before for w in widths] == pytest.approx([widths[0].before] * 3, rel=0.25)
    assert [w.after for w in widths] == pytest.approx([widths[0].after] * 3, rel=0.25)


def test_best_runs_of_a_line_take_the_most_expensive_end():
    c = np.geomspace(1e10, 1e12, 8)
    fit = fit_law(PowerLaw(), c, 0.7 * (c / 1e10) ** -0.1 * np.exp(SD * np.array([1, -1, 1, -1, 1, -1, 1, -1])))
    plan = best_runs(fit, 1e14, c, np.ones(8), 2.0)  # all cost the same
    assert plan.chosen == [ChosenRun({"flops": pytest.approx(1e12)}, 2, 2.0)]


def test_cheapest_plan_reaches_the_precision_and_less_does_not():
    c = np.geomspace(1e10, 1e12, 8)
    fit = fit_law(PowerLaw(), c, 0.7 * (c / 1e10) ** -0.1 * np.exp(SD * np.array([1, -1, 1, -1, 1, -1, 1, -1])))
    now = best_runs(fit, 1e14, c, c, 1e12).before
    plan = cheapest_plan(fit, 1e14, c, c, now / 2)
    assert plan.after <= now / 2
    less = best_runs(fit, 1e14, c, c, 0.9 * plan.cost)
    assert less.after > now / 2
    assert cheapest_plan(fit, 1e14, c, c, 2 * now).cost == 0


def test_best_runs_impossible_budget_or_width_is_named():
    c = np.geomspace(1e10, 1e12, 8)
    fit = fit_law(PowerLaw(), c, 0.7 * (c / 1e10) ** -0.1 * np.exp(SD * np.array([1, -1, 1, -1, 1, -1, 1, -1])))
    exact = fit_law(PowerLaw(), c[:2], [0.7, 0.6])
    for call, field in (
        (lambda: best_runs(fit, 1e14, c, c, 1e9), "budget"),
        (lambda: best_runs(fit, 1e14, c, -c, 1e12), "costs"),
        (lambda: cheapest_plan(fit, 1e14, c[:1], c[:1], 1e-6), "precision"),
        (lambda: best_runs(exact, 1e14, c, c, 1e13), "fit"),
        (lambda: cheapest_plan(exact, 1e14, c, c, 0.5), "fit"),
    ):
        with raises_user_error(field=field):
            call()


def test_best_runs_of_an_insensitive_forecast_is_refused():
    c = np.geomspace(1e10, 1e12, 8)
    fit = fit_law(SaturatingPowerLaw(ceiling=0.9), c, 0.2 + 0.6 * (c / 1e10) ** -0.3, fixed={})
    with raises_user_error(field="--at"):
        best_runs(fit, 1e2, c, c, 1e12)

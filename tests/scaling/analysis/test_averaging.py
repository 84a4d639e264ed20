"""The average over forms: a mixture whose quantiles, weights and open sides are what they should be."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t

from clip_jax.scaling.analysis.averaging import (
    BY_BIC,
    BY_STACKING,
    MIN_WEIGHT,
    Mixture,
    average,
    fit_statistics,
    forms_not_rejected,
    held_out_densities,
    weights_by_bic,
    weights_by_stacking,
    with_least,
)
from clip_jax.scaling.analysis.frontier_fit import FrontierFit
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import LAWS, BoundedPowerLaw, PowerLaw, SaturatingPowerLaw, SigmoidLogC
from clip_jax.scaling.profile.noise import NO_NOISE, Noise
from clip_jax.scaling.profile.prediction import Prediction
from clip_jax.scaling.profile.profile_likelihood import prediction_profile
from clip_jax.scaling.profile.statistic import scatter

C = np.geomspace(1e10, 1e12, 8)
SQUARES = Loss("squares")


def normal(center, sd, degrees=10_000):
    """Return a prediction of ln(y) that is Student's around a center."""
    root = np.linspace(-4, 4, 81)
    return Prediction(float(np.exp(center)), center + sd * root, root, degrees, -np.inf, np.inf, True)


def fits(y, keys=("power", "saturating", "sigmoid"), noise=None):
    laws = [law for law in LAWS if law.key in keys]
    return {law.key: FrontierFit(fit_law(law, C[: len(y)], y, profile=False), noise or Noise()) for law in laws}


def test_prediction_scattered_adds_in_quadrature():
    run = normal(0.0, 0.3, 6).scattered(0.4).interval()
    assert (run.low, run.high) == pytest.approx(tuple(np.exp(t.ppf((0.025, 0.975), 6) * 0.5)), rel=1e-4)


def test_prediction_beyond_its_last_root_is_open():
    short = Prediction(1.0, np.array([-0.1, 0.0, 0.1]), np.array([-3.0, 0.0, 1.0]), 20, -np.inf, np.inf, True)
    interval = short.interval()
    assert interval.open_high
    assert not interval.open_low
    assert interval.bounded_ends[1] == np.inf
    assert short.cdf(np.array([5.0]))[0] == pytest.approx(t.cdf(1.0, 20))


def test_prediction_unconverged_side_is_open():
    side = Prediction(1.0, normal(0, 1).z, normal(0, 1).root, 20, -np.inf, np.inf, True, (True, False))
    assert side.interval().open_high
    assert not side.interval().open_low


def test_mixture_quantiles_are_those_of_the_mixed_distribution():
    mixture = Mixture(("a", "b"), np.array([0.7, 0.3]), (normal(-1.0, 0.1), normal(-0.5, 0.2)))
    interval = mixture.interval()
    for value, p in ((interval.low, 0.025), (interval.value, 0.5), (interval.high, 0.975)):
        exact = 0.7 * norm.cdf((np.log(value) + 1) / 0.1) + 0.3 * norm.cdf((np.log(value) + 0.5) / 0.2)
        assert exact == pytest.approx(p, abs=2e-3)
    each = [p.interval() for p in mixture.predictions]
    assert mixture.union() == (min(i.low for i in each), max(i.high for i in each))


def test_mixture_union_is_open_where_any_form_is():
    is_open = Prediction(1.0, np.array([0.0, 0.1]), np.array([0.0, 3.0]), 20, -3.0, np.inf, True)
    weights = np.array([0.99, 0.01])
    low, high = Mixture(("a", "b"), weights, (normal(0, 0.1), is_open)).union()
    assert low == -np.inf
    assert np.isfinite(high)
    unconverged = replace(normal(0, 0.1), converged=(True, False))
    assert Mixture(("a", "b"), weights, (normal(0, 0.1), unconverged)).union()[1] == np.inf
    assert Mixture(("a", "b"), weights, (normal(0, 0.1), unconverged), ceiling=1.1).union()[1] == 1.1


def test_mixture_never_exceeds_its_ceiling():
    high = Mixture(("a",), np.array([1.0]), (normal(-0.02, 0.1),), ceiling=0.97)
    assert high.interval().high == 0.97
    assert not high.interval().open_high
    assert high.median <= 0.97


def test_mixture_open_form_opens_it_only_with_weight():
    is_open = Prediction(1.0, np.array([-0.1, 0.0]), np.array([-3.0, 0.0]), 20, -np.inf, np.inf, True)
    heavy = Mixture(("a", "b"), np.array([0.9, 0.1]), (normal(0, 0.1), is_open)).interval()
    light = Mixture(("a", "b"), np.array([0.99, 0.01]), (normal(0, 0.1), is_open)).interval()
    assert heavy.open_high  # 5 % of its mass lies nowhere
    assert not light.open_high


def test_with_least_raises_what_is_kept_and_sums_to_one():
    weights = with_least(np.array([0.96, 0.03, 0.01]), np.array([True, True, False]))
    assert weights.sum() == pytest.approx(1)
    assert weights[1] == pytest.approx(MIN_WEIGHT)
    assert weights[2] < 0.02
    assert with_least(np.array([0.5, 0.5]), np.array([True, True])).tolist() == [0.5, 0.5]


def kept_forms(forms, noise=NO_NOISE):
    return forms_not_rejected(forms, [s["p"] for s in fit_statistics(forms, noise)], noise)


def test_weights_by_bic_reject_a_form_that_does_not_fit():
    noise = np.exp(0.005 * np.random.default_rng(0).standard_normal(8))
    fitted = fits((0.25 + 600 * C**-0.3) * noise)
    forms = [f.fit for f in fitted.values()]
    statistics = fit_statistics(forms)
    p = dict(zip(fitted, (s["p"] for s in statistics), strict=True))
    kept = kept_forms(forms)
    raw = weights_by_bic(np.array([s["bic"] for s in statistics]))
    weights = dict(zip(fitted, with_least(raw, kept), strict=True))
    assert p["power"] < 0.01 < p["saturating"]
    assert dict(zip(fitted, kept, strict=True)) == {"power": False, "saturating": True, "sigmoid": False}
    assert weights["saturating"] > 0.9
    assert weights["power"] < 0.05


def test_forms_not_rejected_one_high_point_does_not_reject_the_true_form():
    y = 0.6 * (C[:6] / C[0]) ** -0.15 * np.exp(0.006 * np.random.default_rng(3).standard_normal(6))
    y[-1] *= 1.1  # looks like a plateau
    forms, noise = [f.fit for f in fits(y, ("power", "saturating")).values()], Noise(0.01, 12)
    power, saturating = (s["p"] for s in fit_statistics(forms, noise))
    assert power < 0.01 < saturating
    assert kept_forms(forms, noise).all()


def test_forms_not_rejected_leaving_out_a_point_equals_fitting_the_others():
    y = (0.2 + 300 * C**-0.3) * np.exp(0.01 * np.random.default_rng(3).standard_normal(8))
    y[3] *= 0.8
    forms = [f.fit for f in fits(y).values()]
    best = np.array([s["p"] for s in fit_statistics(forms)])
    for i in range(8):
        some = np.arange(8) != i
        without = [fit_law(f.law, C[some], y[some], profile=False) for f in forms]
        best = np.maximum(best, [s["p"] for s in fit_statistics(without)])
    assert kept_forms(forms).tolist() == (best >= 0.01).tolist()


def test_forms_not_rejected_a_form_without_a_degree_of_freedom_is_kept():
    y = 0.6 * (C[:4] / C[0]) ** -0.15 * np.exp(0.05 * np.random.default_rng(2).standard_normal(4))
    forms = [f.fit for f in fits(y).values()]  # without one point: three points, three parameters
    assert kept_forms(forms).tolist()[1:] == [True, True]


def test_fit_statistics_seeds_that_scatter_less_reject_more():
    y = 0.6 * (C / C[0]) ** -0.15 * np.exp(0.02 * np.random.default_rng(1).standard_normal(8))
    kept = [f.fit for f in fits(y, ("power", "sigmoid")).values()]
    alone, with_seeds = (fit_statistics(kept, n) for n in (Noise(), Noise(0.002, 30)))
    assert min(s["p"] for s in with_seeds) < min(s["p"] for s in alone)


def test_weights_by_stacking_maximize_the_held_out_log_score():
    densities = np.array([[1.0, 0.2, 1.0], [0.2, 1.0, 0.2]])
    weights = weights_by_stacking(densities)
    grid = np.linspace(0, 1, 1001)
    scores = [np.log(w * densities[0] + (1 - w) * densities[1]).sum() for w in grid]
    assert weights[0] == pytest.approx(grid[int(np.argmax(scores))], abs=0.01)


def test_held_out_densities_are_those_of_the_bands_with_the_degrees_of_residuals_and_seeds_together():
    noise, aside = Noise(0.02, 30), np.array([1, -1, 1, -1, 1, 3, -3, 3])
    y = 0.6 * (C / C[0]) ** -0.15 * np.exp(0.015 * aside)
    held_out = held_out_densities(
        {"power": FrontierFit(fit_law(PowerLaw(), C, y, loss=SQUARES, profile=False), noise)}
    )[0]
    for m, density in zip(range(5, 8), held_out, strict=True):
        before = fit_law(PowerLaw(), C[:m], y[:m], loss=SQUARES)
        run = prediction_profile(before, C[m], noise=noise).scattered(scatter(before, noise))
        assert run.degrees == m - 2 + 30
        rise = np.diff(run.cdf(np.log(y[m]) + np.array([-0.005, 0.005])))[0] / 0.01
        assert density == pytest.approx(rise, rel=0.05)


def test_average_uses_stacking_only_where_every_form_was_tested():
    rng = np.random.default_rng(0)
    few = average(fits(0.6 * (C / C[0]) ** -0.15 * np.exp(0.01 * rng.standard_normal(8)), ("power", "bounded")))
    assert few.rule == BY_BIC
    x = np.geomspace(1e10, 1e13, 14)
    y = 0.6 * (x / x[0]) ** -0.15 * np.exp(0.01 * rng.standard_normal(14))
    many = average({w.key: FrontierFit(fit_law(w, x, y, profile=False)) for w in (PowerLaw(), SaturatingPowerLaw())})
    assert many.rule == BY_STACKING
    assert many.weights.min() >= MIN_WEIGHT - 1e-12


def test_average_leaves_out_a_form_that_nothing_tests():
    y = 0.6 * (C[:4] / C[0]) ** -0.15
    averaged = average(fits(y * np.exp([0.01, -0.01, 0.01, -0.01]), ("power", "shifted")))
    assert list(averaged.fitted) == ["power"]
    assert list(averaged.left_out) == ["shifted"]
    assert average({}) is None


def test_average_a_true_floor_is_inside_the_band_that_a_power_law_misses():
    y = (0.25 + 0.65 * (C[:6] / C[0]) ** -0.3) * np.exp(0.01 * np.random.default_rng(3).standard_normal(6))
    averaged = average(fits(y, [w.key for w in LAWS], Noise(0.01, 12)))
    truth = 0.25 + 0.65 * (C[5] * 10 / C[0]) ** -0.3
    low, high = averaged.forecast(C[5] * 10)["curve"]
    assert low < truth < high
    assert averaged.fitted["power"].curve_at(C[5] * 10).high < truth


def test_bands_meet_the_mixture_at_the_knots():
    averaged = average(fits(0.6 * (C / C[0]) ** -0.15 * np.exp(0.01 * np.random.default_rng(0).standard_normal(8))))
    at = C.max() * 10
    band = averaged.bands(np.array([C.max(), at]))
    curve, run = averaged.curve_at(at).interval(), averaged.run_at(at).interval()
    assert band["median"][1] == pytest.approx(curve.value)
    assert (band["low"][1], band["high"][1]) == pytest.approx((curve.low, curve.high))
    assert (band["run_low"][1], band["run_high"][1]) == pytest.approx((run.low, run.high))
    assert band["run_low"][1] < band["low"][1]


def test_bounded_law_limits_are_the_simpler_laws():
    x = {"flops": np.log(C)}
    sigmoid = SigmoidLogC().curve({"top": 0.9, "k": 0.5, "C_half": 1e11}, x, np)
    bounded = BoundedPowerLaw().curve({"E": 0.0, "top": 0.9, "b": 0.5, "c": 1e11}, x, np)
    np.testing.assert_allclose(bounded, sigmoid, rtol=1e-12)
    far = BoundedPowerLaw().curve({"E": 0.1, "top": 0.9, "b": 0.2, "c": 1e-10}, x, np)
    saturating = SaturatingPowerLaw().curve({"E": 0.1, "a": 0.8 * 1e-10**0.2, "b": 0.2}, x, np)
    np.testing.assert_allclose(far, saturating, rtol=2e-3)

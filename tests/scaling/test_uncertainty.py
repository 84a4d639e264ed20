"""Intervals that cover, forecasts that are checked."""

import numpy as np
import pytest

from clip_jax.scaling.fit import fit_law
from clip_jax.scaling.laws import PowerLaw
from clip_jax.scaling.uncertainty import bootstrap, exponent_of, extrapolation_scores, forecast_check

C = np.geomspace(1e10, 1e12, 6)


def test_the_interval_of_the_exponent_covers_it():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        errors = 0.7 * (C / C[0]) ** -0.1 * np.exp(0.02 * rng.standard_normal(6))
        e = exponent_of(bootstrap(fit_law(PowerLaw(), C, errors), C, replicas=100, seed=trial))
        covered += e["low"] <= 0.1 <= e["high"]
    assert covered >= 88, f"a 95 % interval covered {covered} of 100"


def test_more_scatter_means_a_wider_interval():
    def width(sd, degrees):
        fit = fit_law(PowerLaw(), C, 0.7 * (C / C[0]) ** -0.1 * np.exp([0.01, -0.01, 0.01, -0.01, 0.01, -0.01]))
        e = exponent_of(bootstrap(fit, C, seed_sd=sd, seed_degrees=degrees))
        return e["high"] - e["low"]

    assert width(0.05, 6) > 2 * width(0.0, 0)
    assert width(0.001, 6) == width(0.0, 0)


def test_the_same_seed_gives_the_same_interval():
    fit = fit_law(PowerLaw(), C, 0.7 * (C / C[0]) ** -0.1 * np.exp([0.01, -0.01, 0.02, -0.01, 0.01, 0.0]))
    assert exponent_of(bootstrap(fit, C, seed=3)) == exponent_of(bootstrap(fit, C, seed=3))


def test_the_band_of_a_measurement_is_wider_than_that_of_the_law():
    fit = fit_law(PowerLaw(), C, 0.7 * (C / C[0]) ** -0.1 * np.exp([0.01, -0.01, 0.02, -0.01, 0.01, 0.0]))
    ensemble = bootstrap(fit, C)
    (low, high), (inner_low, inner_high) = ensemble.band(C), ensemble.band(C, observation=False)
    assert (high - low > inner_high - inner_low).all()
    assert ((low < fit.predict(C)) & (fit.predict(C) < high)).all()


@pytest.mark.parametrize("form", ["power law", "sigmoid in log C"])
def test_the_true_form_wins_by_extrapolation(curves, form):
    c = np.geomspace(1e10, 1e13, 8)
    assert extrapolation_scores(c, curves[form](c))[0]["form"] == form


def test_forecasts_beat_the_naive_guess_on_a_law():
    noise = np.array([1, -1, 1, 1, -1, 0.5]) * 0.003
    rows = forecast_check(C, 0.7 * (C / C[0]) ** -0.1 * np.exp(noise))
    row = rows[0]
    assert row["form"] == "power law"
    assert row["beats_naive"]
    assert abs(row["error"]) < abs(row["naive_error"]) / 5
    assert row["width"] == pytest.approx(row["high"] - row["low"])
    assert row["error"] == pytest.approx(row["predicted"] - row["measured"])


def test_no_law_no_win():
    flat = 0.5 * np.exp([0.0, 0.05, -0.04, 0.03, -0.05, 0.05])
    assert not forecast_check(C, np.append(flat[:5], flat[4]))[0]["beats_naive"]


def test_a_band_wider_than_the_error_is_no_forecast():
    wild = np.exp([0.0, -1.5, 0.7, -2.0, 0.5, -2.5]) * 0.3
    row = forecast_check(C, wild)[0]
    assert row["verdict"].startswith("no forecast")
    assert not row["beats_naive"]


def test_four_budgets_are_too_few_to_check():
    assert forecast_check(C[:4], C[:4] ** -0.1) == []
    assert extrapolation_scores(C[:4], C[:4] ** -0.1) == []


def test_a_form_that_pins_itself_into_a_simpler_one_does_not_win():
    rng = np.random.default_rng(0)
    for _ in range(10):
        errors = 0.7 * (C[:5] / C[0]) ** -0.1 * np.exp(0.01 * rng.standard_normal(5))
        order = [r["form"] for r in extrapolation_scores(C[:5], errors)]  # E is pinned at 0: the same curve twice
        assert order.index("power law") < order.index("saturating power law")

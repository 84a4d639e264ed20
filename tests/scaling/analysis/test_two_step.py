"""Two-step forecasts: what the interval carries, planted tables, and losses that must not be mixed."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.analysis.two_step import fit_two_step
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import ExponentialLink, OverTraining, PowerLaw, SaturatingPowerLaw
from clip_jax.scaling.profile.profile_likelihood import prediction_interval

from ...user_errors import raises_user_error

BENCHMARK = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "fit_two_step.py"))
FLOPS = np.geomspace(1e18, 1e21, 12)


def table(loss_sd=0.005, error_sd=0.01, seed=0):
    rng = np.random.default_rng(seed)
    loss = 4.5 * (FLOPS / 1e18) ** -0.06 * np.exp(loss_sd * rng.standard_normal(12))
    error = 0.85 - 2.08 * np.exp(-0.756 * loss)
    return loss, error * np.exp(error_sd * rng.standard_normal(12))


def fitted(**options):
    loss, error = table(**options)
    squares = (Loss("squares"), Loss("squares"))
    return fit_two_step(PowerLaw(), FLOPS, loss, ExponentialLink(), error, objectives=squares, fixed=({}, {}))


@pytest.fixture(scope="module")
def both():
    return fitted()


def test_two_step_forecast_composes_both_steps(both):
    wanted = both.second.predict(both.first.predict(1e22))
    assert both.forecast(1e22, draws=20).error.value == pytest.approx(float(wanted))
    assert both.predict(np.array([1e21, 1e22])).shape == (2,)


@pytest.mark.parametrize("method", ["parametric", "cases"])
def test_two_step_interval_is_wider_than_with_a_fixed_loss(method):
    forecast = fitted(loss_sd=0.02, error_sd=0.002).forecast(1e22, method=method, draws=300)
    assert forecast.error.width > 1.5 * forecast.fixed_loss.width


def test_two_step_interval_with_an_exact_loss_equals_the_second_step():
    forecast = fitted(loss_sd=1e-6).forecast(1e22, draws=300)
    assert forecast.error.width == pytest.approx(forecast.fixed_loss.width, rel=1e-2)


def test_two_step_profile_agrees_with_the_parametric_bootstrap(both):
    profile, redrawn = (both.forecast(1e22, method=m, draws=1000).error for m in ("profile", "parametric"))
    assert profile.low == pytest.approx(redrawn.low, rel=0.02)
    assert profile.high == pytest.approx(redrawn.high, rel=0.02)
    alone = prediction_interval(both.second, float(both.first.predict(1e22)))
    # the loss is nearly known here: never narrower than the second step alone, up to the last digit
    assert profile.low <= alone.low * (1 + 1e-9)
    assert profile.high >= alone.high * (1 - 1e-9)


def test_two_step_new_run_is_wider_than_the_curve(both):
    curve, run = (both.forecast(1e22, new_run=n, draws=300) for n in (False, True))
    assert run.error.width > curve.error.width
    assert run.loss.width > curve.loss.width


@pytest.mark.parametrize("method", ["parametric", "profile"])
def test_two_step_parameter_at_a_bound_opens_the_band(both, method):
    loss, error = table()
    bounds = {"top": (0.5, 0.75)}  # 0.85 was planted: with room, the curve at a small loss would lie higher
    link = fit_law(ExponentialLink(), loss, error, loss=Loss("squares"), bounds=bounds, fixed={})
    assert link.status == "bound hit: top"
    forecast = replace(both, second=link).forecast(1e23, method=method, draws=100)
    assert forecast.error.open_high
    assert forecast.fixed_loss.open_high
    assert method == "profile" or not forecast.error.open_low  # the profile also meets curves that reach 0
    assert not forecast.loss.open_high
    assert "none]" in forecast.text
    assert forecast.as_data()["error"]["high"] is None
    free = both.forecast(1e23, method=method, draws=100)
    assert not free.error.open_high
    assert free.error.value > forecast.error.value


def test_two_step_first_step_at_a_bound_opens_both_bands():
    loss, _ = table()
    first = fit_law(PowerLaw(), FLOPS, loss, loss=Loss("squares"), bounds={"b": (0.001, 0.05)}, fixed={})
    assert first.status == "bound hit: b"
    forecast = replace(fitted(), first=first).forecast(1e23, draws=100)
    assert (forecast.loss.open_low, forecast.loss.open_high) == (True, False)  # steeper, it would lie lower
    assert (forecast.error.open_low, forecast.error.open_high) == (True, False)
    assert not forecast.fixed_loss.open_low


def test_two_step_asymptote_at_zero_opens_nothing():
    loss, error = table(seed=0)
    squares = (Loss("squares"), Loss("squares"))
    held = fit_two_step(SaturatingPowerLaw(), FLOPS, loss, ExponentialLink(), error, objectives=squares, fixed=({}, {}))
    assert held.first.status == "bound hit: E"
    assert not held.forecast(1e23, draws=100).loss.open_low


def test_two_step_without_degrees_of_freedom_has_open_bands():
    loss, error = table()
    rows = np.arange(3)
    both = fit_two_step(
        PowerLaw(), FLOPS, loss, ExponentialLink(), error, second_rows=rows, fixed=({}, {})
    ).forecast(1e22, draws=50)  # fmt: skip
    assert both.error.open_low
    assert both.error.open_high
    assert not both.loss.open_low


def test_two_step_intervals_cover_planted_tables():
    # The smallest form of the benchmark: 200 tables cover 92 to 98 %.
    coverage = BENCHMARK["coverage"](BENCHMARK["CASES"]["power, exponential, 10 runs"], 10, "parametric", draws=100)
    assert all(min(shares[:2]) >= 0.7 for shares in coverage.values())


def test_fit_two_step_several_batch_sizes_are_refused():
    loss, error = table()
    batch = np.repeat([1024, 2048], 6)
    with raises_user_error(field="batch_size", reason="1024, 2048"):
        fit_two_step(PowerLaw(), FLOPS, loss, ExponentialLink(), error, constant={"batch_size": batch})
    one = np.flatnonzero(batch == 1024)
    both = fit_two_step(
        PowerLaw(), FLOPS, loss, ExponentialLink(), error,
        first_rows=one, second_rows=one, constant={"batch_size": batch}, fixed=({}, {}),
    )  # fmt: skip
    assert both.first.points == 6


def test_fit_two_step_link_of_another_column_is_refused():
    loss, error = table()
    with raises_user_error(field="link", value="power"):
        fit_two_step(PowerLaw(), FLOPS, loss, PowerLaw(), error)


@pytest.mark.parametrize(
    ("change", "field"), [({"method": "jackknife"}, "two_step.method"), ({"at": np.array([1e21, 1e22])}, "at")]
)
def test_two_step_impossible_forecasts_are_refused(both, change, field):
    with raises_user_error(field=field):
        both.forecast(**{"at": 1e22, **change})


def test_two_step_reproduces_a_published_forecast(tables):
    df = pd.read_csv(tables / "gadre_overtrain_c4.csv")
    small = (df["N"] < 5e8) & (df["token_multiplier"] == 20)
    first = small | ((df["N"] < 2e7) & (df["token_multiplier"] == 320))
    second = first | ((df["N"] > 1e9) & (df["N"] < 2e9) & (df["token_multiplier"] == 20))
    squares = (Loss("squares", "linear"), Loss("squares", "linear"))
    both = fit_two_step(
        OverTraining(), {"params": df["N"], "samples_seen": df["D"]}, df["loss_c4_val"], ExponentialLink(),
        df["err_avg17"], first_rows=first, second_rows=second, objectives=squares, fixed=({}, {}),
    )  # fmt: skip
    run = df[df["N"] > 6e9].iloc[0]
    forecast = both.forecast({"params": run["N"], "samples_seen": run["D"]}, draws=200)
    assert forecast.loss.value == pytest.approx(2.27990, abs=1e-3)
    assert forecast.error.value == pytest.approx(0.47892, abs=1e-3)
    assert run["err_avg17"] in forecast.error

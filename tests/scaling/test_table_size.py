"""Tables of many rows: one-step intervals against the profile, what is drawn, the smallest form of the benchmark."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.analysis.frontier_fit import NOT_PROFILED, PARETO, fit_frontier
from clip_jax.scaling.fit.solver import MANY_ROWS, table_of
from clip_jax.scaling.fit_law import fit_law, fit_once
from clip_jax.scaling.frontier.frontier import pareto
from clip_jax.scaling.laws import BoundedPowerLaw, PowerLaw, SaturatingPowerLaw
from clip_jax.scaling.profile import profile_likelihood as profile
from clip_jax.scaling.profile.noise import NO_NOISE
from clip_jax.scaling.profile.profile_likelihood import parameter_interval, prediction_interval
from clip_jax.scaling.profile.statistic import ONE_STEP_PROFILE, PROFILED, interval_method
from clip_jax.scaling.report.figures.drawn import MAX_RUNS_DRAWN, drawn_rows, drawn_text
from clip_jax.scaling.uncertainty.bootstrap import bootstrap_frontier, from_covariance

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "table_size.py"))


def planted(rows, floor=0.2):
    rng = np.random.default_rng(0)
    c = np.exp(rng.uniform(np.log(1e10), np.log(1e14), rows))
    return c, (floor + 0.6 * (c / 1e10) ** -0.3) * np.exp(0.02 * rng.standard_normal(rows))


@pytest.fixture(scope="module")
def many():
    return fit_law(SaturatingPowerLaw(), *planted(MANY_ROWS + 904), fixed={})


def test_one_step_intervals_agree_with_the_profile(many, monkeypatch):
    assert interval_method(many) == ONE_STEP_PROFILE
    assert many.flat == ()
    at = 1e15
    quick = [parameter_interval(many, n) for n in many.law.names] + [prediction_interval(many, at)]
    monkeypatch.setattr(profile, "is_quadratic", lambda *_: False)
    slow = [parameter_interval(many, n) for n in many.law.names] + [prediction_interval(many, at)]
    for a, b in zip(quick, slow, strict=True):
        assert a.low == pytest.approx(b.low, abs=0.04 * b.width)
        assert a.high == pytest.approx(b.high, abs=0.04 * b.width)


@pytest.fixture
def frontier_points():
    """Return points of a frontier of more than FEW_OF_LARGE."""
    return planted(250)


def test_intervals_of_a_large_frontier_agree_with_those_of_all_starts(frontier_points):
    at = 1e15
    spans = {}
    for rows in (100, 100_000):
        with table_of(rows):
            fit = fit_law(SaturatingPowerLaw(), *frontier_points)
            assert fit.identified
            spans[rows] = [parameter_interval(fit, n) for n in fit.law.names] + [prediction_interval(fit, at)]
    assert spans[100] != spans[100_000]
    for a, b in zip(*spans.values(), strict=True):
        assert a.low == pytest.approx(b.low, abs=0.05 * b.width)
        assert a.high == pytest.approx(b.high, abs=0.05 * b.width)


def test_band_of_a_large_frontier_on_a_bound_is_that_of_all_starts():
    c = planted(250)[0]
    y = (0.15 + 0.75 * (1 + c / 3e10) ** -0.3) * np.exp(0.02 * np.random.default_rng(1).standard_normal(250))
    spans = []
    for rows in (100, 100_000):
        with table_of(rows):
            fit = fit_law(BoundedPowerLaw(), c, y, profile=False)
            assert fit.status == "bound hit: top"
            spans.append(prediction_interval(fit, 1e15))
    assert spans[1].bounded_ends == pytest.approx(spans[0].bounded_ends, abs=0.01 * spans[0].width)


def test_fit_frontier_not_reported_has_no_intervals(frontier_points):
    points = pd.DataFrame(dict(zip(("flops", "error"), frontier_points, strict=True)))
    fitted = fit_frontier(
        PowerLaw(), points, points, rule=PARETO, noise=NO_NOISE, planned=False, profiled=False
    )  # fmt: skip
    assert fitted.reselected is None
    assert all(i.open_low and i.open_high for i in fitted.intervals.values())
    bands = fitted.bands(np.array([1e11, 1e15]))
    assert np.isfinite(bands["y"]).all()
    assert np.isnan([bands[k] for k in ("low", "high", "run_low", "run_high")]).all()
    assert NOT_PROFILED in fitted.warnings()
    assert fitted.as_data()["interval_kind"] == NOT_PROFILED


def test_fit_once_caches_equal_points():
    c, y = planted(12)
    assert fit_once(PowerLaw(), c, y, fixed={}) is fit_once(PowerLaw(), c.copy(), y.copy(), fixed={})
    assert fit_once(PowerLaw(), c[:11], y[:11], fixed={}).points == 11
    held = fit_once(PowerLaw(), c, y, fixed={"b": 0.3})
    assert held.values["b"] == pytest.approx(0.3)


def test_interval_of_an_unidentified_large_fit_is_profiled():
    rng = np.random.default_rng(1)
    c = np.exp(rng.uniform(np.log(1e10), np.log(1e14), MANY_ROWS + 1))
    fit = fit_law(SaturatingPowerLaw(), c, 0.9 * (c / 1e10) ** -0.2 * np.exp(0.05 * rng.standard_normal(len(c))))
    assert interval_method(fit) == PROFILED or not fit.flat
    few = fit_law(PowerLaw(), c[:50], c[:50] ** -0.1)
    assert interval_method(few) == PROFILED


def test_fit_law_of_many_rows_screens_starts_on_some_and_ends_at_the_optimum(many):
    c, y = planted(MANY_ROWS + 904)
    again = fit_law(SaturatingPowerLaw(), c, y, fixed={}, starts=many.theta[None] + 1e-3, profile=False)
    assert many.objective == pytest.approx(again.objective, rel=1e-9)
    assert any(f"{MANY_ROWS} of the {len(c)} rows" in note for note in many.notes)


def test_from_covariance_draws_have_the_one_step_covariance(many):
    spread = from_covariance(many, replicas=4000).spread("b")
    interval = parameter_interval(many, "b")
    assert spread == pytest.approx(interval.width / 2 / 1.96, rel=0.05)


def test_bootstrap_frontier_selects_once_for_all_laws():
    c, y = planted(400)
    calls = []

    def lowest(x, y):
        calls.append(len(x))
        return np.argsort(y)[:20]

    for law in (PowerLaw(), SaturatingPowerLaw()):
        bootstrap_frontier(law, c, y, lowest, replicas=10, share=0.7, profile=False)
    assert len(calls) == 11  # ten resamples and the table itself


def cloud(rows):
    """Return what the figure reads: rows, and the frontier they hold."""
    df = BENCHMARK["table"](rows).assign(budget=lambda d: d["flops"])
    points = df.iloc[pareto(df["flops"].to_numpy(), df["error_mean"].to_numpy())]
    return SimpleNamespace(rows=df, frontier=SimpleNamespace(points=points))


def test_drawn_rows_of_many_runs_are_some_and_the_whole_frontier():
    drawn = cloud(MAX_RUNS_DRAWN + 500)
    shown = drawn_rows(drawn)
    assert MAX_RUNS_DRAWN <= len(shown) <= MAX_RUNS_DRAWN + len(drawn.frontier.points)
    assert set(drawn.frontier.points["flops"]) <= set(shown["flops"])
    assert {drawn.rows["flops"].min(), drawn.rows["flops"].max()} <= set(shown["flops"])
    assert drawn_text(drawn).endswith(f"of {MAX_RUNS_DRAWN + 500:,} runs drawn")


def test_drawn_rows_of_few_runs_are_all():
    drawn = cloud(30)
    assert drawn_rows(drawn) is drawn.rows
    assert drawn_text(drawn) == ""


def test_table_size_benchmark_measures_a_process(tmp_path):
    seconds, cpu, gb = BENCHMARK["measured"]([sys.executable, "-c", "print(sum(range(10**6)))"], tmp_path)
    assert 0 < cpu < 20
    assert seconds > 0
    assert 0.001 < gb < 1
    with pytest.raises(RuntimeError, match="planted"):  # what the process wrote
        BENCHMARK["measured"]([sys.executable, "-c", "raise SystemExit('plant' + 'ed')"], tmp_path)

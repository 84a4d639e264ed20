"""Approaches 1 and 2: planted exponents, the errors of valleys, and what is refused."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.frontier.approaches import fit_envelope, fit_valleys, random_effects_line
from clip_jax.scaling.frontier.isoflop import lowest_point
from clip_jax.scaling.frontier.valleys import lowest_points

from ...user_errors import raises_user_error

BENCHMARK = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "fit_approaches.py"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("way", ["parabola", "cubic", "akima"])
def test_lowest_points_equal_those_computed_one_by_one(rng, way):
    x = np.sort(rng.uniform(-2, 2, 9))
    ys = 0.1 * (x - 0.3) ** 2 + 0.02 * x**3 + 0.15 * rng.standard_normal((60, 9))
    wanted = [np.nan if (low := lowest_point(x, y, way).x) is None else low for y in ys]
    lows = lowest_points(x, ys, way)
    assert 0 < np.isnan(lows).sum() < 60
    np.testing.assert_allclose(lows, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["2, parabola", "2, akima", "1, envelope, 40 sizes"])
def test_approach_intervals_cover_planted_exponents(name):
    # The smallest form of the benchmark: 200 tables cover 96 to 100 %.
    shares, identified = BENCHMARK["coverage"](BENCHMARK["CASES"][name], 10, draws=100)
    assert identified == 1
    assert all(held >= 0.7 for held, _, _ in shares.values())
    assert abs(shares["a"][1]) < 0.05


def test_fit_valleys_intervals_widen_with_the_scatter(rng):
    quiet, loud = (fit_valleys(BENCHMARK["isoflop_table"](rng, noise=n)) for n in (0.001, 0.008))
    assert loud.noise_sd == pytest.approx(0.008, rel=0.3)
    assert loud.params.exponent.width > 3 * quiet.params.exponent.width
    assert loud.valleys[0].log_params_se > 3 * quiet.valleys[0].log_params_se


def test_fit_valleys_uses_the_noise_of_seeds(rng):
    result = fit_valleys(BENCHMARK["isoflop_table"](rng, sizes=5, seeds=4, noise=0.004))
    assert result.noise_sd == pytest.approx(0.004, rel=0.2)


def test_fit_valleys_given_noise_replaces_the_estimate(rng):
    runs = BENCHMARK["isoflop_table"](rng)
    assert fit_valleys(runs, noise_sd=0.02).noise_sd == 0.02


def test_fit_valleys_without_a_certain_minimum_gives_none(rng):
    runs = BENCHMARK["isoflop_table"](rng, low=0.9, high=2.0, noise=0.01)
    result = fit_valleys(runs, noise_sd=0.01)
    assert result.params is None
    assert result.samples is None
    assert all(v.status != "accepted" for v in result.valleys)
    assert result.as_data()["status"] == result.status


def test_power_of_compute_at_a_budget_lies_inside_its_interval(rng):
    at = fit_valleys(BENCHMARK["isoflop_table"](rng)).params.at(1e22)
    assert at.low < at.value < at.high
    assert at.value == pytest.approx(float(BENCHMARK["LAW"].optimum(BENCHMARK["TRUTH"], 1e22)[0]), rel=0.2)


def test_fit_envelope_of_few_runs_is_refused(rng):
    with raises_user_error(field="run_id", value=4):
        fit_envelope(BENCHMARK["curve_table"](rng, sizes=4))


def test_fit_envelope_at_the_edge_of_the_sizes_is_not_identified(rng):
    curves = BENCHMARK["curve_table"](rng, sizes=8)
    few = curves[curves["params"].isin(np.sort(curves["params"].unique())[:2])]
    six = pd.concat([few.assign(run_id=few["run_id"] + str(i)) for i in range(3)])
    assert fit_envelope(six).params is None


@pytest.mark.parametrize(("column", "value"), [("loss", 0.0), ("params", np.nan), ("budget", -1.0)])
def test_fit_valleys_impossible_numbers_are_refused(rng, column, value):
    runs = BENCHMARK["isoflop_table"](rng)
    runs.loc[3, column] = value
    with raises_user_error(source="row 3", field=column):
        fit_valleys(runs)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"y": "error"}, "error"),
        ({"space": "sqrt"}, "space"),
        ({"way": "spline"}, "isoflop.way"),
        ({"draws": 3}, "draws"),
    ],
)
def test_fit_valleys_unknown_options_are_refused(rng, options, field):
    with raises_user_error(field=field):
        fit_valleys(BENCHMARK["isoflop_table"](rng), **options)


def test_fit_valleys_intervals_hold_published_exponents(tables):
    runs = pd.read_csv(tables / "porian_isoflop_dev.csv")
    for config, published in (("kaplan|kaplan|train", 0.8338), ("const|standard|val", 0.4970)):
        rows = runs[runs["config"].str.endswith(config)]
        result = fit_valleys(rows, budget="flops", params="n", samples="tokens", way="akima")
        assert published in result.params.exponent
        assert result.params.exponent.value == pytest.approx(published, abs=0.01)
    marin = fit_valleys(pd.read_csv(tables / "isoflop_marin_nemotron.csv"), samples="tokens", space="linear")
    assert 0.4224 in marin.params.exponent
    assert 0.5532 in marin.samples.exponent


def test_line_through_exact_points_adds_no_scatter():
    x = np.linspace(40, 46, 5)
    power, extra = random_effects_line(x, 0.5 * x - 1, np.full(5, 0.1), degrees=10_000, level=0.95)
    assert extra == 0
    assert power.exponent.value == pytest.approx(0.5)
    assert power.exponent.width == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(((x - x.mean()) ** 2).sum()), rel=1e-3)
    assert power.at(np.exp(43.0)).value == pytest.approx(np.exp(20.5))


def test_line_through_scattered_points_is_wider(rng):
    x = np.linspace(40, 46, 6)
    power, extra = random_effects_line(
        x, 0.5 * x + 0.3 * rng.standard_normal(6), np.full(6, 0.01), degrees=50, level=0.95
    )
    assert extra > 0.05
    assert power.exponent.width > 5 * 2 * 1.96 * 0.01 / np.sqrt(((x - x.mean()) ** 2).sum())


def test_approaches_unusable_table_names_the_column():
    df = pd.DataFrame({"budget": 1e18, "params": [1e6, 1e7, -1e8], "samples_seen": 1e9, "loss": [3.0, 2.5, 2.8]})
    for table, options, field, value in (
        (df.drop(columns="loss"), {}, "loss", None),
        (df, {}, "params", -1e8),
        (df.abs(), {"draws": 3}, "draws", 3),
        (df.abs(), {"space": "log1p"}, "space", "log1p"),
        (df.abs(), {}, "params", None),  # no seeds, no spare size
    ):
        with raises_user_error(field=field, value=value):
            fit_valleys(table, **options)
    curves = pd.DataFrame({"run_id": "a", "flops": [1e18], "params": 1e6, "samples_seen": 1e9, "loss": 3.0})
    with raises_user_error(field="run_id", value=1):
        fit_envelope(curves)

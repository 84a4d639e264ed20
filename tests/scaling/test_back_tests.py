"""Back-tests of forecasts (`benchmarks/back_tests.py`) on tables with a known law."""

import runpy
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BUDGETS = np.geomspace(1e10, 2e13, 10)


@pytest.fixture(scope="module")
def bench():
    return runpy.run_path(str(ROOT / "benchmarks" / "back_tests.py"))


def planted(bench, planned=True):
    y = 0.1 + 0.6 * (BUDGETS / 1e10) ** -0.2 * np.exp(0.01 * np.random.default_rng(0).standard_normal(10))
    return bench["Series"]("planted", bench["runs"](BUDGETS, y, budget=BUDGETS if planned else None))


def test_tests_of_table_cut_below_largest(bench):
    series = planted(bench)
    tests = bench["tests_of"](series)
    assert [t.cut for t in tests] == [3, 10, 30]
    for test in tests:
        assert test.df["flops"].max() <= BUDGETS[-1] / test.cut * (1 + 1e-9) < test.ahead["flops"].min()
        assert len(test.df) + len(test.ahead) == 10


def test_tests_of_cloud_runs_beaten_later_not_ahead(bench):
    series = planted(bench, planned=False)
    series.df.loc[9, "value"] = 1.0  # the largest run is the worst: it is on no frontier
    assert [len(t.ahead) for t in bench["tests_of"](series)] == [1, 2, 4]


def test_judged_planted_bands_counted_by_side(bench):
    (test, *_) = bench["tests_of"](planted(bench))
    y = float(test.ahead["error"].iloc[0])
    n = len(test.ahead)
    judged = bench["judged"](test, {"bands": [[0.9 * y, y, 1.1 * y]] + [[0.5, 0.6, None]] * (n - 1)})
    assert (judged["n"], judged["inside"], judged["below"], judged["above"]) == (n, 1, n - 1, 0)
    assert len(judged["misses"]) == n - 1


@pytest.mark.thorough
def test_forecast_planted_table_holds_what_lies_ahead(bench):  # thorough
    (_, test, _) = bench["tests_of"](planted(bench))
    forecast = bench["forecast"](**test.asked)
    judged = bench["judged"](test, forecast)
    assert judged["inside"] == judged["n"] == 3
    assert abs(judged["bias"]) < 0.1


@pytest.mark.thorough
def test_old_forecasts_of_this_commit_made_by_its_own_package(bench):  # thorough
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("no git here")
    (test, *_) = bench["tests_of"](planted(bench))
    (old,) = bench["old_forecasts"]([test.asked], "HEAD")
    new = bench["forecast"](**test.asked)
    assert np.allclose(old["bands"], new["bands"], rtol=1e-6)

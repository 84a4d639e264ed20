"""The simulation of whole sweeps (`benchmarks/forecast_coverage.py`) in its smallest form."""

import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.frontier.frontier import compute_optimal
from clip_jax.scaling.planning import preregistration as registration


@pytest.fixture(scope="module")
def bench():
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "forecast_coverage.py"))


def sweep_of(bench, name, index=0):
    return bench["Sweep"](bench["CASES"][name], np.random.default_rng(index))


def test_sweep_best_size_has_three_seeds(bench):
    df = sweep_of(bench, "power").runs(6)
    best = compute_optimal(df, bench["METRIC"])
    assert list(best["seeds"]) == [3] * 6
    assert (df.groupby("budget")["params"].nunique() == 5).all()
    assert best["budget"].max() / best["budget"].min() == pytest.approx(100)


def test_sweep_pictures_common_to_all_runs(bench):
    quiet = bench["replace"](bench["CASES"]["power, 516 pictures"], sd=0.0)
    sweep = bench["Sweep"](quiet, np.random.default_rng(0))
    errors = np.array([sweep.measure(e) for e in (0.4, 0.4, 0.41, 0.3)])
    assert np.allclose(errors * 516, np.round(errors * 516))
    assert errors[0] == errors[1]  # no binomial scatter between runs
    assert errors[3] < errors[0] <= errors[2]


def test_sweep_runs_of_one_trunk_share_most_of_their_scatter(bench):
    case = bench["CASES"]["trunks: power"]
    sweeps = [bench["Sweep"](case, np.random.default_rng(i)) for i in range(400)]
    logs = np.log([[s.measure(0.4, "a"), s.measure(0.2, "a"), s.measure(0.3, "b")] for s in sweeps])
    correlations = np.corrcoef(logs.T)
    assert abs(correlations[0, 1] - case.trunks) < 0.1
    assert abs(correlations[0, 2]) < 0.2
    rows = sweeps[0].budget(1e11)
    assert {r["trunk"] for r in rows} == {f"{r['params']:.0f}-{r['seed']}" for r in rows}


def test_summary_planted_records_counted_by_side(bench):
    def record(band, measured):
        forecast = {"predicted": 0.4, "curve": [0.3, 0.5], "mean": band, "own": [0.36, 0.44], "true": 0.4}
        return {"reaches": {"10": forecast | {"measured": measured}}}

    rows = [record([0.3, 0.5], 0.4), record([0.3, 0.5], 0.6), record([0.3, None], 0.6), record([0.3, 0.5], 0.2)]
    summary = bench["summary"](rows, "10")
    assert (summary["n"], summary["curve"], summary["mean"], summary["above"], summary["below"]) == (
        4,
        1,
        0.5,
        0.25,
        0.25,
    )
    assert summary["open"] == 0.25
    assert summary["ratio"] == pytest.approx(np.log(5 / 3) / np.log(11 / 9))


def test_results_cut_off_last_line_skipped(bench, tmp_path):
    path = tmp_path / "results.jsonl"
    bench["append"](path, {"case": "power", "band": [0.3, np.inf]}, 0.0)
    path.write_text(path.read_text() + '{"case": "pow')
    (only,) = bench["read"](path)
    assert only["band"] == [0.3, None]


@pytest.mark.thorough
def test_forecasts_one_sweep_equal_registered(bench, monkeypatch):  # thorough
    monkeypatch.setattr(registration, "backtests", lambda *a: [])
    case, sweep = bench["CASES"]["power, 516 pictures"], sweep_of(bench, "power, 516 pictures")
    df = sweep.runs(6)
    pictures, reach = bench["largest"](df, case), 10
    forecast = bench["forecasts"](df, 3, pictures, (reach,))[reach]
    registered = registration.preregister(
        df, bench["METRIC"], reach * df["budget"].max(), seeds=3, pictures=pictures, chance=bench["CHANCE"]
    )
    for name in ("predicted", "curve", "mean", "weights"):
        assert json.loads(json.dumps(bench["plain"](forecast[name]))) == json.loads(json.dumps(registered[name]))


@pytest.mark.thorough
def test_registered_mean_of_a_plateau_from_six_budgets_covers(bench):  # thorough
    case = bench["CASES"]["saturating .25"]
    forecasts = [bench["plain"](bench["simulated"](case, 6, index, (10,))[10]) for index in range(20)]
    judged = bench["summary"]([{"reaches": {"10": f}} for f in forecasts], "10")
    # the simplest form, which few budgets do not reject, is too hopeful
    alone = bench["summary"]([{"reaches": {"10": f | {"mean": f["own"]}}} for f in forecasts], "10")
    assert judged["mean"] >= 0.85
    assert alone["mean"] <= 0.3
    assert alone["below"] == 0


def test_cloud_runs_lie_above_the_frontier(bench):
    df = bench["cloud"](np.random.default_rng(0), 300)
    off = np.log(df["error_mean"] / bench["cloud_truth"](df["flops"]))
    assert off.mean() == pytest.approx(0.1, rel=0.2)
    assert isinstance(df, pd.DataFrame)

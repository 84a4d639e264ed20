"""Intervals of a table's fit: frontiers picked again, flat sides, and the average over forms."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.analysis.frontier_fit import NOT_RESELECTED, FrontierFit
from clip_jax.scaling.any_table import intervals
from clip_jax.scaling.any_table.average import average_forms
from clip_jax.scaling.any_table.fit import fit_any
from clip_jax.scaling.any_table.intervals import (
    NO_INTERVAL,
    RESELECTED,
    fit_rows_of,
    intervals_of,
)
from clip_jax.scaling.any_table.options import TableFit
from clip_jax.scaling.any_table.rows import read_rows
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import law_named
from clip_jax.scaling.profile.prediction import Interval
from clip_jax.scaling.profile.profile_likelihood import open_unidentified
from clip_jax.scaling.profile.statistic import PROFILED
from clip_jax.scaling.uncertainty.interval_format import interval_text, span_text

from ...user_errors import raises_user_error

POWER = TableFit(laws=("power",), frontier="pareto")


def cloud(count=60):
    rng = np.random.default_rng(0)
    flops = np.exp(rng.uniform(np.log(1e15), np.log(1e18), count))
    error = 0.7 * (flops / 1e15) ** -0.1 * np.exp(rng.exponential(0.1, count) + 0.02 * rng.standard_normal(count))
    return pd.DataFrame({"flops": flops, "error": error, "w": 1.0, "g": np.arange(count) % 12})


def spans(table, what):
    rows = read_rows(table, what, law_named("power"))
    return intervals_of(fit_rows_of(rows, what, law_named("power")), rows, what)


def test_intervals_of_a_pareto_frontier_pick_it_again_in_resamples():
    ends = spans(cloud(), POWER)
    assert ends.selection == RESELECTED
    plain = replace(ends, fitted=None)
    assert ends.parameter("b").width > plain.parameter("b").width
    for both in zip(ends.forecast({"flops": 1e19}), plain.forecast({"flops": 1e19}), strict=True):
        assert both[0].width > both[1].width
        assert both[0].value == both[1].value


@pytest.mark.parametrize("change", [{"weights": "w"}, {"space": "linear"}, {"group": "g"}])
def test_intervals_without_reselection_say_so(change):
    ends = spans(cloud(), replace(POWER, **change))
    assert ends.fitted is None
    assert ends.selection.startswith(NOT_RESELECTED)


def test_intervals_of_all_rows_or_few_runs_are_profiles():
    assert spans(cloud(), replace(POWER, frontier="all")).selection == ""
    few = spans(cloud(12), POWER)
    assert few.method == PROFILED
    assert few.selection.startswith(NOT_RESELECTED)


def test_intervals_are_open_at_flat_sides_and_bounds():
    x = np.geomspace(1e15, 1e18, 12)
    y = 0.7 * (x / 1e15) ** -0.1 * np.exp(0.01 * np.random.default_rng(0).standard_normal(12))
    fit = fit_law(law_named("saturating"), x, y)
    assert not fit.identified
    tight = Interval(0.1, 0.09, 0.11, 0.95)
    opened = open_unidentified(replace(fit, flat=("E below",), status="converged"), "E", tight)
    assert (opened.open_low, opened.open_high) == (True, False)
    at_bound = replace(fit, flat=(), status="bound hit: E", theta=np.where(np.arange(3) == 0, fit.low, fit.theta))
    assert open_unidentified(at_bound, "E", tight).open_low
    b = open_unidentified(at_bound, "b", tight)
    assert (b.open_low, b.open_high) == (True, True)  # no tight band of a fit that is not identified
    half = replace(tight, open_high=True)
    assert open_unidentified(at_bound, "b", half) == half
    assert open_unidentified(replace(at_bound, status="converged", condition=1.0), "b", tight) == tight
    assert span_text(opened) == "[none, 0.11]"
    assert interval_text(opened) == "0.1 [none, 0.11]"


def test_fit_any_text_and_file_agree_on_open_ends(tmp_path):
    what = TableFit(laws=("saturating",))
    text = fit_any(_csv(tmp_path, cloud(20)), what, tmp_path)
    record = json.loads((tmp_path / "fit.json").read_text())
    for name, ends in record["intervals_95"].items():
        (line,) = [w for w in text.splitlines() if w.startswith(f"    {name} ")]
        shown = line[line.index("[") + 1 : line.index("]")].split(", ")
        assert [s == "none" for s in shown] == [v is None for v in ends] == record["open"][name]


def _csv(folder, table):
    table.to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


@pytest.mark.thorough
def test_fit_any_averages_forms_beside_the_law(tmp_path):
    what = replace(POWER, at=("1e19",))
    fit_any(_csv(tmp_path, cloud()), what, tmp_path)
    forecast = json.loads((tmp_path / "fit.json").read_text())["forecasts"][0]
    averaged = forecast["averaged"]
    assert sum(averaged["weights"].values()) == pytest.approx(1)
    assert averaged["curve"][0] < averaged["median"] < averaged["curve"][1]
    assert averaged["run"][0] < averaged["curve"][0]


@pytest.mark.parametrize("change", [{"weights": "w"}, {"group": "g"}, {"under": 0.1}, {"space": "linear"}])
def test_average_forms_with_other_methods_gives_a_reason(change):
    averaged = average_forms(cloud(), replace(POWER, **change))
    assert averaged.forecast is None
    assert averaged.reason


def test_average_forms_of_many_rows_gives_none():
    assert average_forms(cloud(1001), replace(POWER, frontier="all")).forecast is None


def test_fit_any_under_follows_the_lower_edge_and_is_recorded(tmp_path):
    records = {}
    for under in (1.0, 0.1):
        fit_any(_csv(tmp_path, cloud()), TableFit(laws=("power",), under=under), tmp_path)
        records[under] = json.loads((tmp_path / "fit.json").read_text())
    assert records[1.0]["loss"] == ["huber", "log", 0.02]
    assert records[0.1]["loss"] == ["huber", "log", 0.02, 0.1]
    curve = {k: f["values"]["a"] * 1e17 ** -f["values"]["b"] for k, f in records.items()}
    assert curve[0.1] < 0.97 * curve[1.0]


@pytest.mark.parametrize("frontier", ["all", "pareto"])
def test_fit_any_asymmetric_loss_gives_no_interval(tmp_path, frontier):
    what = TableFit(laws=("power",), under=0.1, at=("1e19",), frontier=frontier)
    text = fit_any(_csv(tmp_path, cloud()), what, tmp_path)
    record = json.loads((tmp_path / "fit.json").read_text())
    forecast = record["forecasts"][0]
    assert [*forecast["curve"], *forecast["new_run"], *record["intervals_95"]["b"]] == [None] * 6
    assert forecast["value"] > 0
    assert "[none, none]" in text
    assert record["interval_method"] == NO_INTERVAL


@pytest.mark.parametrize("change", [{}, {"group": "g"}])
def test_intervals_of_a_curve_never_exceed_guessing(change):
    table = pd.DataFrame({"flops": np.geomspace(1e12, 1e15, 12), "g": np.arange(12)})
    scatter = np.exp(0.02 * np.random.default_rng(0).standard_normal(12))
    table["error"] = 0.7 * (table["flops"] / 1e12) ** -0.1 * scatter
    ends = spans(table, TableFit(laws=("power",), chance=0.9, **change))
    curve, run = ends.forecast({"flops": 1e8})
    assert curve.value == curve.low == curve.high == run.value == 0.9
    assert 0.8 < run.low < 0.9 < run.high < 1  # by its noise
    inside = ends.forecast({"flops": 1e14})
    assert inside[0].high < 0.9


def test_fit_any_says_why_a_side_is_open(tmp_path, monkeypatch):
    whole = intervals.prediction_profile
    monkeypatch.setattr(
        intervals, "prediction_profile", lambda *a, **k: replace(whole(*a, **k), converged=(False, True))
    )
    text = fit_any(_csv(tmp_path, cloud(20)), TableFit(laws=("power",), at=("1e19",), weights="w"), tmp_path)
    record = json.loads((tmp_path / "fit.json").read_text())
    reason = "the band of the power law at 1e19 is open below: the fits behind it did not converge"
    assert reason in record["warnings"]
    assert f"note: {reason}" in text
    assert record["forecasts"][0]["curve"][0] is None


@pytest.mark.thorough
def test_fit_any_says_why_a_side_of_an_averaged_form_is_open(tmp_path, monkeypatch):
    whole = FrontierFit.prediction_at
    monkeypatch.setattr(FrontierFit, "prediction_at", lambda f, c: replace(whole(f, c), converged=(True, False)))
    fit_any(_csv(tmp_path, cloud(20)), TableFit(laws=("power",), at=("1e19",), chance=0.99), tmp_path)
    warnings = json.loads((tmp_path / "fit.json").read_text())["warnings"]
    reason = "the band of the saturating power law at 1e19 reaches up to guessing: the fits behind it did not converge"
    assert warnings.count(reason) == 1


def test_fit_any_groups_with_an_asymmetric_loss_are_refused(tmp_path):
    with raises_user_error(field="--group"):
        fit_any(_csv(tmp_path, cloud()), TableFit(laws=("power",), under=0.1, group="g"))


@pytest.mark.parametrize("options", [{"under": 0.0}, {"under": 2.0}, {"under": 0.1, "loss": "absolute"}])
def test_table_fit_under_out_of_range_is_refused(options):
    with raises_user_error(field="--under"):
        TableFit(**options)

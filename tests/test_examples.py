"""Committed configs are valid, and the numbers of the documentation are the records'."""

import dataclasses
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from clip_jax.config import RunConfig
from clip_jax.config.io import as_begun, from_dict, load
from clip_jax.config.sweep import SweepConfig
from clip_jax.scaling.report.summary import text_summary
from clip_jax.sweep.plan import make_plan
from clip_jax.sweep.search.config import SearchConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
TUTORIALS = ROOT / "docs" / "tutorials"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=lambda p: p.stem)
def test_experiment_config_loads(path):
    assert load(RunConfig, path).steps > 0
    assert "Command:" in path.read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.py")), ids=lambda p: p.stem)
def test_sweep_config_plans(path):
    assert "Command:" in path.read_text()
    if path.stem.startswith("search"):
        assert load(SearchConfig, path).dimensions
        return
    plan = make_plan(load(SweepConfig, path), {"photos": 17_015, "icons": 328_415}.get(path.stem))
    per_budget = [sum(c.budget == b for c in plan.kept) for b in plan.config.budgets]
    lawless = path.stem in ("pod", "icons_arms")  # to be compiled, to be compared
    assert len(per_budget) >= (2 if lawless else 5)
    assert min(per_budget) >= (2 if lawless else 3)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments" / "results").glob("*/sweep.json")), ids=lambda p: p.parent.name
)
def test_committed_results_come_from_a_committed_sweep(path, monkeypatch):
    monkeypatch.delenv("CLIP_JAX_DATA", raising=False)
    recorded = from_dict(SweepConfig, json.loads(path.read_text()))
    overrides = {"base.seed": str(recorded.base.seed)}  # the one thing the commands beside the results change
    config = load(SweepConfig, ROOT / "sweeps" / f"{recorded.name}.py", overrides)
    assert recorded == dataclasses.replace(config, base=as_begun(config.base, recorded.base))


def test_tutorial_shows_the_summary_of_the_recorded_law():
    law = json.loads((RESULTS / "quickstart" / "law.json").read_text())
    assert text_summary(law) in (TUTORIALS / "first-law.md").read_text()


def recorded_ends():
    """Yield the ends [low, high] of every interval of the committed records."""

    def inside(coverage):
        if isinstance(coverage, dict):
            for prefix in ("", "curve_"):
                yield coverage.get(prefix + "low"), coverage.get(prefix + "high")
            for value in coverage.values():
                yield from inside(value)
        elif isinstance(coverage, list):
            if len(coverage) == 2:
                yield tuple(coverage)
            for value in coverage:
                yield from inside(value)

    for path in RESULTS.glob("*/*.json"):
        yield from inside(json.loads(path.read_text()))
    for path in RESULTS.glob("*/evals.csv"):
        yield from pd.read_csv(path)[["low", "high"]].itertuples(index=False, name=None)


@pytest.mark.parametrize(
    ("page", "at_least"),
    [
        ("README.md", 1),
        ("docs/tutorials/first-law.md", 9),
        ("docs/tutorials/icons-law.md", 5),
        ("experiments/results/README.md", 9),
    ],
)
def test_intervals_in_pages_are_those_of_the_records(page, at_least):
    intervals = re.findall(r"\[(-?\d+\.\d+), (-?\d+\.\d+)\]", (ROOT / page).read_text())
    # gains of arms are held by test_notebooks.test_notebook_objectives_agrees_with_the_results
    gains = {("3.51", "15.11"), ("0.01", "1.97"), ("0.00", "0.00"), ("0.01", "3.46")}
    intervals = [ends for ends in intervals if ends not in gains]
    known = [ends for ends in recorded_ends() if all(isinstance(e, float) for e in ends)]
    texts = {d: {tuple(f"{e:.{d}f}" for e in ends) for ends in known} for d in (2, 3, 4)}
    assert len(intervals) >= at_least
    for low, high in intervals:
        assert (low, high) in texts[len(low.partition(".")[2])], (low, high)


def test_tutorial_shows_the_registered_forecast_and_its_outcome():
    folder = ROOT / "experiments" / "results" / "icons"
    law, registered, graded = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("law", "forecast", "outcome")
    )
    tutorial, readme = (" ".join(path.read_text().split()) for path in (TUTORIALS / "icons-law.md", ROOT / "README.md"))
    for row in law["frontier"]:
        assert f"| {row['error']:.3f} ({row['sd']:.3f}) |" in tutorial
    (fit,) = [f for f in law["fits"] if f["form"] == law["winner"]]
    assert f"{fit['exponent']['name']} = {fit['exponent']['value']:.3f} [{fit['exponent']['low']:.3f}" in tutorial
    low, high = registered["mean"]
    for page in (tutorial, readme):
        assert f"It said {registered['predicted']:.3f}, 95 % band [{low:.3f}, {high:.3f}]" in page
        assert f"Measured: **{graded['measured']:.3f}**" in page
    assert f"Measured: **{graded['measured']:.3f}**, {'inside' if graded['inside'] else 'outside'}" in tutorial
    assert graded["mean"] == registered["mean"]
    assert not set(registered["frontier"][-1]) - set(law["frontier"][-1])
    at_target = [row for row in law["frontier"] if row["budget"] == registered["target"]]
    assert [row["error"] for row in at_target] == [graded["measured"]]

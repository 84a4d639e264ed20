"""Errors of valley minima against simulation."""

import numpy as np
import pytest

from clip_jax.scaling.analysis.analyze import analyze
from clip_jax.scaling.frontier.frontier import by_size
from clip_jax.scaling.frontier.isoflop import isoflop
from clip_jax.scaling.report.figures import draw
from clip_jax.scaling.report.figures.valley_errors import ends_of, valley_errors


def test_valley_errors_agree_with_simulation(runs, curves):
    tables = [runs(curves["power law"], budgets=3, sizes=5, seeds=2, noise=0.01, seed=s) for s in range(80)]
    minima = [[np.log(v["params"]) for v in isoflop(df, "error_mean") if v["status"] == "accepted"] for df in tables]
    spread = np.std([m for m in minima if len(m) == 3], axis=0)
    errors = valley_errors(analyze(tables[0], full=False))
    assert len(errors) == 3
    assert list(errors.values()) == pytest.approx(list(spread), rel=0.5)


def test_valley_errors_unknown_without_seeds_or_spare_size(runs, curves):
    df = runs(curves["power law"], budgets=3, sizes=3, seeds=1, noise=0.0)
    assert valley_errors(analyze(df, full=False)) == {}


def test_ends_of_samples_fall_as_size_rises(runs, curves):
    analysis = analyze(runs(curves["power law"], budgets=3, sizes=5, seeds=2), full=False)
    sizes, valley = by_size(analysis.rows, "error_mean"), analysis.valleys[0]
    small, large = ends_of(valley, 0.1, sizes, "params")
    few, many = ends_of(valley, 0.1, sizes, "samples_seen")
    assert small < valley["params"] < large
    assert few < valley["samples_seen"] < many
    assert few * large == pytest.approx(many * small, rel=1e-3)  # a compute fixes their product


def test_isoflop_stars_carry_bars(runs, curves):
    analysis = analyze(runs(curves["power law"], budgets=4, sizes=5, seeds=2), full=False)
    lines = draw("isoflop", analysis).axes[0].lines
    stars = [line for line in lines if line.get_marker() == "*"]
    bars = [line for line in lines if line.get_marker() == "|"]
    assert len(bars) == len(stars) == 4
    for star, bar in zip(stars, bars, strict=True):
        assert bar.get_xdata()[0] < star.get_xdata()[0] < bar.get_xdata()[1]

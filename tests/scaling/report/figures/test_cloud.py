"""The cloud: intervals of parameters of any size are on it."""

import numpy as np
import pytest

from clip_jax.scaling.analysis.analyze import analyze
from clip_jax.scaling.report.figures import draw


@pytest.mark.parametrize("scale", [1.0, 1e14])
def test_cloud_interval_of_any_size_is_drawn(runs, scale):
    df = runs(lambda c: 0.95 / (1 + (c / 4e11) ** 0.6), budgets=7, sizes=1, seeds=2)
    df[["flops", "budget", "samples_seen"]] *= scale
    analysis = analyze(df, chance=0.95, full=False)
    assert analysis.winner == "sigmoid"
    fit, interval = analysis.best.fit, analysis.best.intervals["C_half"]
    axis = draw("cloud", analysis).axes[0]
    bar = next(line for line in axis.lines if line.get_label() == "95 % intervals")
    assert list(bar.get_xdata()) == pytest.approx([v / fit.values["C_half"] for v in (interval.low, interval.high)])
    low, high = axis.get_xlim()
    assert low < bar.get_xdata()[0] < 1 < bar.get_xdata()[1] < high


def test_cloud_interval_beyond_the_axis_ends_in_a_triangle(runs, monkeypatch):
    from dataclasses import replace

    analysis = analyze(runs(lambda c: 0.95 / (1 + (c / 4e11) ** 0.6), budgets=7, sizes=1, seeds=2), full=False)
    wide = {n: replace(i, high=np.inf, open_high=True) for n, i in analysis.best.intervals.items()}
    analysis.best.__dict__["intervals"] = wide
    axis = draw("cloud", analysis).axes[0]
    triangles = {line.get_marker(): line for line in axis.lines if line.get_marker() in ("^", ">")}
    assert triangles["^"].get_ydata()[0] == pytest.approx(axis.get_ylim()[1])
    assert triangles[">"].get_xdata()[0] == pytest.approx(axis.get_xlim()[1])

"""What the page's script looks up is what was fitted."""

import numpy as np
import pytest

from clip_jax.scaling.analysis import analyse
from clip_jax.scaling.page.data import embedded


@pytest.fixture(scope="module")
def found(runs, curves):
    return analyse(runs(curves["power law"], budgets=5, sizes=3, seeds=1, noise=0.01), full=False)


def test_the_grid_holds_each_law_where_python_predicts_it(found):
    data = embedded(found)
    grid = np.array(data["grid"])
    assert grid[0] < found.rows["flops"].min()
    assert grid[-1] == pytest.approx(found.rows["flops"].max() * 100)
    between = np.sqrt(grid[1:] * grid[:-1])
    for key, fit in data["rules"][0]["fits"].items():
        fitted = found.frontier.fitted[key]
        straight = np.sqrt(np.array(fit["y"])[1:] * np.array(fit["y"])[:-1])
        assert np.abs(np.log(straight / fitted.fit.predict(between))).max() < 1e-3
        assert fit["values"] == pytest.approx(fitted.fit.values)


def test_bands_are_those_of_the_profile_at_the_target(found):
    data = embedded(found)
    fit = data["rules"][0]["fits"]["power"]
    curve = found.frontier.fitted["power"].curve_at(found.target)
    at = [np.exp(np.interp(np.log(found.target), np.log(data["grid"]), np.log(fit[k]))) for k in ("low", "high")]
    assert at == pytest.approx([curve.low, curve.high], rel=2e-3)
    assert all(a <= b for a, b in zip(fit["run_low"], fit["low"], strict=True))


def test_an_end_that_nothing_bounds_is_null(found, monkeypatch):
    from dataclasses import replace

    from clip_jax.scaling.evidence import Fitted

    real = Fitted.curve_at
    monkeypatch.setattr(Fitted, "curve_at", lambda self, c: replace(real(self, c), low=0.0, open_low=True))
    for fitted in found.frontier.fitted.values():
        fitted.__dict__.pop("_knots", None)
    fit = embedded(found)["rules"][0]["fits"]["power"]
    assert set(fit["low"]) == {None}
    assert None not in fit["high"]

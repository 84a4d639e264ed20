"""Chinchilla's law on a table of runs, and its path of least error."""

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.frontier.parametric import fit_parametric
from clip_jax.scaling.laws import Chinchilla

from ...user_errors import raises_user_error

TRUTH = {"E": 0.3, "A": 20.0, "alpha": 0.3, "B": 60.0, "beta": 0.35}


def planted(power=1.0):
    """Return 30 runs without noise that cost 6·N^power·D."""
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e5, 1e7, 5), np.geomspace(1e6, 1e9, 6)))
    y = Chinchilla().curve(TRUTH, {"params": np.log(n), "samples_seen": np.log(d)}, np)
    return pd.DataFrame({"params": n, "samples_seen": d, "flops": 6 * n**power * d, "error": y})


def test_fit_parametric_recovers_the_planted_surface_and_path():
    surface = fit_parametric(planted(), "error")
    assert surface.fit.values == pytest.approx(TRUTH, rel=1e-3)
    assert (surface.cost, surface.power) == pytest.approx((6, 1))
    flops = np.geomspace(1e14, 1e17, 5)
    size, data = Chinchilla().optimum(TRUTH, flops)
    n, d, y = surface.path(flops)
    assert n == pytest.approx(size, rel=5e-3)
    assert d == pytest.approx(data, rel=5e-3)
    assert y == pytest.approx(Chinchilla().at_optimum(TRUTH, flops), rel=1e-4)


def test_parametric_path_has_smaller_models_where_size_costs_more():
    flops = np.array([1e16])
    assert (
        fit_parametric(planted(1.3), "error").path(flops)[0] < 0.5 * fit_parametric(planted(), "error").path(flops)[0]
    )


@pytest.mark.parametrize(
    ("rows", "field", "count"),
    [
        (lambda df: df.iloc[:0], "params", "0"),
        (lambda df: df[df["params"] == df["params"].min()], "params", "1"),
        (lambda df: df[df["samples_seen"] < 1e7], "samples_seen", "2"),
        (lambda df: df[df.index % 7 == 0].head(7), "runs", "5"),
    ],
)
def test_fit_parametric_of_too_few_rows_names_the_column(rows, field, count):
    with raises_user_error(field=field, reason=count):
        fit_parametric(rows(planted()), "error")

"""Made-up tables hold the law they were made from."""

import numpy as np
import pytest

from clip_jax.scaling.data.synthetic import isoflop_runs
from clip_jax.scaling.laws import Chinchilla

from ...user_errors import raises_user_error

TRUTH = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2000.0, "beta": 0.37}


def test_isoflop_runs_best_size_is_the_middle_one():
    df = isoflop_runs(Chinchilla(), TRUTH, budgets=(1e18, 1e20), sizes=7)
    best = df.loc[df.groupby("budget")["loss"].idxmin()]
    assert best["params"].to_numpy() == pytest.approx(Chinchilla().optimum(TRUTH, np.array([1e18, 1e20]))[0])
    assert df["flops"].to_numpy() == pytest.approx(6 * df["params"] * df["samples_seen"])
    assert best["loss"].to_numpy() == pytest.approx(Chinchilla().at_optimum(TRUTH, np.array([1e18, 1e20])))


def test_isoflop_runs_noise_is_in_the_logarithm_and_repeats():
    clean, noisy = (isoflop_runs(Chinchilla(), TRUTH, sizes=200, noise=s) for s in (0.0, 0.05))
    assert np.log(noisy["loss"] / clean["loss"]).std() == pytest.approx(0.05, rel=0.1)
    assert noisy.equals(isoflop_runs(Chinchilla(), TRUTH, sizes=200, noise=0.05))
    with raises_user_error(source="isoflop_runs", field="spread", value=1.0):
        isoflop_runs(Chinchilla(), TRUTH, spread=1.0)

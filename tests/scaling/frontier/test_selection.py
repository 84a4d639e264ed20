"""The winner's curse of a frontier, against simulation."""

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.frontier.selection import selection_bias, valley_scatter


def sweep(curvature, sd, seeds=1, sizes=6, budgets=40, seed=0):
    """Return single cells around a valley whose lowest true error is 0.5 at every budget."""
    rng, rows = np.random.default_rng(seed), []
    for budget in np.geomspace(1e10, 1e12, budgets):
        for k in range(sizes):
            off = (k - (sizes - 1) / 2) * np.log(2)
            for s in range(seeds):
                error = 0.5 * np.exp(curvature * off**2 + sd * rng.standard_normal())
                rows.append(
                    {
                        "budget": budget,
                        "params": 1e5 * 2**k,
                        "seed": s,
                        "flops": budget,
                        "samples_seen": 1.0,
                        "m": error,
                    }
                )
    return pd.DataFrame(rows, columns=["budget", "params", "seed", "flops", "samples_seen", "m"])


def test_selection_bias_is_that_of_picking_the_lowest_again():
    df = sweep(0.005, 0.04, budgets=200)
    bias = np.mean(list(selection_bias(df, "m", 0.04).values()))
    measured = np.log(df.groupby("budget")["m"].min() / 0.5).mean()
    lowest = 0.005 * (np.log(2) / 2) ** 2  # no cell lies at the valley's middle
    assert bias == pytest.approx(measured - lowest, rel=0.25)
    assert bias < -0.02


def test_selection_bias_of_more_seeds_and_of_one_cell():
    few, many = (np.mean(list(selection_bias(sweep(0.005, 0.04, s), "m", 0.04).values())) for s in (1, 9))
    assert few < 2 * many < 0
    one = selection_bias(sweep(0.005, 0.04, sizes=1), "m", 0.04)
    assert max(abs(v) for v in one.values()) < 0.005


def test_valley_scatter_of_single_seeds_is_their_noise():
    sd, degrees = valley_scatter(sweep(0.05, 0.04, budgets=100), "m")
    assert sd == pytest.approx(0.04, rel=0.1)
    assert degrees == 299
    assert valley_scatter(sweep(0.05, 0.04, sizes=3), "m") == (0.0, 0)

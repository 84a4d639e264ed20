"""Frontiers of tables and of clouds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_jax.scaling.frontier.frontier import (
    binned,
    binned_centers,
    by_size,
    compute_optimal,
    hull,
    octaves,
    pareto,
    seed_noise,
    unbeaten,
)


def test_compute_optimal_takes_the_mean_over_seeds(runs, curves):
    df = runs(curves["power law"], noise=0.0)
    lucky = df.index[(df["budget"] == df["budget"].min()) & (df["seed"] == 0)][0]
    df.loc[lucky, "error_mean"] *= 0.95  # one seed of a wrong size
    best = compute_optimal(df, "error_mean")
    assert len(best) == 7
    np.testing.assert_allclose(best["params"], best["budget"] ** 0.5 / 3, rtol=1e-3)
    assert best["bracketed"].all()
    assert (best["seeds"] == 2).all()


def test_compute_optimal_at_the_edge_is_not_bracketed(runs, curves):
    df = runs(curves["power law"], noise=0.0)
    df = df[df["params"] > df["budget"] ** 0.5 / 3 * 0.9]  # the optimum and larger ones
    assert not compute_optimal(df, "error_mean")["bracketed"].any()


def test_seed_noise_is_pooled_over_cells(runs, curves):
    sd, degrees = seed_noise(runs(curves["power law"], noise=0.02, seeds=8), "error_mean")
    assert sd == pytest.approx(0.02, rel=0.15)
    assert degrees == 7 * 5 * 7
    assert seed_noise(runs(curves["power law"], seeds=1), "error_mean") == (0.0, 0)


def test_by_size_averages_seeds(runs, curves):
    table = by_size(runs(curves["power law"]), "error_mean")
    assert len(table) == 35
    assert (table["seeds"] == 2).all()


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12))
def test_unbeaten_keeps_falling_errors_only(errors):
    best = pd.DataFrame({"budget": np.arange(1.0, len(errors) + 1), "error": errors})
    kept = unbeaten(best)
    assert (np.diff(kept["error"]) < 0).all()
    assert kept["error"].iloc[0] == errors[0]
    assert kept["error"].iloc[-1] == min(errors)


def test_seed_noise_ignores_repeated_cells_of_one_seed(runs, curves):
    df = runs(curves["power law"]).assign(seed=0)
    assert seed_noise(df, "error_mean") == (0.0, 0)


points = st.lists(st.tuples(st.floats(1, 100), st.floats(0.01, 1.0)), min_size=1, max_size=25)


@given(points)
def test_pareto_keeps_what_nothing_cheaper_equals_or_beats(pairs):
    x, y = np.array(pairs).T
    wanted = [
        i
        for i in range(len(x))
        if not any((x[j], y[j]) != (x[i], y[i]) and x[j] <= x[i] and y[j] <= y[i] for j in range(len(x)))
    ]
    kept = pareto(x, y)
    assert {(x[i], y[i]) for i in kept} == {(x[i], y[i]) for i in wanted}
    assert (np.diff(x[kept]) > 0).all()
    assert (np.diff(y[kept]) < 0).all()


@given(points)
def test_hull_lies_below_every_point_and_on_the_frontier(pairs):
    x, y = np.array(pairs).T
    kept = hull(x, y)
    assert set(kept) <= set(pareto(x, y))
    inside = (x >= x[kept[0]]) & (x <= x[kept[-1]])
    line = np.interp(np.log(x[inside]), np.log(x[kept]), np.log(y[kept]))
    assert (np.log(y[inside]) >= line - 1e-9).all()
    slopes = np.diff(np.log(y[kept])) / np.diff(np.log(x[kept]))
    assert (np.diff(slopes) > -1e-9).all()


def test_binned_keeps_the_lowest_of_each_bin_that_improves():
    x = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 30.0, 100.0, 150.0, 1000.0])
    y = np.array([0.9, 0.7, 0.8, 0.75, 0.6, 0.65, 0.62, 0.5, 0.55])
    edges = np.array([1.0, 5.0, 50.0, 120.0, 900.0, 1000.0])
    assert binned(x, y, edges, improving=False).tolist() == [1, 4, 6, 7, 8]
    assert binned(x, y, edges).tolist() == [1, 4, 7]
    assert binned(x, np.append(y[:8], 0.45), edges).tolist() == [1, 4, 7, 8]
    # the dearest point is a bin of its own: it does not hide the best of the last bin
    assert binned(np.array([1.0, 5.0, 7.0]), np.array([0.9, 0.5, 0.4]), np.array([1.0, 4.0, 7.0])).tolist() == [0, 1, 2]


def test_binned_centers_are_bin_centers():
    x, y = np.array([1.0, 9.0, 100.0]), np.array([0.9, 0.8, 0.5])
    centers, lowest = binned_centers(x, y, bins=2, beyond=0.1)
    np.testing.assert_allclose(centers, 10 ** np.array([0.525, 1.575]))
    assert lowest.tolist() == [0.8, 0.5]
    assert len(octaves(np.geomspace(1500, 1500 * 2**9.5, 5))) == 9

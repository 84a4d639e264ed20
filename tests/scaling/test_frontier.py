"""Frontier, parabolas, exponents."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_jax.scaling.frontier import allocation, by_size, compute_optimal, isoflop, seed_noise, unbeaten


def test_the_best_size_is_by_the_mean_over_seeds(runs, curves):
    df = runs(curves["power law"], noise=0.0)
    lucky = df.index[(df["budget"] == df["budget"].min()) & (df["seed"] == 0)][0]
    df.loc[lucky, "error_mean"] *= 0.95  # one seed of a wrong size
    best = compute_optimal(df, "error_mean")
    assert len(best) == 7
    np.testing.assert_allclose(best["params"], best["budget"] ** 0.5 / 3, rtol=1e-3)
    assert best["bracketed"].all()
    assert (best["seeds"] == 2).all()


def test_the_edge_is_not_bracketed(runs, curves):
    df = runs(curves["power law"], noise=0.0)
    df = df[df["params"] > df["budget"] ** 0.5 / 3 * 0.9]  # the optimum and larger ones
    assert not compute_optimal(df, "error_mean")["bracketed"].any()


def test_parabolas_find_the_planted_optimum_and_exponents(runs, curves):
    parabolas = isoflop(runs(curves["power law"], noise=0.0), "error_mean")
    assert {p["status"] for p in parabolas} == {"accepted"}
    np.testing.assert_allclose([p["params"] for p in parabolas], [p["budget"] ** 0.5 / 3 for p in parabolas], rtol=0.01)
    found = allocation(parabolas)
    assert (found.params, found.samples) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.5, abs=0.01))


@pytest.mark.parametrize(
    ("sizes", "change", "said"),
    [
        (3, lambda n, x: 1 + x**2, "3 sizes, 4 are needed"),
        (5, lambda n, x: 2 - 0.1 * x**2, "opens downward"),
        (5, lambda n, x: np.exp(0.05 * (x - 9.0) ** 2), "outside the sizes tried"),
    ],
)
def test_parabolas_that_show_no_minimum_are_refused(runs, curves, sizes, change, said):
    df = runs(curves["power law"], sizes=sizes, seeds=1)
    x = np.log(df["params"] / (df["budget"] ** 0.5 / 3))
    df["error_mean"] = change(df["params"], x) * 0.1
    parabolas = isoflop(df, "error_mean")
    assert all(said in p["status"] for p in parabolas)
    assert all("params" not in p for p in parabolas)
    assert allocation(parabolas).status.startswith("not identified: 0 budgets")


def test_seed_noise_is_pooled(runs, curves):
    sd, degrees = seed_noise(runs(curves["power law"], noise=0.02, seeds=8), "error_mean")
    assert sd == pytest.approx(0.02, rel=0.15)
    assert degrees == 7 * 5 * 7
    assert seed_noise(runs(curves["power law"], seeds=1), "error_mean") == (0.0, 0)


def test_sizes_average_their_seeds(runs, curves):
    table = by_size(runs(curves["power law"]), "error_mean")
    assert len(table) == 35
    assert (table["seeds"] == 2).all()


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12))
def test_no_cheaper_run_beats_one_of_the_unbeaten(errors):
    best = pd.DataFrame({"budget": np.arange(1.0, len(errors) + 1), "error": errors})
    kept = unbeaten(best)
    assert (np.diff(kept["error"]) < 0).all()
    assert kept["error"].iloc[0] == errors[0]
    assert kept["error"].iloc[-1] == min(errors)


def test_equal_cells_of_one_seed_are_no_second_seeds(runs, curves):
    df = runs(curves["power law"]).assign(seed=0)
    assert seed_noise(df, "error_mean") == (0.0, 0)

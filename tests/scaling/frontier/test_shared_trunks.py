"""Points whose runs share trunks count for less than independent ones."""

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.analysis.analyze import point_noise
from clip_jax.scaling.data.runs_table import prepare
from clip_jax.scaling.frontier.frontier import compute_optimal
from clip_jax.scaling.frontier.shared_trunks import (
    TRUNK_CORRELATION,
    effective_degrees,
    inflation,
    point_correlations,
)


@pytest.fixture
def rows():
    """Return three budgets at one size with two seeds; the largest budget at another size as well, where it is best."""
    rng = np.random.default_rng(0)
    estimates = []
    for budget in (1e10, 2e10, 4e10):
        for params in (100.0, 200.0) if budget == 4e10 else (100.0,):
            for seed in (0, 1):
                error = 0.5 * (budget / 1e10) ** -0.2 * (0.9 if params == 200.0 else 1.0) * np.exp(rng.normal(0, 0.02))
                estimates.append(
                    {"run_id": f"{budget}-{params}-{seed}", "budget": budget, "flops": budget, "params": params,
                     "samples_seen": budget / params / 6, "seed": seed, "error_mean": error,
                     "trunk": f"{params:.0f}-{seed}"}
                )  # fmt: skip
    return prepare(pd.DataFrame(estimates), "error_mean")


def test_points_of_one_size_share_their_trunks(rows):
    points = compute_optimal(rows, "error_mean")
    assert points["params"].tolist() == [100, 100, 200]
    shared = TRUNK_CORRELATION
    np.testing.assert_allclose(point_correlations(rows, points), [[1, shared, 0], [shared, 1, 0], [0, 0, 1]])


def test_point_with_one_common_trunk_of_two_is_half_as_alike(rows):
    rows.loc[(rows["budget"] == 1e10) & (rows["seed"] == 1), "trunk"] = np.nan  # trained all of its steps itself
    correlations = point_correlations(rows, compute_optimal(rows, "error_mean"))
    assert correlations[0, 1] == pytest.approx(TRUNK_CORRELATION / 2)


def test_points_of_separate_runs_are_independent(rows):
    points = compute_optimal(rows, "error_mean")
    assert np.array_equal(point_correlations(rows.drop(columns="trunk"), points), np.eye(3))


def test_noise_of_shared_trunks_is_inflated_and_has_fewer_degrees(rows):
    points = compute_optimal(rows, "error_mean")
    shared, separate = (point_noise(df, "error_mean", points) for df in (rows, rows.drop(columns="trunk")))
    assert separate.inflation == 1
    assert separate.degrees == 4
    assert shared.inflation == pytest.approx(1 + 2 * TRUNK_CORRELATION / 3)
    assert 1 <= shared.degrees < 4
    assert shared.sd == separate.sd


def test_inflation_and_degrees_of_copies_are_those_of_one_point():
    copies = np.ones((5, 5))
    assert inflation(copies) == 5
    assert effective_degrees(10, copies) == 2
    assert (inflation(np.eye(5)), effective_degrees(10, np.eye(5))) == (1, 10)
    assert effective_degrees(0, copies) == 0

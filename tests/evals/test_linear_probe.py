"""The probe against scikit-learn, and the paper's search."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clip_jax.evals import linear_probe
from clip_jax.evals.linear_probe import L2_GRID, fit_probe, search_l2, split


def clouds(examples=300, width=12, classes=5, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(9).standard_normal((classes, width))
    labels = rng.integers(0, classes, examples)
    return (centers[labels] + noise * rng.standard_normal((examples, width))).astype(np.float32), labels


@pytest.mark.thorough
def test_fit_probe_optimum_equals_scikit_learn():
    x, y = clouds()
    strengths = np.array([1e-3, 0.316, 30.0])
    probe = fit_probe(x, y, 5, strengths, tolerance=1e-8)
    assert probe.converged.all()
    test, _ = clouds(seed=1)
    for k, strength in enumerate(strengths):
        reference = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=5000).fit(x.astype(np.float64), y)
        with jax.enable_x64(True):
            want = float(
                linear_probe.objective(reference.coef_.T, reference.intercept_, x.astype(np.float64), y, strength)
            )
        assert probe.objective[k] <= want * (1 + 1e-6)
        assert probe.objective[k] == pytest.approx(want, rel=1e-6)
        predicted = probe.scores(test)[k].argmax(axis=1)
        np.testing.assert_array_equal(predicted, reference.predict(test.astype(np.float64)))


@pytest.mark.thorough
@pytest.mark.parametrize("vmapped", [True, False])
def test_fit_probe_of_several_strengths_equals_one_by_one(vmapped):
    x, y = clouds(80)
    strengths = np.array([0.1, 10.0])
    both = fit_probe(x, y, 5, strengths, tolerance=1e-9, vmapped=vmapped)
    for k in range(2):
        alone = fit_probe(x, y, 5, strengths[k : k + 1], tolerance=1e-9)
        np.testing.assert_allclose(both.weights[k], alone.weights[0], atol=1e-6)


@pytest.mark.thorough
def test_fit_probe_at_max_iterations_is_not_converged():
    x, y = clouds(80)
    probe = fit_probe(x, y, 5, np.array([1e-6]), max_iterations=3)
    assert not probe.converged[0]
    assert probe.iterations[0] == 6  # three in either part


@pytest.mark.thorough
def test_search_l2_finds_the_best_of_the_grid():
    train, val = clouds(120, noise=2.5), clouds(400, noise=2.5, seed=3)
    l2, seen = search_l2(train, val, 5)
    probe = fit_probe(*train, 5, L2_GRID)
    everywhere = (probe.scores(val[0]).argmax(-1) == val[1][None]).mean(axis=1)
    assert 7 <= len(seen) <= 7 + 2 * 4
    assert everywhere.max() - seen[l2] <= 0.02  # coarse to fine may miss a lone spike
    assert all(np.isclose(L2_GRID, s).any() for s in seen)
    assert len(L2_GRID) == 97
    assert np.isclose(L2_GRID[0] * L2_GRID[-1], 1)


def test_split_keeps_class_shares_and_all_rows():
    labels = np.array([0] * 10 + [1] * 5 + [2])
    first, second = split(labels, 0.2, 0)
    assert sorted([*first, *second]) == list(range(16))
    assert np.bincount(labels[second], minlength=3).tolist() == [2, 1, 0]


@pytest.mark.thorough
def test_linear_probe_learns_and_chooses_l2_on_held_out_data():
    scores, l2 = linear_probe.linear_probe(clouds(), clouds(seed=4)[0], 5)
    assert (scores.argmax(1) == clouds(seed=4)[1]).mean() > 0.8
    assert l2 in L2_GRID
    other, _ = linear_probe.linear_probe(clouds(), clouds(seed=4)[0], 5, val=clouds(100, seed=8))
    assert other.shape == scores.shape


@pytest.mark.thorough
def test_fit_probe_multi_label_equals_one_versus_rest():
    x, y = clouds()
    truth = np.stack([y == 0, y <= 1, x[:, 0] > 0], axis=1)
    probe = fit_probe(x, truth, 3, np.array([0.5]), tolerance=1e-8)
    for k in range(3):
        reference = LogisticRegression(C=2.0, tol=1e-10, max_iter=5000).fit(x.astype(np.float64), truth[:, k])
        np.testing.assert_allclose(probe.weights[0][:, k], reference.coef_[0], atol=1e-5)
        np.testing.assert_allclose(probe.bias[0][k], reference.intercept_[0], atol=1e-5)
    first, second = split(truth, 0.2, 0)
    assert sorted([*first, *second]) == list(range(300))
    assert len(second) == 60

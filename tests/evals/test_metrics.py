"""Scores by hand and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from clip_jax.evals.metrics import (
    eleven_point_map,
    first_alike,
    hits_at,
    mean_average_precision,
    mean_per_class,
    proportion_interval,
    roc_auc,
)


def test_proportion_interval_exact_equals_the_closed_form():
    assert proportion_interval(0.0, 10, "exact") == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
    assert proportion_interval(1.0, 10, "exact") == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    low, high = proportion_interval(0.5, 10, "exact")
    assert (low, high) == (pytest.approx(0.1871, abs=1e-4), pytest.approx(0.8129, abs=1e-4))
    wide = proportion_interval(0.5, 10, "exact", 0.995)
    assert wide[0] < low < high < wide[1]


@given(hits=st.integers(0, 50), extra=st.integers(1, 50), part=st.floats(0, 1))
def test_proportion_interval_wilson_holds_the_share(hits, extra, part):
    count = hits + extra
    for share in (hits / count, (hits + part) / count):
        low, high = proportion_interval(share, count, "wilson")
        assert 0 <= low <= share <= high <= 1
        assert low < high


def test_proportion_interval_wilson_equals_its_formula_between_whole_hits():
    z, count = 1.959963985, 500
    for share in (0.1, 0.7531, 0.9999):
        center = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        assert proportion_interval(share, count, "wilson") == (
            pytest.approx(center - half, abs=2e-5), pytest.approx(center + half, abs=2e-5)
        )  # fmt: skip


def test_hits_at_counts_ties_against_the_model():
    scores = np.array([[3.0, 2, 1], [1, 1, 1], [1, 2, 3]])
    assert hits_at(scores, np.array([0, 0, 1]), 1).tolist() == [True, False, False]
    assert hits_at(scores, np.array([0, 0, 1]), 2).tolist() == [True, False, True]


def test_mean_per_class_weighs_classes_alike():
    assert mean_per_class(np.array([True, True, True, False]), np.array([0, 0, 0, 1])) == 0.5


def test_eleven_point_map_equals_a_hand_computed_value():
    # ranked: hit, miss, hit -> precision 1 up to recall 0.5, 2/3 after
    scores = np.array([[0.9], [0.8], [0.7]])
    truth = np.array([[True], [False], [True]])
    assert eleven_point_map(scores, truth) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert eleven_point_map(np.hstack([scores, scores]), np.hstack([truth, truth & False])) == pytest.approx(
        (6 + 10 / 3) / 11
    )


def test_roc_auc_with_ties_equals_scikit_learn():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 6, 200).astype(float), rng.random(200) < 0.4
    assert roc_auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert np.isnan(roc_auc(scores, np.ones(200, bool)))


def test_mean_average_precision_equals_scikit_learn():
    rng = np.random.default_rng(0)
    scores, truth = rng.standard_normal((80, 4)), rng.random((80, 4)) < 0.3
    assert mean_average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert eleven_point_map(scores, truth) != pytest.approx(mean_average_precision(scores, truth), abs=1e-4)


NAN = np.nan


@pytest.mark.parametrize("bad", [NAN, np.inf])
def test_hits_at_non_finite_score_is_a_miss(bad):
    scores = np.array([[bad, 2, 1], [bad, bad, bad], [3, bad, 1], [3.0, 2, 1]])
    labels = np.array([0, 0, 0, 0])
    for k, want in ((1, [False, False, False, True]), (3, [False, False, True, True]), (5, [False, False, True, True])):
        assert hits_at(scores, labels, k).tolist() == want, k
    truth = np.array([[True], [False], [True], [False]])
    for score in (mean_average_precision, eleven_point_map):
        assert score(np.full((4, 1), bad), truth) == 0.0
    half = np.array([[bad], [bad], [2.0], [1.0]])  # behind a false one that is no number
    assert mean_average_precision(half, truth) == pytest.approx(0.25)
    assert roc_auc(half[:, 0], truth[:, 0]) == pytest.approx(0.25)
    assert roc_auc(np.full(4, bad), truth[:, 0]) == 0.0


def test_hits_at_minus_infinity_ranks_last():
    scores = np.array([[-np.inf, 0.0], [0.0, -np.inf]])
    assert hits_at(scores, np.array([0, 0]), 1).tolist() == [False, True]


def test_hits_at_classes_with_equal_prompts_count_as_the_first():
    alike = first_alike(["cat", "crane", "dog", "crane"])
    assert alike.tolist() == [0, 1, 2, 1]
    assert first_alike(["cat", "dog"]) is None
    scores = np.array([[0.1, 0.9, 0.2, 0.9]] * 2)  # two cranes, as the model sees them
    labels = np.array([1, 3])
    assert hits_at(scores, labels, 1, alike).tolist() == (scores.argmax(axis=1) == labels).tolist() == [True, False]
    assert hits_at(scores, labels, 2, alike).tolist() == [True, True]
    assert hits_at(scores, labels, 1).tolist() == [False, False]

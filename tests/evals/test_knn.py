"""Neighbours against a plain loop."""

import numpy as np

from clip_jax.evals.knn import knn_scores


def test_knn_scores_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rng.standard_normal((50, 6)),
                                                                            rng.standard_normal((13, 6))))  # fmt: skip
    labels = rng.integers(0, 3, 50)
    scores = knn_scores(train, labels, test, 3, k=7, chunk=5)
    for row, x in enumerate(test):
        similar = train @ x
        want = np.zeros(3)
        for i in np.argsort(-similar)[:7]:
            want[labels[i]] += np.exp((similar[i] - 1) / 0.07)
        np.testing.assert_allclose(scores[row], want)


def test_knn_scores_with_k_above_the_rows_uses_all():
    assert knn_scores(np.eye(3), np.arange(3), np.eye(3), 3, k=20).argmax(1).tolist() == [0, 1, 2]


def test_knn_scores_multi_label_neighbor_votes_for_each_class():
    rng = np.random.default_rng(0)
    train, test, labels = rng.standard_normal((30, 4)), rng.standard_normal((7, 4)), rng.integers(0, 3, 30)
    one = knn_scores(train, labels, test, 3, k=5, chunk=4)
    np.testing.assert_allclose(knn_scores(train, labels[:, None] == np.arange(3), test, 3, k=5, chunk=4), one)

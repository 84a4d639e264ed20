"""Few-shot draws and their spread."""

import numpy as np

from clip_jax.evals.few_shot import draw, few_shot

from ..user_errors import raises_user_error


def clouds(seed, examples=200):
    rng = np.random.default_rng(seed)
    labels = np.arange(examples) % 4
    centers = np.random.default_rng(9).standard_normal((4, 8))
    return centers[labels] + 0.8 * rng.standard_normal((examples, 8)), labels


def test_draw_is_balanced_and_reproducible():
    labels = np.arange(40) % 4
    rows = draw(labels, 4, 3, 0)
    assert np.bincount(labels[rows]).tolist() == [3, 3, 3, 3]
    assert len(set(rows.tolist())) == 12
    assert draw(labels, 4, 3, 0).tolist() == rows.tolist()
    assert draw(labels, 4, 3, 1).tolist() != rows.tolist()
    with raises_user_error(field="shots", value=11, reason="class 0 has 10"):
        draw(labels, 4, 11, 0)


def test_few_shot_improves_with_shots_and_reports_the_spread():
    accuracies = few_shot(clouds(0), clouds(1), 4, shots=(1, 16), draws=2)
    assert [f.shots for f in accuracies] == [1, 16]
    assert accuracies[-1].mean > accuracies[0].mean
    for f in accuracies:
        assert f.low <= f.mean <= f.high
        assert f.draws == 2
    assert accuracies[0].std > 0


def test_few_shot_skips_shots_that_a_class_lacks():
    assert [f.shots for f in few_shot(clouds(0, 12), clouds(1), 4, shots=(1, 2, 4), draws=1)] == [1, 2]
    with raises_user_error(field="shots", value=[4], reason="has 3"):
        few_shot(clouds(0, 12), clouds(1), 4, shots=(4,), draws=1)

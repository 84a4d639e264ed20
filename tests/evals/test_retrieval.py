"""Recall by hand."""

import numpy as np
import pytest

from clip_jax.evals.retrieval import best_images, recalls


def as_dict(rows):
    return {r["metric"]: r for r in rows}


def test_recalls_of_perfect_and_shifted_embeddings_are_one_and_zero():
    x = np.eye(12)
    rows = as_dict(recalls(x, x, np.arange(12)))
    assert {r["value"] for r in rows.values()} == {1.0}
    wrong = as_dict(recalls(x, np.roll(x, 1, axis=0), np.arange(12)))
    assert wrong["text_to_image_recall@1"]["value"] == 0.0


def test_recalls_any_caption_of_the_image_is_a_hit():
    images = np.eye(2)
    texts = np.array([[1.0, 0], [0, 1], [0.2, 0.9], [0.1, 0.1]])
    rows = as_dict(recalls(images, texts, np.array([0, 0, 1, 1])))
    assert rows["image_to_text_recall@1"]["value"] == 0.5  # the second picture's best text belongs to the first
    assert rows["text_to_image_recall@1"]["value"] == 0.5  # texts 0 and 2; equal scores do not count
    assert rows["text_to_image_recall@1"]["chance"] == 0.5
    assert rows["image_to_text_recall@1"]["chance"] == pytest.approx(0.5)


def test_recalls_of_a_constant_model_are_zero():
    rows = as_dict(recalls(np.ones((12, 3)), np.ones((12, 3)), np.arange(12)))
    assert rows["text_to_image_recall@10"]["value"] == rows["image_to_text_recall@1"]["value"] == 0.0


def dense(images, texts, owner):
    """Compute the plain reference: the whole matrix at once."""
    scores = images @ texts.T
    n, m = scores.shape
    of_pair = scores[owner, np.arange(m)]
    text_rank = (scores >= of_pair[None, :]).sum(axis=0) - 1
    is_owner = owner[None, :] == np.arange(n)[:, None]
    best = np.where(is_owner, scores, -np.inf).max(axis=1, keepdims=True)
    return text_rank, ((scores >= best) & ~is_owner).sum(axis=1)


@pytest.mark.parametrize("chunk", [3, 7, 100])
def test_recalls_in_blocks_equal_the_whole_matrix(chunk):
    rng = np.random.default_rng(0)
    images, texts = rng.integers(-2, 3, (23, 4)).astype(float), rng.integers(-2, 3, (61, 4)).astype(float)
    owner = np.concatenate([np.arange(23), rng.integers(0, 23, 38)])
    text_rank, image_rank = dense(images, texts, owner)
    recall = as_dict(recalls(images, texts, owner, chunk=chunk))
    for k in (1, 5, 10):
        assert recall[f"text_to_image_recall@{k}"]["value"] == pytest.approx((text_rank < k).mean())
        assert recall[f"image_to_text_recall@{k}"]["value"] == pytest.approx((image_rank < k).mean())


@pytest.mark.parametrize("side", ["images", "texts"])
def test_recalls_non_finite_embedding_is_a_miss(side):
    x, y = np.eye(12), np.eye(12)
    {"images": x, "texts": y}[side][3] = np.nan
    rows = as_dict(recalls(x, y, np.arange(12)))
    for name, row in rows.items():
        assert row["value"] <= 11 / 12, name
    one = as_dict(recalls(np.full((12, 3), np.nan), np.full((12, 3), np.nan), np.arange(12)))
    assert {r["value"] for r in one.values()} == {0.0}


def test_best_images_of_a_few_texts_are_in_order():
    images = np.array([[1.0, 0], [0, 1], [0.8, 0.6]])
    texts, owner = np.array([[1.0, 0], [0, 1], [0.6, 0.8]]), np.array([0, 1, 2])
    assert best_images(images, texts, owner, rows=2, k=2).tolist() == [[0, 0, 0, 2], [2, 2, 2, 1]]
    assert best_images(images, texts, owner, rows=9, k=9).tolist()[1] == [1, 1, 1, 2, 0]

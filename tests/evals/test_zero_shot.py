"""Zero-shot classification on numbers one can do by hand."""

import numpy as np
import pytest

from clip_jax.data.labeled.classification import ClassificationSet
from clip_jax.data.tokenizers.learned_bpe import train_tokenizer
from clip_jax.evals.zero_shot import class_embeddings, classify, prompt_tokens


def task(labels, classes=3):
    n = len(labels)
    names = tuple(f"thing {i}" for i in range(classes))
    return ClassificationSet(
        "t", np.zeros((n, 1, 1, 3), np.uint8), np.array(labels, np.int32), names, ("a {c}", "{c}!")
    )


def test_classify_gives_top1_and_mean_per_class():
    images = np.eye(3)[[0, 0, 0, 1]]
    rows = {r["metric"]: r for r in classify(task([0, 0, 1, 1]), images, np.eye(3))}
    assert rows["top1"]["value"] == 0.75
    assert rows["top1"]["chance"] == pytest.approx(1 / 3)
    assert rows["top1"]["examples"] == 4
    assert rows["mean_per_class"]["value"] == 0.75
    assert "top5" not in rows


def test_classify_mean_per_class_weighs_classes_equally():
    images = np.eye(3)[[0, 0, 0, 2]]
    rows = {r["metric"]: r["value"] for r in classify(task([0, 0, 0, 1]), images, np.eye(3))}
    assert (rows["top1"], rows["mean_per_class"]) == (0.75, 0.5)


def test_classify_top5_of_many_classes():
    scores = np.zeros((1, 8))
    scores[0, :5] = [5, 4, 3, 2, 1]
    rows = [
        {r["metric"]: r["value"] for r in classify(task([label], 8), scores, np.eye(8))}["top5"] for label in (4, 5)
    ]
    assert rows == [1.0, 0.0]


def test_classify_of_a_constant_model_scores_zero():
    rows = classify(task([0, 1, 2]), np.ones((3, 4)), np.ones((3, 4)))
    assert rows[0]["value"] == 0.0


def test_class_embeddings_are_normalized_means():
    prompts = np.array([[1.0, 0], [0, 1], [0, 2], [0, 4]])
    np.testing.assert_allclose(class_embeddings(prompts, 2), [[0.5**0.5] * 2, [0, 1]])


def test_prompt_tokens_are_ordered_by_class():
    tokenizer = train_tokenizer(["a thing 0 1 2 !"] * 3, 300, 16)
    tokens = prompt_tokens(task([0]), tokenizer)
    assert [tokenizer.decode(t) for t in tokens[:3]] == ["a thing 0", "thing 0!", "a thing 1"]


def test_classify_non_finite_scores_are_misses():
    for k in (3, 8):
        rows = classify(task([0, 1, 2], k), np.full((3, k), np.nan), np.eye(k))
        assert {r["value"] for r in rows} == {0.0}


def test_classify_two_classes_of_one_name_count_as_the_first():
    twice = ClassificationSet(
        "t", np.zeros((2, 1, 1, 3), np.uint8), np.array([1, 2], np.int32), ("cat", "crane", "crane"), ("{c}",)
    )
    classes = np.eye(3)[[0, 1, 1]]
    assert classify(twice, np.eye(3)[[1, 1]], classes)[0]["value"] == 0.5

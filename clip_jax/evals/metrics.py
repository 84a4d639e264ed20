"""Metrics of the paper's data sets. Arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Literal

import numpy as np


def proportion_interval(
    share: float, count: int, method: Literal["exact", "wilson"], confidence: float = 0.95
) -> tuple[float, float]:
    """Return the confidence interval of a proportion.

    Args:
      share: the proportion. A mean over classes may lie between two whole numbers of hits: ``exact`` takes the nearer
        one, ``wilson`` interpolates between their bounds.
      count: number of examples.
      method: ``exact`` (Clopper & Pearson, 1934), whose coverage is at least nominal, or ``wilson`` (Wilson, 1927).
      confidence: nominal coverage.

    Returns:
      (low, high).
    """
    from scipy.stats import binomtest

    hits = min(max(share * count, 0.0), count)
    if method == "exact":
        hits = round(hits)
    whole = []
    for k in (math.floor(hits), math.ceil(hits)):
        # the p-value of a two-sided test is searched for, which takes ten times as long; the interval does not need it
        test = binomtest(k, count, alternative="less")
        test.alternative = "two-sided"
        whole.append(test.proportion_ci(confidence, method))
    low, high = ((1 - hits % 1) * below + hits % 1 * above for below, above in zip(*whole, strict=True))
    return float(low), float(high)


def target_scores(scores: np.ndarray) -> np.ndarray:
    """Return scores of the correct answers, non-finite ones replaced by -inf, which never wins (`label_ranks` etc.)."""
    return np.where(np.isfinite(scores), scores, -np.inf)


def rival_scores(scores: np.ndarray) -> np.ndarray:
    """Return scores of the wrong answers, NaN replaced by +inf, which beats everything."""
    return np.where(np.isnan(scores), np.inf, scores)


def label_ranks(scores: np.ndarray, labels: np.ndarray, alike: np.ndarray | None = None) -> np.ndarray:
    """Return the rank of each label's score, int [N]: 0 if it is the highest.

    Ties count against the label, so a constant model scores nothing; so do non-finite scores.

    Args:
      scores: [N, C]; -inf is never predicted.
      labels: int [N].
      alike: int [C], the first class with the same prompts (`first_alike`). Among such classes the first wins, like
        argmax
      in the published code.
    """
    label_scores = scores[np.arange(len(scores)), labels]
    ahead = rival_scores(scores) >= target_scores(label_scores)[:, None]
    if alike is not None:
        same = alike[None] == alike[labels][:, None]
        ahead = np.where(same, np.arange(scores.shape[1])[None] <= labels[:, None], ahead)
    return np.where(np.isfinite(label_scores), ahead.sum(axis=1) - 1, scores.shape[1])


def first_alike(prompts: Sequence[Hashable]) -> np.ndarray | None:
    """Return the first class with the same prompts for each class, int [C]; None if all differ."""
    first: dict[Hashable, int] = {}
    firsts = np.array([first.setdefault(p, i) for i, p in enumerate(prompts)])
    return firsts if len(first) < len(prompts) else None


def hits_at(scores: np.ndarray, labels: np.ndarray, k: int, alike: np.ndarray | None = None) -> np.ndarray:
    """Return whether each label is among the first k: scores [N, C], labels int [N] -> bool [N]. See `label_ranks`."""
    return label_ranks(scores, labels, alike) < np.minimum(k, scores.shape[1])


def mean_per_class(hits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the classes that occur of their recall."""
    return float(np.mean([hits[labels == c].mean() for c in np.unique(labels)]))


def _ranked(scores: np.ndarray, truth: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Yield precision and recall at each rank, hits bool [N] and the number of positives of each class with examples.

    A positive with a non-finite score is never retrieved.
    """
    for column in range(scores.shape[1]):
        positive = truth[:, column]
        if positive.any():
            values = np.where(positive, target_scores(scores[:, column]), rival_scores(scores[:, column]))
            order = np.argsort(-values, kind="stable")
            hit = (positive & np.isfinite(scores[:, column]))[order]
            retrieved = np.cumsum(hit)
            yield retrieved / np.arange(1, len(hit) + 1), retrieved / positive.sum(), hit, int(positive.sum())


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over classes of average precision: scores [N, C], truth bool [N, C].

    Classes without an example are left out.
    """
    return float(np.mean([precision[hit].sum() / count for precision, _, hit, count in _ranked(scores, truth)]))


def eleven_point_map(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return 11-point interpolated mean average precision (Everingham et al., 2010; VOC 2007).

    Args:
      scores: [N, C], higher is more certain.
      truth: bool [N, C]; several classes of a row may be true. Classes without an example are left out.
    """
    values = []
    for precision, recall, *_ in _ranked(scores, truth):
        # the epsilon keeps a recall of exactly 0.3 = 3/10 on the right side
        levels = [precision[recall >= level - 1e-12].max(initial=0.0) for level in np.linspace(0, 1, 11)]
        values.append(np.mean(levels))
    return float(np.mean(values))


def roc_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the probability that a positive outranks a negative, ties counting half (Mann & Whitney, 1947).

    NaN unless there are both positives and negatives.
    """
    from scipy.stats import rankdata

    positive = truth.astype(bool)
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return float("nan")
    scores = np.where(positive, target_scores(scores), rival_scores(scores))
    return float((rankdata(scores)[positive].sum() - p * (p + 1) / 2) / (p * n))

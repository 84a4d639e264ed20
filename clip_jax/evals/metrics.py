"""What the paper's data sets are scored by. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def clopper_pearson(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper & Pearson, 1934). Always holds at least the stated share."""
    from scipy.stats import beta

    hits, tail = round(share * count), (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, count - hits + 1))
    high = 1.0 if hits == count else float(beta.ppf(1 - tail, hits + 1, count - hits))
    return low, high


def hits_at(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Scores [N, C], labels int [N] -> bool [N]: is the label among the first k? Equal scores count against it."""
    own = scores[np.arange(len(scores)), labels][:, None]
    return (scores >= own).sum(axis=1) <= k


def mean_per_class(hits: np.ndarray, labels: np.ndarray) -> float:
    """Recall of each class that occurs, averaged."""
    return float(np.mean([hits[labels == c].mean() for c in np.unique(labels)]))


def _ranked(scores: np.ndarray, truth: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each class that has an example: precision and recall after each rank, and which ranks are true."""
    for column in range(scores.shape[1]):
        positive = truth[:, column]
        if positive.any():
            hit = positive[np.argsort(-scores[:, column], kind="stable")]
            found = np.cumsum(hit)
            yield found / np.arange(1, len(hit) + 1), found / found[-1], hit


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean over classes of the precision at each true example's rank: scores [N, C], truth bool [N, C].

    Classes without an example are left out.
    """
    return float(np.mean([precision[hit].mean() for precision, _, hit in _ranked(scores, truth)]))


def eleven_point_map(scores: np.ndarray, truth: np.ndarray) -> float:
    """11-point interpolated mean average precision (Everingham et al., 2010; VOC 2007).

    Args:
      scores: [N, C], higher is more certain.
      truth: bool [N, C]; several classes of a row may be true. Classes without an example are left out.
    """
    values = []
    for precision, recall, _ in _ranked(scores, truth):
        # the epsilon keeps a recall of exactly 0.3 = 3/10 on the right side
        levels = [precision[recall >= level - 1e-12].max(initial=0.0) for level in np.linspace(0, 1, 11)]
        values.append(np.mean(levels))
    return float(np.mean(values))


def roc_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The chance that a positive outranks a negative, ties half (Mann & Whitney, 1947). NaN without both kinds."""
    from scipy.stats import rankdata

    positive = truth.astype(bool)
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - p * (p + 1) / 2) / (p * n))

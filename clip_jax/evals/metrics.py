"""What the paper's data sets are scored by. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np


def clopper_pearson(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper & Pearson, 1934). Always holds at least the stated share."""
    from scipy.stats import beta

    hits, tail = round(share * count), (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, count - hits + 1))
    high = 1.0 if hits == count else float(beta.ppf(1 - tail, hits + 1, count - hits))
    return low, high


def as_own(scores: np.ndarray) -> np.ndarray:
    """Scores of what should win: one that is not finite is -inf, which never does (`label_ranks` and its like)."""
    return np.where(np.isfinite(scores), scores, -np.inf)


def as_rival(scores: np.ndarray) -> np.ndarray:
    """Scores of what should lose: one that is no number is +inf, ahead of everything."""
    return np.where(np.isnan(scores), np.inf, scores)


def label_ranks(scores: np.ndarray, labels: np.ndarray, alike: np.ndarray | None = None) -> np.ndarray:
    """How many classes are as good as the label's or better: int [N], 0 where it is first.

    Equal scores count against the label, so that a constant model scores nothing, and so does what is not finite.

    Args:
      scores: [N, C]; -inf is never predicted.
      labels: int [N].
      alike: int [C], the first class that has the same prompts (`first_alike`). Among those the first wins, as argmax
        has it in the published code.
    """
    own = scores[np.arange(len(scores)), labels]
    ahead = as_rival(scores) >= as_own(own)[:, None]
    if alike is not None:
        same = alike[None] == alike[labels][:, None]
        ahead = np.where(same, np.arange(scores.shape[1])[None] <= labels[:, None], ahead)
    return np.where(np.isfinite(own), ahead.sum(axis=1) - 1, scores.shape[1])


def first_alike(prompts: Sequence[Hashable]) -> np.ndarray | None:
    """For each class the first one with the same prompts, int [C]; None where all differ."""
    first: dict[Hashable, int] = {}
    found = np.array([first.setdefault(p, i) for i, p in enumerate(prompts)])
    return found if len(first) < len(prompts) else None


def hits_at(scores: np.ndarray, labels: np.ndarray, k: int, alike: np.ndarray | None = None) -> np.ndarray:
    """Scores [N, C], labels int [N] -> bool [N]: is the label among the first k? See `label_ranks`."""
    return label_ranks(scores, labels, alike) < np.minimum(k, scores.shape[1])


def mean_per_class(hits: np.ndarray, labels: np.ndarray) -> float:
    """Recall of each class that occurs, averaged."""
    return float(np.mean([hits[labels == c].mean() for c in np.unique(labels)]))


def _ranked(scores: np.ndarray, truth: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Of each class that has an example: precision and recall after each rank, which ranks are true, and how many
    should be. What is not finite is never found."""
    for column in range(scores.shape[1]):
        positive = truth[:, column]
        if positive.any():
            values = np.where(positive, as_own(scores[:, column]), as_rival(scores[:, column]))
            order = np.argsort(-values, kind="stable")
            hit = (positive & np.isfinite(scores[:, column]))[order]
            found = np.cumsum(hit)
            yield found / np.arange(1, len(hit) + 1), found / positive.sum(), hit, int(positive.sum())


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean over classes of the precision at each true example's rank: scores [N, C], truth bool [N, C].

    Classes without an example are left out.
    """
    return float(np.mean([precision[hit].sum() / count for precision, _, hit, count in _ranked(scores, truth)]))


def eleven_point_map(scores: np.ndarray, truth: np.ndarray) -> float:
    """11-point interpolated mean average precision (Everingham et al., 2010; VOC 2007).

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
    """The chance that a positive outranks a negative, ties half (Mann & Whitney, 1947). NaN without both kinds."""
    from scipy.stats import rankdata

    positive = truth.astype(bool)
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return float("nan")
    scores = np.where(positive, as_own(scores), as_rival(scores))
    return float((rankdata(scores)[positive].sum() - p * (p + 1) / 2) / (p * n))

"""k-nearest-neighbor classification weighted by similarity (Wu et al., 2018; Caron et al., 2021)."""

from __future__ import annotations

import numpy as np


def knn_scores(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, *, k: int = 20, temperature: float = 0.07,
    chunk: int = 1024,
) -> np.ndarray:  # fmt: skip
    """Return the votes of the ``k`` nearest training examples; each vote is weighted exp(cosine / temperature).

    Args:
      train: embeddings of length 1 [N, E].
      labels: int [N], or bool [N, C]: a neighbor then votes for each of its classes.
      test: embeddings of length 1 [M, E].
      classes: C.
      k: number of neighbors.
      temperature: of the weights.
      chunk: test rows compared at a time.

    Returns:
      Votes [M, C], up to a factor.
    """
    k = min(k, len(train))
    out = np.zeros((len(test), classes))
    for start in range(0, len(test), chunk):
        similar = test[start : start + chunk] @ train.T
        near = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        weight = np.exp((np.take_along_axis(similar, near, axis=1) - 1.0) / temperature)
        if labels.ndim == 2:
            out[start : start + len(similar)] = np.einsum("qk,qkc->qc", weight, labels[near])
            continue
        rows = np.repeat(np.arange(len(similar)), k)
        np.add.at(out, (start + rows, labels[near].ravel()), weight.ravel())
    return out

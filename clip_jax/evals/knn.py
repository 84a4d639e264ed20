"""Nearest neighbours vote by similarity (Wu et al., 2018; Caron et al., 2021)."""

from __future__ import annotations

import numpy as np


def knn_scores(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, *, k: int = 20, temperature: float = 0.07,
    chunk: int = 1024,
) -> np.ndarray:  # fmt: skip
    """Embeddings of length 1, [N, E] and [M, E] -> votes [M, C]; a neighbour's vote is exp(cosine / temperature).

    Labels are int [N], or bool [N, C]: then a neighbour votes for each of its classes.
    ``chunk`` test rows are compared at a time.
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

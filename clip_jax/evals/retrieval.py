"""Zero-shot retrieval between held-out pictures and their captions: recall at 1, 5 and 10."""

from __future__ import annotations

import math

import numpy as np

from clip_jax.evals.zero_shot import Row, row

KS = (1, 5, 10)


def recalls(images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray) -> list[Row]:
    """Embeddings [N, E] and [M, E], owners int [M] -> recall in both directions.

    Image to text is a hit when *any* of the picture's captions is among the first k (Karpathy & Fei-Fei, 2015).
    Equal scores count against the model.
    """
    scores = images @ texts.T
    n, m = scores.shape
    own = scores[image_of_text, np.arange(m)]
    text_rank = (scores >= own[None, :]).sum(axis=0) - 1
    mine = image_of_text[None, :] == np.arange(n)[:, None]
    best = np.where(mine, scores, -np.inf).max(axis=1, keepdims=True)
    image_rank = ((scores >= best) & ~mine).sum(axis=1)
    captions = mine.sum(axis=1)
    rows = []
    for k in KS:
        if k < n:
            rows.append(row("retrieval", f"text_to_image_recall@{k}", float((text_rank < k).mean()), m, k / n))
        if k < m:
            chance = float(np.mean([1 - math.comb(m - c, k) / math.comb(m, k) for c in captions.tolist()]))
            rows.append(row("retrieval", f"image_to_text_recall@{k}", float((image_rank < k).mean()), n, chance))
    return rows

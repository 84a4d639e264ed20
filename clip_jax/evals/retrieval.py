"""Zero-shot retrieval between held-out images and their captions: recall at 1, 5 and 10."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from clip_jax.evals.metrics import rival_scores, target_scores
from clip_jax.evals.zero_shot import Row, row

KS = (1, 5, 10)


def recalls(images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray, *, chunk: int = 4096) -> list[Row]:
    """Compute recall in both directions.

    Image to text is a hit if *any* of the image's captions is among the first k (Karpathy & Fei-Fei, 2015). Ties count
    against the model. Scores are formed ``chunk`` × ``chunk`` at a time, twice: once to find the score of each correct
    pair, once to count the scores that are at least as high; nothing of size N·M is ever held.

    Args:
      images: embeddings [N, E].
      texts: embeddings [M, E].
      image_of_text: int [M], the index of each text's image.
      chunk: rows and columns of scores formed at a time.
    """
    n, m = len(images), len(texts)
    dtype = np.result_type(images, texts)
    pair_scores, best = np.empty(m, dtype), np.full(n, -np.inf, dtype)
    for rows, columns, scores in _blocks(images, texts, chunk):
        correct = image_of_text[columns][None, :] == np.arange(rows.start, rows.stop)[:, None]
        i, j = np.nonzero(correct)
        pair_scores[columns.start + j] = target_scores(scores[i, j])
        best[rows] = np.maximum(best[rows], np.where(correct, target_scores(scores), -np.inf).max(axis=1))
    text_rank, image_rank = np.full(m, -1), np.zeros(n, np.int64)  # each text's correct image counts itself
    for rows, columns, scores in _blocks(images, texts, chunk):
        correct = image_of_text[columns][None, :] == np.arange(rows.start, rows.stop)[:, None]
        rivals = rival_scores(scores)
        text_rank[columns] += (rivals >= pair_scores[columns][None, :]).sum(axis=0)
        image_rank[rows] += ((rivals >= best[rows][:, None]) & ~correct).sum(axis=1)
    text_rank[pair_scores == -np.inf], image_rank[best == -np.inf] = n, m  # a non-finite score is never a hit
    captions = np.bincount(image_of_text, minlength=n)
    rows_out = []
    for k in KS:
        if k < n:
            rows_out.append(row("retrieval", f"text_to_image_recall@{k}", float((text_rank < k).mean()), m, k / n))
        if k < m:
            counts, times = np.unique(captions, return_counts=True)
            misses = [math.comb(m - c, k) / math.comb(m, k) for c in counts.tolist()]
            chance = 1 - float(np.average(misses, weights=times))
            rows_out.append(row("retrieval", f"image_to_text_recall@{k}", float((image_rank < k).mean()), n, chance))
    return rows_out


def best_images(images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray, rows: int, k: int) -> np.ndarray:
    """Rank images for a few texts, spread evenly over all.

    Args:
      images: embeddings [N, E].
      texts: embeddings [M, E].
      image_of_text: int [M], the index of each text's image.
      rows: number of texts.
      k: number of images for each.

    Returns:
      int [min(rows, M), 2 + min(k, N)]: the text, its image, and the images with the highest scores, best first.
    """
    chosen = np.linspace(0, len(texts) - 1, min(rows, len(texts))).round().astype(int)
    order = np.argsort(-(texts[chosen] @ images.T), axis=1, kind="stable")[:, :k]
    return np.column_stack([chosen, image_of_text[chosen], order])


def _blocks(images: np.ndarray, texts: np.ndarray, chunk: int) -> Iterator[tuple[slice, slice, np.ndarray]]:
    for i in range(0, len(images), chunk):
        for j in range(0, len(texts), chunk):
            rows, columns = slice(i, min(i + chunk, len(images))), slice(j, min(j + chunk, len(texts)))
            yield rows, columns, images[rows] @ texts[columns].T

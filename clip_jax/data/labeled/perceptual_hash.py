"""Near-duplicates of evaluation images in training data, and accuracy without them.

Follows the overlap analysis of Radford et al., 2021, section 5, with a perceptual hash in place of their trained
detector: the sign of the lowest 8 × 8 cosine frequencies relative to their median, 64 bits (pHash; Zauner, 2010).
Rescaling and recompression flip a few bits; unrelated images differ in about 32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from clip_jax.data.images.open import Picture, eight_bit, open_image

SIDE, LOW = 32, 8
MAX_DISTANCE = 6  # bits


def _cosines() -> np.ndarray:
    k, x = np.arange(LOW)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * k * (2 * x + 1) / (2 * SIDE))


_DCT = _cosines()


def perceptual_hash(image: Picture) -> np.uint64:
    """Return the 64-bit hash of any image that `open_image` opens. Raises BrokenRecord when it cannot be decoded."""
    from PIL import Image

    gray = eight_bit(open_image(image)).convert("RGB").convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    low = (_DCT @ np.asarray(gray, np.float64) @ _DCT.T).ravel()
    bits = low > np.median(low[1:])  # without the mean brightness, which is not content
    return np.packbits(bits).view(">u8").astype(np.uint64)[0]


def hashes(images: Iterable[Picture]) -> np.ndarray:
    """Return the hash of each image, uint64 [N]."""
    return np.array([perceptual_hash(i) for i in images], np.uint64)


def nearest(train: np.ndarray, evals: np.ndarray, *, chunk: int = 1 << 22) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest training hash of each evaluation hash.

    Args:
      train: uint64 [N].
      evals: uint64 [M].
      chunk: maximum number of distances held in memory at a time.

    Returns:
      Index into ``train`` and Hamming distance in bits, int [M] each; -1 and 65 when N is 0.
    """
    index, distance = np.full(len(evals), -1), np.full(len(evals), 65)
    rows = max(1, chunk // max(1, len(evals)))
    for start in range(0, len(train), rows):
        block = np.bitwise_count(train[start : start + rows, None] ^ evals[None]).astype(int)
        best = block.argmin(axis=0)
        bits = block[best, np.arange(len(evals))]
        closer = bits < distance
        index[closer], distance[closer] = start + best[closer], bits[closer]
    return index, distance


@dataclass(frozen=True)
class Overlap:
    """Near-duplicates of M evaluation images in the training set.

    ``duplicate`` bool [M]: within the maximum distance; ``index``, ``distance`` int [M]: the nearest training image.
    """

    duplicate: np.ndarray
    index: np.ndarray
    distance: np.ndarray

    def accuracy(self, hits: np.ndarray) -> dict[str, float]:
        """Split accuracy into the clean and the overlapping part of an evaluation set.

        Args:
          hits: bool [M], per example.

        Returns:
          Accuracy on ``all``, ``clean`` and ``overlap``; ``gain``: all minus clean; ``p_value``: one-sided binomial, of
            the
          overlap being no easier than the clean part. NaN where a part is empty.
        """
        from scipy.stats import binomtest

        clean, same = hits[~self.duplicate], hits[self.duplicate]
        out = {"all": float(hits.mean())}
        out["clean"] = float(clean.mean()) if len(clean) else float("nan")
        out["overlap"] = float(same.mean()) if len(same) else float("nan")
        out["gain"] = out["all"] - out["clean"]
        enough = len(clean) and len(same)
        out["p_value"] = (
            float(binomtest(int(same.sum()), len(same), out["clean"], alternative="greater").pvalue)
            if enough
            else float("nan")
        )
        return out


def find_overlap(train: np.ndarray, evals: np.ndarray, max_distance: int = MAX_DISTANCE) -> Overlap:
    """Find the evaluation images that have a training image within ``max_distance`` bits; both are hashes, uint64."""
    index, distance = nearest(train, evals)
    return Overlap(distance <= max_distance, index, distance)

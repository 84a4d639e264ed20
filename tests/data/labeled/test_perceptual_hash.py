"""Near-duplicates are found, others are not, and accuracy is told with and without them."""

import io

import numpy as np
import pytest
from PIL import Image

from clip_jax.data.labeled.perceptual_hash import Overlap, find_overlap, hashes, nearest, perceptual_hash


def picture(seed):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (7, 7, 3), np.uint8))
    return coarse.resize((120, 90), Image.Resampling.BICUBIC)


def changed(image):
    out = io.BytesIO()
    image.resize((64, 48)).save(out, "JPEG", quality=60)
    return out.getvalue()


def test_find_overlap_finds_rescaled_and_recompressed_images_only():
    train = hashes(picture(s) for s in range(60))
    evals = hashes([changed(picture(s)) for s in range(50, 80)])
    overlap = find_overlap(train, evals)
    assert overlap.duplicate.tolist() == [True] * 10 + [False] * 20
    assert overlap.index[:10].tolist() == list(range(50, 60))
    assert overlap.distance[10:].min() > 10


def test_perceptual_hash_ignores_brightness():
    image = picture(0)
    darker = Image.fromarray((np.asarray(image) * 0.8).astype(np.uint8))
    assert int(np.bitwise_count(perceptual_hash(image) ^ perceptual_hash(darker))) <= 2


def test_nearest_in_chunks_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    train, evals = (rng.integers(0, 2**63, n, dtype=np.uint64) for n in (37, 9))
    index, distance = nearest(train, evals, chunk=20)
    for m, value in enumerate(evals):
        bits = [int(t ^ value).bit_count() for t in train]
        assert distance[m] == min(bits)
        assert bits[index[m]] == min(bits)


def test_overlap_accuracy_with_and_without_duplicates():
    duplicate = np.array([True] * 4 + [False] * 6)
    hits = np.array([True] * 4 + [True, False] * 3)
    accuracy = Overlap(duplicate, np.zeros(10, int), np.zeros(10, int)).accuracy(hits)
    assert (accuracy["all"], accuracy["clean"], accuracy["overlap"]) == (0.7, 0.5, 1.0)
    assert accuracy["gain"] == pytest.approx(0.2)
    assert accuracy["p_value"] == pytest.approx(0.5**4)
    none = Overlap(~duplicate & False, np.zeros(10, int), np.zeros(10, int)).accuracy(hits)
    assert np.isnan(none["overlap"])
    assert none["gain"] == 0.0

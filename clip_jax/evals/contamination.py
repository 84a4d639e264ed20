"""Contamination: evaluation images that were trained on, and accuracy without them (Radford et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.data.labeled.class_names import Pairing
from clip_jax.data.labeled.open import open_labeled
from clip_jax.data.labeled.perceptual_hash import find_overlap, perceptual_hash
from clip_jax.data.sources.base import BrokenRecord
from clip_jax.data.sources.folder import CaptionedFolder, holds_captions
from clip_jax.data.sources.shard_list import holds_shards, shards_of
from clip_jax.data.sources.webdataset import Shards
from clip_jax.errors import UserError
from clip_jax.evals import benchmark, metrics

MAX_PAIRS_SHOWN = 5


def _pictures(path: Path, split: str) -> tuple[int, Callable[[int], Any], Callable[[int], str]]:
    """Open images with captions, labels or neither: their number, and functions of position to image and name."""
    if not path.exists():
        raise UserError(field=path, reason="no such folder")
    if holds_shards(path):
        shards = Shards(shards_of(path, split))
        return len(shards), shards.image, shards.name
    if holds_captions(path):
        source = CaptionedFolder(path, split)
        return len(source), lambda i: source[i].image, source.name
    labeled = open_labeled(path, "place").split(split)  # names are not used
    return len(labeled.labels), labeled.picture, labeled.name


def _hashes(path: Path, split: str) -> tuple[np.ndarray, Callable[[int], str], int]:
    """Hash all readable images: uint64 [N], a function of position to name, and the number of unreadable ones."""
    count, picture, name = _pictures(path, split)
    values, kept = [], []
    for i in range(count):
        try:
            values.append(perceptual_hash(picture(i)))
            kept.append(i)
        except BrokenRecord:
            continue
    if not values:
        raise UserError(field=path, reason=f"no picture of its {split} split can be read")
    return np.array(values, np.uint64), lambda i: name(kept[i]), count - len(kept)


def overlap_report(
    train: str | Path, evals: str | Path, model: benchmark.Model | None = None, *, max_distance: int = 6,
    train_split: str = "train", eval_split: str = "test", pair: Pairing = "name",
) -> str:  # fmt: skip
    """Report near-duplicates of an evaluation set in the training set, for people.

    With a model, also its zero-shot accuracy on the whole set, on the clean part and on the overlap.

    Args:
      train, evals: folders of the two sets.
      model: or None.
      max_distance: Hamming distance of hashes, 0 to 64 bits.
      train_split, eval_split: splits to compare.
      pair: as in `open_labeled`.

    Raises:
      UserError: a folder, a split or the class names are missing, or an evaluation image cannot be read.
    """
    if not 0 <= max_distance <= 64:
        raise UserError(field="--max-distance", value=max_distance, reason="must lie between 0 and 64 bits")
    train, evals = Path(train), Path(evals)
    train_hashes, train_name, broken = _hashes(train, train_split)
    eval_hashes, eval_name, lost = _hashes(evals, eval_split)
    if lost:
        raise UserError(field=evals, reason=f"{lost} pictures of its {eval_split} split cannot be read")
    overlap = find_overlap(train_hashes, eval_hashes, max_distance)
    count = int(overlap.duplicate.sum())
    total = len(eval_hashes)
    low, high = metrics.proportion_interval(count / total, total, "exact")
    lines = [
        f"{len(train_hashes):,} training pictures ({broken} unreadable), {total:,} for evaluation",
        f"near-duplicates within {max_distance} bits: {count} ({count / total:.2%}, 95 % {low:.2%} to {high:.2%})",
    ]
    for i in np.argsort(overlap.distance, kind="stable")[: min(MAX_PAIRS_SHOWN, count)].tolist():
        lines.append(f"  {int(overlap.distance[i])} bits: {eval_name(i)} ~ {train_name(int(overlap.index[i]))}")
    if model is not None:
        data = open_labeled(evals, pair)
        split = data.split(eval_split)
        if split.labels.ndim == 2:
            raise UserError(field=evals, reason="is multi-label and has no accuracy", hint="omit --model")
        texts, _ = benchmark.class_prompts(benchmark.BenchmarkSet(evals.name, str(evals)), data)
        weights = benchmark.classifier(model, texts)
        scores = np.concatenate([
            benchmark.embed_split(model, split, rows)[0] @ weights.T
            for rows in np.array_split(np.arange(total), -(-total // benchmark.IMAGES_PER_BATCH))
        ])  # fmt: skip
        hits = metrics.hits_at(scores, split.labels, 1, metrics.first_alike([tuple(t) for t in texts]))
        parts = overlap.accuracy(hits)
        lines.append(
            f"zero-shot accuracy: all {parts['all']:.4f}, clean {parts['clean']:.4f}, overlap {parts['overlap']:.4f}; "
            f"the overlap adds {parts['gain']:+.4f} (p = {parts['p_value']:.3g})"
        )
    return "\n".join(lines)

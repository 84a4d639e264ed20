"""Zero-shot classification with prompt ensembles (Radford et al., 2021, section 3.1)."""

from __future__ import annotations

import numpy as np

from clip_jax.data.labeled.classification import ClassificationSet
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.evals.metrics import first_alike, hits_at, mean_per_class, proportion_interval
from clip_jax.storage.records import Measurement

Row = Measurement


def row(task: str, metric: str, value: float, examples: int, chance: float | None) -> Row:
    """Return the row of one measured proportion, with its 95 % interval."""
    low, high = proportion_interval(value, examples, "wilson")
    return {
        "task": task, "metric": metric, "value": value, "low": low, "high": high,
        "examples": examples, "chance": chance,
    }  # fmt: skip


def prompt_tokens(task: ClassificationSet, tokenizer: Tokenizer) -> np.ndarray:
    """Tokenize every template of every class, class by class: int32 [classes · templates, T]."""
    return tokenizer.encode([t.replace("{c}", c) for c in task.class_names for t in task.templates])


def class_embeddings(prompts: np.ndarray, classes: int) -> np.ndarray:
    """Return the normalized mean prompt embedding of each class: [classes · templates, E] -> [classes, E]."""
    mean = prompts.reshape(classes, -1, prompts.shape[-1]).mean(axis=1)
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def classify(task: ClassificationSet, images: np.ndarray, classes: np.ndarray) -> list[Row]:
    """Return rows of top-1, top-5 (if there are more than five classes) and mean per class.

    Args:
      task: the labeled set.
      images: embeddings [N, E].
      classes: class embeddings [classes, E].
    """
    return score_rows(task, images @ classes.T)


def score_rows(task: ClassificationSet, scores: np.ndarray) -> list[Row]:
    """Return the rows of `classify` from scores [N, classes]; -inf is never predicted."""
    alike, count, total = first_alike(task.class_names), len(task.class_names), len(task.labels)
    hit = hits_at(scores, task.labels, 1, alike)
    rows = [row(task.name, "top1", float(hit.mean()), total, 1 / count)]
    if count > 5:
        rows.append(row(task.name, "top5", float(hits_at(scores, task.labels, 5, alike).mean()), total, 5 / count))
    rows.append(row(task.name, "mean_per_class", mean_per_class(hit, task.labels), total, 1 / count))
    return rows

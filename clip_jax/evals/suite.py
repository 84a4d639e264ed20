"""All that is measured of one run, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax.config import RunConfig, UserError
from clip_jax.data.classification import ClassificationSet, load_classification_set
from clip_jax.data.loader import retrieval_set, validation_pairs
from clip_jax.data.sources import Source
from clip_jax.data.tokenizers import Tokenizer
from clip_jax.evals.encode import Encoder
from clip_jax.evals.retrieval import recalls
from clip_jax.evals.validation import validation_loss
from clip_jax.evals.zero_shot import Row, class_embeddings, classify, prompt_tokens

Evaluator = Callable[[Any], list[Row]]


def zero_shot_sets(config: RunConfig, entries: tuple[str, ...]) -> list[ClassificationSet]:
    """The built-in tasks for the entry "scenes", a folder for anything else.

    Raises UserError when two tasks share a name or a folder is missing.
    """
    size, limit = config.model.image.image_size, config.evals.examples
    sets: list[ClassificationSet] = []
    for entry in entries:
        if entry == "scenes":
            from clip_jax.data.scene_tasks import zero_shot_tasks

            sets += zero_shot_tasks(config.data.scenes, size, limit or 2000)
        elif not Path(entry).is_dir():
            raise UserError(f"evals.zero_shot, evals.controls: {entry}: no such folder (or the word scenes)")
        else:
            sets.append(load_classification_set(entry, size, limit))
    return sets


def mean_error(rows: list[Row], tasks: set[str]) -> float | None:
    """1 - top-1, averaged over the named zero-shot tasks; None without tasks."""
    errors = [1.0 - r["value"] for r in rows if r["metric"] == "top1" and r["task"] in tasks]
    return float(np.mean(errors)) if errors else None


def make_evaluator(config: RunConfig, built: Any, mesh: Mesh, held_out: Source, tokenizer: Tokenizer) -> Evaluator:
    """parameters -> rows {task, metric, value, low, high, examples, chance}.

    Zero-shot tasks, controls, retrieval, the validation loss, and a summary of the tasks without the controls:
    task ``zero_shot_mean``, metric ``error``. Data is read and tokenised now, once.

    Raises UserError when some of it is missing, or two tasks share a name.
    """
    counted = zero_shot_sets(config, config.evals.zero_shot)
    sets = counted + zero_shot_sets(config, config.evals.controls)
    names = [s.name for s in sets]
    if len(set(names)) < len(names):
        raise UserError(f"evals.zero_shot, evals.controls: two tasks share a name ({', '.join(names)})")
    prompts = [prompt_tokens(s, tokenizer) for s in sets]
    pairs = validation_pairs(config, held_out, tokenizer)
    retrieval = retrieval_set(config, held_out, tokenizer)
    encoder = Encoder(built, mesh, config.evals.batch_size)

    def evaluate(params: Any) -> list[Row]:
        rows: list[Row] = []
        for task, tokens in zip(sets, prompts, strict=True):
            classes = class_embeddings(encoder.texts(params, tokens), len(task.class_names))
            rows += classify(task, encoder.images(params, task.images), classes)
        error = mean_error(rows, {s.name for s in counted})
        if error is not None:
            chance = float(np.mean([1 - 1 / len(s.class_names) for s in counted]))
            examples = sum(len(s.labels) for s in counted)
            rows.append(
                {
                    "task": "zero_shot_mean",
                    "metric": "error",
                    "value": error,
                    "examples": examples,
                    "chance": chance,
                }
            )
        rows += recalls(
            encoder.images(params, retrieval["images"]),
            encoder.texts(params, retrieval["tokens"]),
            retrieval["image_of_text"],
        )
        scale = min(float(np.exp(np.asarray(jax.device_get(params["logit_scale"])))), config.model.max_logit_scale)
        rows += validation_loss(
            encoder.images(params, pairs["images"]), encoder.texts(params, pairs["tokens"]), scale,
            config.evals.val_pairs,
        )  # fmt: skip
        return rows

    return evaluate

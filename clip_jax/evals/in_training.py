"""The evaluation of a run: zero-shot tasks, retrieval, validation loss, summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax import flops
from clip_jax.config import RunConfig
from clip_jax.data.labeled.classification import ClassificationSet, load_classification_set
from clip_jax.data.pipeline.loader import retrieval_set, validation_pairs
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.errors import UserError
from clip_jax.evals.encode import Encoder
from clip_jax.evals.predictive import PredictiveEvaluation
from clip_jax.evals.retrieval import recalls
from clip_jax.evals.validation import validation_loss
from clip_jax.evals.zero_shot import Row, class_embeddings, classify, prompt_tokens


def zero_shot_sets(config: RunConfig, entries: tuple[str, ...]) -> list[ClassificationSet]:
    """Return the built-in tasks for the entry "scenes", the set in the folder for any other.

    Raises UserError when a folder is missing.
    """
    size, limit = config.model.image.image_size, config.evals.examples
    sets: list[ClassificationSet] = []
    for entry in entries:
        if entry == "scenes":
            from clip_jax.data.scenes.tasks import zero_shot_tasks

            sets += zero_shot_tasks(config.data.scenes, size, limit or 2000)
        elif not Path(entry).is_dir():
            raise UserError(
                field="evals.zero_shot, evals.controls", value=entry, reason="must be a folder or the word scenes"
            )
        else:
            sets.append(load_classification_set(entry, size, limit, pixels=config.pixels))
    return sets


def mean_error(rows: list[Row], tasks: set[str], metric: str = "top1") -> float | None:
    """Return 1 - top-1 averaged over the named zero-shot tasks; None if there are none."""
    errors = [1.0 - r["value"] for r in rows if r["metric"] == metric and r["task"] in tasks]
    return float(np.mean(errors)) if errors else None


def _summary(rows: list[Row], counted: list[ClassificationSet]) -> list[Row]:
    summary = []
    for metric, name in (("top1", "error"), ("top1_raw", "error_raw"), ("top1_prior", "error_prior")):
        error = mean_error(rows, {s.name for s in counted}, metric)
        if error is not None:
            chance = float(np.mean([1 - 1 / len(s.class_names) for s in counted]))
            examples = sum(len(s.labels) for s in counted)
            summary.append({"task": "zero_shot_mean", "metric": name, "value": error, "examples": examples,
                          "chance": chance})  # fmt: skip
    return summary


class ContrastiveEvaluation:
    """Evaluation of a contrastive model: zero-shot tasks, retrieval, validation loss. Data is read when constructed."""

    def __init__(
        self, config: RunConfig, built: Any, mesh: Mesh, held_out: Source, tokenizer: Tokenizer,
        sets: list[ClassificationSet],
    ) -> None:  # fmt: skip
        self.config, self.sets = config, sets
        self.prompts = [prompt_tokens(s, tokenizer) for s in sets]
        self.pairs = validation_pairs(config, held_out, tokenizer)
        self.retrieval = retrieval_set(config, held_out, tokenizer)
        mean, std = config.pixels.mean, config.pixels.std
        self.encoder = Encoder(built, mesh, config.evals.batch_size, mean=mean, std=std)

    @property
    def flops(self) -> float:
        """Forward FLOPs of one evaluation."""
        per_pair, others = flops.flops_per_sample(self.config.model), (self.pairs, self.retrieval)
        images = sum(len(s.images) for s in self.sets) + sum(len(o["images"]) for o in others)
        texts = sum(len(p) for p in self.prompts) + sum(len(o["tokens"]) for o in others)
        return float(images * per_pair.image + texts * per_pair.text)

    def __call__(self, params: Any) -> tuple[list[Row], list[Row]]:
        """Return the rows of the zero-shot tasks, and the other rows."""
        encoder, rows = self.encoder, []
        for task, tokens in zip(self.sets, self.prompts, strict=True):
            prompts = encoder.texts(params, tokens, f"{task.name}: ")
            classes = class_embeddings(prompts, len(task.class_names))
            rows += classify(task, encoder.images(params, task.images, f"{task.name}: "), classes)
        other = recalls(
            encoder.images(params, self.retrieval["images"], "retrieval: "),
            encoder.texts(params, self.retrieval["tokens"], "retrieval: "),
            self.retrieval["image_of_text"],
        )
        scale = float(np.exp(np.asarray(jax.device_get(params["logit_scale"]))))
        scale = min(scale, self.config.model.max_logit_scale)
        other += validation_loss(
            encoder.images(params, self.pairs["images"], "validation: "),
            encoder.texts(params, self.pairs["tokens"], "validation: "), scale, self.config.evals.val_pairs,
        )  # fmt: skip
        return rows, other


@dataclass(frozen=True)
class Evaluator:
    """A function of the parameters to rows {task, metric, value, low, high, examples, chance}.

    ``flops`` are the forward FLOPs of one call.
    """

    measure: Callable[[Any], tuple[list[Row], list[Row]]]
    counted: list[ClassificationSet]  # without the controls
    flops: float

    def __call__(self, params: Any) -> list[Row]:
        rows, other = self.measure(params)
        return rows + _summary(rows, self.counted) + other


def make_evaluator(config: RunConfig, built: Any, mesh: Mesh, held_out: Source, tokenizer: Tokenizer) -> Evaluator:
    """Return the evaluator of a run. Data is read and tokenized once, now.

    Its rows: zero-shot tasks, controls, those of the objective (retrieval, validation), and the mean over the tasks
    without the controls: task ``zero_shot_mean``, metric ``error`` (for a predictive objective also ``error_raw`` and
    ``error_prior``).

    Raises UserError when data is missing, or two tasks share a name.
    """
    counted = zero_shot_sets(config, config.evals.zero_shot)
    sets = counted + zero_shot_sets(config, config.evals.controls)
    names = [s.name for s in sets]
    if len(set(names)) < len(names):
        raise UserError(field="evals.zero_shot, evals.controls", value=names, reason="two tasks have the same name")
    kind = ContrastiveEvaluation if config.model.objective == "contrastive" else PredictiveEvaluation
    measure = kind(config, built, mesh, held_out, tokenizer, sets)
    return Evaluator(measure, counted, measure.flops)

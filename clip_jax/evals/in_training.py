"""The evaluation of a run: zero-shot tasks, retrieval, validation loss, summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax import flops
from clip_jax.config import RunConfig
from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.labeled.classification import ClassificationSet, load_classification_set
from clip_jax.data.pipeline.loader import retrieval_set, validation_pairs
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.errors import UserError, short
from clip_jax.evals.embedding_model import EmbeddingModel
from clip_jax.evals.encode import Encoder
from clip_jax.evals.predictive import PredictiveEvaluation
from clip_jax.evals.retrieval import best_images, recalls
from clip_jax.evals.validation import validation_loss
from clip_jax.evals.zero_shot import Row, class_embeddings, classify, prompt_tokens
from clip_jax.models.clip import AbstractModel
from clip_jax.plugins import load
from clip_jax.reuse import reuse
from clip_jax.storage.json_files import plain_json
from clip_jax.storage.record_fields import check_fields
from clip_jax.types import Params

if TYPE_CHECKING:
    from PIL.Image import Image

ROW_FIELDS = ("metric", "value", "low", "high", "examples", "chance")  # of an added evaluator
RESERVED = ("zero_shot_mean", "retrieval", "validation")  # tasks that are no classification set
SHOWN_CAPTIONS, SHOWN_IMAGES = 6, 5  # of the picture of retrieved examples


def zero_shot_sets(config: RunConfig, entries: tuple[str, ...]) -> list[ClassificationSet]:
    """Return the built-in tasks for the entry "scenes", the set in the folder for any other.

    Raises UserError when a folder is missing.
    """
    size, limit = config.model.image.image_size, config.evals.max_examples
    sets: list[ClassificationSet] = []
    for entry in entries:
        if entry == "scenes":
            from clip_jax.data.scenes.tasks import zero_shot_tasks

            sets += zero_shot_tasks(config.data.scenes, size, limit or 2000)
        elif not Path(entry).is_dir():
            reason = "must be a folder or the word scenes"
            raise UserError(field="evals.zero_shot, evals.unscored_tasks", value=entry, reason=reason)
        else:
            sets.append(load_classification_set(entry, size, limit, pixels=config.pixels))
    return sets


def mean_error(rows: list[Row], tasks: set[str], metric: str = "top1") -> float | None:
    """Return 1 - top-1 averaged over the named zero-shot tasks; None if there are none."""
    errors = [1.0 - r["value"] for r in rows if r["metric"] == metric and r["task"] in tasks]
    return float(np.mean(errors)) if errors else None


def summary_rows(rows: list[Row], counted: list[ClassificationSet]) -> list[Row]:
    """Return the mean errors over tasks, task ``zero_shot_mean``: one row for each variant that ``rows`` have.

    Args:
      rows: of the single tasks.
      counted: the tasks of the mean.
    """
    summary: list[Row] = []
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
        self, config: RunConfig, built: AbstractModel, mesh: Mesh, held_out: Source, tokenizer: Tokenizer,
        sets: list[ClassificationSet],
    ) -> None:  # fmt: skip
        self.config, self.sets, self.tokenizer = config, sets, tokenizer
        size = config.model.image.image_size
        data = config.data, config.evals, config.pixels, size, held_out.digest, tokenizer
        self.prompts = reuse(("prompts", *data), lambda: [prompt_tokens(s, tokenizer) for s in sets])
        self.pairs = reuse(("pairs", *data), lambda: validation_pairs(config, held_out, tokenizer))
        self.retrieval = reuse(("retrieval", *data), lambda: retrieval_set(config, held_out, tokenizer))
        mean, std, batch_size = config.pixels.mean, config.pixels.std, config.evals.batch_size
        self.encoder = reuse(
            ("encoder", config.model, config.deterministic, mesh, batch_size, mean, std),
            lambda: Encoder(built, mesh, batch_size, mean=mean, std=std),
        )

    @property
    def flops(self) -> float:
        """Forward FLOPs of one evaluation."""
        per_pair, others = flops.flops_per_sample(self.config.model), (self.pairs, self.retrieval)
        images = sum(len(s.images) for s in self.sets) + sum(len(o["images"]) for o in others)
        texts = sum(len(p) for p in self.prompts) + sum(len(o["tokens"]) for o in others)
        return float(images * per_pair.image + texts * per_pair.text)

    def __call__(self, params: Params) -> tuple[list[Row], list[Row]]:
        """Return the rows of the zero-shot tasks, and the other rows."""
        encoder, rows = self.encoder, []
        for task, tokens in zip(self.sets, self.prompts, strict=True):
            prompts = encoder.texts(params, tokens, f"{task.name}: ")
            classes = class_embeddings(prompts, len(task.class_names))
            rows += classify(task, encoder.images(params, task.images, f"{task.name}: "), classes)
        image_of_text = self.retrieval["image_of_text"]
        images = encoder.images(params, self.retrieval["images"], "retrieval: ")
        texts = encoder.texts(params, self.retrieval["tokens"], "retrieval: ")
        other = recalls(images, texts, image_of_text)
        self._shown = best_images(images, texts, image_of_text, SHOWN_CAPTIONS, SHOWN_IMAGES)
        scale = float(np.exp(np.asarray(jax.device_get(params["logit_scale"]))))
        scale = min(scale, self.config.model.max_logit_scale)
        other += validation_loss(
            encoder.images(params, self.pairs["images"], "validation: "),
            encoder.texts(params, self.pairs["tokens"], "validation: "), scale,
            len(self.pairs["tokens"]) // self.config.evals.val_partitions,
        )  # fmt: skip
        return rows, other

    def pictures(self) -> dict[str, Image]:
        """Return pictures of the last call: held-out captions, each with the images that the model ranks first."""
        from clip_jax.evals.figures import retrieved

        images, tokens = self.retrieval["images"], self.retrieval["tokens"]
        examples = [
            (self.tokenizer.decode(tokens[text]), [(images[n], bool(n == correct)) for n in ranked])
            for text, correct, *ranked in self._shown
        ]
        return {"retrieval/examples": retrieved(examples).picture()}


# a model -> rows {metric, value} and any of {low, high, examples, chance}
AddedEvaluator = Callable[[EmbeddingModel], Iterable[Mapping[str, object]]]


def added_rows(task: str, evaluator: AddedEvaluator, model: EmbeddingModel) -> list[Row]:
    """Return the rows of an added evaluator under its name.

    Raises:
      UserError: a row lacks its metric or value, has other fields or one of another type, or repeats a metric.
    """
    rows: list[Row] = []
    for measured in evaluator(model):
        if not isinstance(measured, Mapping) or not {"metric", "value"} <= set(measured) <= set(ROW_FIELDS):
            reason = f"returned {short(measured)}"
            hint = f"a row needs metric and value, and may have {', '.join(ROW_FIELDS[2:])}"
            raise UserError(field="evaluators", value=task, reason=reason, hint=hint)
        check_fields("evals.jsonl", plain_json({"task": task, "step": 0, **measured}), f"evaluators={task}")
        if any(measured["metric"] == row["metric"] for row in rows):
            raise UserError(field="evaluators", value=task, reason=f"returned {short(measured['metric'])} twice")
        rows.append(cast(Row, {"task": task, "examples": None, "chance": None, **measured}))
    return rows


@dataclass(frozen=True)
class Evaluator:
    """A function of the parameters to rows {task, metric, value, low, high, examples, chance}.

    ``flops`` are the forward FLOPs of one call, without those of the added evaluators.
    """

    measure: Callable[[Params], tuple[list[Row], list[Row]]]
    counted: list[ClassificationSet]  # without the controls
    flops: float
    added: Mapping[str, AddedEvaluator]
    model: EmbeddingModel | None  # for the added evaluators
    pictures: Callable[[], dict[str, Image]] = dict  # of the last call, for trackers

    def __call__(self, params: Params) -> list[Row]:
        rows, other = self.measure(params)
        rows = rows + summary_rows(rows, self.counted) + other
        if self.model is not None:
            model = self.model.with_params(params)
            rows += [row for task, evaluator in self.added.items() for row in added_rows(task, evaluator, model)]
        return rows


def make_evaluator(
    config: RunConfig,
    built: AbstractModel,
    mesh: Mesh,
    held_out: Source,
    tokenizer: Tokenizer,
    evaluators: Mapping[str, AddedEvaluator] | None = None,
) -> Evaluator:
    """Return the evaluator of a run. Data is read and tokenized once, now.

    Its rows: zero-shot tasks, controls, those of the objective (retrieval, validation), and the mean over the tasks
    without the controls: task ``zero_shot_mean``, metric ``error`` (for a predictive objective also ``error_raw`` and
    ``error_prior``); then those of ``evals.evaluators`` and of ``evaluators`` {task: function}, see
    `clip_jax.train_run`.

    Raises UserError when data is missing, or two tasks share a name.
    """
    added = {
        name: cast(AddedEvaluator, load("evals.evaluators", name, "evaluators")) for name in config.evals.evaluators
    }
    if repeated := added.keys() & (evaluators or {}).keys():
        raise UserError(field="evaluators", value=min(repeated), reason="is also named in evals.evaluators")
    added |= evaluators or {}
    counted, controls = (
        reuse(
            ("sets", entries, config.model.image.image_size, config.evals.max_examples, config.data, config.pixels),
            lambda entries=entries: zero_shot_sets(config, entries),  # type: ignore[misc]
        )
        for entries in (config.evals.zero_shot, config.evals.unscored_tasks)
    )
    sets = counted + controls
    names = [s.name for s in sets]
    for name, function in added.items():
        if not callable(function):
            raise UserError(field="evaluators", value=name, reason=f"{short(function)} is not a function")
        if name in (*names, *RESERVED):
            raise UserError(field="evaluators", value=name, reason="is already a task of the run's evaluation")
    if len(set(names)) < len(names):
        field = "evals.zero_shot, evals.unscored_tasks"
        raise UserError(field=field, value=names, reason="two tasks have the same name")
    kind = ContrastiveEvaluation if config.model.objective == "contrastive" else PredictiveEvaluation
    measure = kind(config, built, mesh, held_out, tokenizer, sets)
    model = None
    if added:
        preprocess = Preprocess.from_pixels(config.model.image.image_size, config.pixels)
        model = EmbeddingModel("the run", config.model, built, mesh, {}, preprocess, tokenizer, config.evals.batch_size)
    return Evaluator(measure, counted, measure.flops, added, model, getattr(measure, "pictures", dict))

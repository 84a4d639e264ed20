"""Zero-shot classification by models that predict the caption, in two variants.

``raw``: the score of a class is log p(its text | image): for a caption language model, the sum over a whole prompt,
averaged over templates; for a bag of words, the mean over the words of the class name. ``prior``: the same, minus the
mean score of the class over unlabeled training images, which removes that some texts are likelier for every image.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from clip_jax import flops
from clip_jax.config import PixelConfig, RunConfig
from clip_jax.data.images.train_transforms import DEFAULT_PIXELS, normalize
from clip_jax.data.labeled.classification import ClassificationSet
from clip_jax.data.open import open_source
from clip_jax.data.pipeline.loader import sample_captions, sample_images, validation_pairs
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.distributed.mesh import batch_sharding, replicated
from clip_jax.evals.encode import Compiled, Take, in_batches
from clip_jax.evals.zero_shot import Row, prompt_tokens, score_rows
from clip_jax.finite import finite_rows
from clip_jax.losses.predictive import log_softmax_rows, row_losses
from clip_jax.models.clip import AbstractModel
from clip_jax.models.predictive import TokenPrediction
from clip_jax.types import Params, PyTree

Scores = dict[str, np.ndarray]  # variant -> [N, classes]
Spelling = tuple[int, ...]  # tokens of a word


def pair_losses(prediction: TokenPrediction) -> tuple[jax.Array, jax.Array]:
    """Return each pair's summed loss in nats and its total weight, [B] each.

    Logits are formed for one row of each pair at a time.
    """

    def row(of: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return row_losses(of[0], prediction.head, of[1], of[2])

    rows = tuple(jnp.swapaxes(x, 0, 1) for x in (prediction.states, prediction.labels, prediction.weights))
    return jax.lax.map(row, rows).sum(axis=0), prediction.weights.sum(axis=(1, 2))


class Predictor:
    """Compiled functions of a predictive model. Host arrays in and out, float32.

    Raises NotFinite naming the image's row when a result is not finite.
    """

    def __init__(self, built: AbstractModel, mesh: Mesh, batch_size: int, pixels: PixelConfig = DEFAULT_PIXELS) -> None:
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._sharding, self._dtype = batch_sharding(mesh), built.compute_dtype

        def normalized(images: jax.Array) -> jax.Array:
            return normalize(images, pixels.mean, pixels.std)

        def context(params: Params, images: jax.Array) -> jax.Array:
            return nnx.merge(built.graphdef, params).context(normalized(images)).astype(jnp.float32)

        def log_likelihood(params: Params, context: jax.Array, tokens: jax.Array) -> jax.Array:
            head = nnx.merge(built.graphdef, params).text
            return -pair_losses(head.predict(context.astype(head.dtype), tokens))[0]

        def losses(params: Params, images: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
            return pair_losses(nnx.merge(built.graphdef, params)(normalized(images), tokens))

        def words(params: Params, images: jax.Array, columns: jax.Array) -> jax.Array:
            model = nnx.merge(built.graphdef, params)
            return log_softmax_rows(model.context(normalized(images)), model.text.head())[:, columns]

        rows, whole = self._sharding, replicated(mesh)

        def compiled(function: Callable[..., PyTree], *arguments: NamedSharding) -> jax.stages.Wrapped:
            return jax.jit(function, in_shardings=(built.shardings, *arguments), out_shardings=whole)

        self._context, self._words = compiled(context, rows), compiled(words, rows, whole)
        self._log_likelihood, self._losses = compiled(log_likelihood, rows, rows), compiled(losses, rows, rows)

    def _run(self, function: Compiled, params: Params, take: Take, count: int, what: str, per_picture: int = 1) -> Any:
        outputs = in_batches(function, params, take, count, self.batch_size, self._sharding)
        for values in outputs if isinstance(outputs, tuple) else (outputs,):
            finite_rows(values, what, lambda row: f"picture {row // per_picture}", dtype=self._dtype)
        return outputs

    def contexts(self, params: Params, images: np.ndarray) -> np.ndarray:
        """Return the prefix tokens [N, P, D] that the caption language model gets for uint8 [N, H, W, 3]."""
        return self._run(self._context, params, lambda i: (images[i],), len(images), "features")

    def prompt_scores(self, params: Params, contexts: np.ndarray, prompts: np.ndarray) -> np.ndarray:
        """Return log p(prompt | image) [N, M] of `contexts` [N, P, D] and prompts int32 [M, T], one pass per pair."""
        n, m = len(contexts), len(prompts)
        pairs = self._run(
            self._log_likelihood, params, lambda i: (contexts[i // m], prompts[i % m]), n * m, "scores", m
        )
        return pairs.reshape(n, m)

    def word_scores(self, params: Params, images: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return log p(word | image) [N, K] of a bag-of-words model for the vocabulary entries ``columns``, int [K]."""

        def chosen(params: Params, images: jax.Array) -> jax.Array:
            return self._words(params, images, columns)

        return self._run(chosen, params, lambda i: (images[i],), len(images), "scores")

    def loss(self, params: Params, images: np.ndarray, tokens: np.ndarray) -> float:
        """Return the training objective on the pairs as if they were one batch."""
        total, weight = self._run(self._losses, params, lambda i: (images[i], tokens[i]), len(images), "loss")
        return float(total.sum(dtype=np.float64) / max(weight.sum(dtype=np.float64), 1.0))


def spelled_words(texts: Iterable[str], tokenizer: Tokenizer) -> set[Spelling]:
    """Return the distinct words of some texts, without surrounding punctuation, each as its tokens."""
    words = sorted({word for text in texts for word in _words(text)})
    return set(_spellings(words, tokenizer))


def _words(text: str) -> list[str]:
    return [word for part in text.split() if (word := part.strip(string.punctuation))]


def _spellings(words: list[str], tokenizer: Tokenizer) -> list[Spelling]:
    rows = tokenizer.encode(words) if words else np.zeros((0, 2), np.int32)
    # between the start and the end, which has the largest id
    return [tuple(row[1 : int(row[1:].argmax()) + 1].tolist()) for row in rows]


def word_weights(names: tuple[str, ...], tokenizer: Tokenizer, known: set[Spelling]) -> np.ndarray:
    """Return the weight of each vocabulary entry in each class: float32 [classes, V].

    A class is the mean over the words of its name that are ``known`` (those of the training captions), a word the mean
    over its tokens. A class without a known word has a row of zeros.
    """
    weights = np.zeros((len(names), tokenizer.vocab_size), np.float32)
    for row, name in zip(weights, names, strict=True):
        covered = [tokens for tokens in _spellings(_words(name), tokenizer) if tokens in known]
        for tokens in covered:
            np.add.at(row, list(tokens), 1 / (len(tokens) * len(covered)))
    return weights


class PredictiveEvaluation:
    """Evaluation of a predictive model: zero-shot tasks and validation loss. Data is read when constructed.

    ``error_mean`` and the rows ``top1``, ``top5`` and ``mean_per_class`` are of the variant ``evals.predictive_score``;
    ``top1_raw`` and ``top1_prior`` are reported in any case. Retrieval is not measured.
    """

    def __init__(
        self, config: RunConfig, built: AbstractModel, mesh: Mesh, held_out: Source, tokenizer: Tokenizer,
        sets: list[ClassificationSet],
    ) -> None:  # fmt: skip
        source = open_source(config.data, "train", config.model.image.image_size)
        self.config, self.sets = config, sets
        self.predictor = Predictor(built, mesh, config.evals.batch_size, config.pixels)
        self.pairs = validation_pairs(config, held_out, tokenizer)
        self.unlabeled = sample_images(config, source, config.evals.prior_images)
        if config.model.objective == "caption":
            prompts = [prompt_tokens(s, tokenizer) for s in sets]
            used = max((int(p.argmax(axis=1).max()) + 1 for p in prompts), default=0)  # length of the longest prompt
            self.texts = [p[:, :used] for p in prompts]
        else:
            known = spelled_words(sample_captions(config, source), tokenizer)
            weights = [word_weights(s.class_names, tokenizer, known) for s in sets]
            self.columns = np.flatnonzero(sum(w.any(axis=0) for w in weights))
            self.texts = [w[:, self.columns] for w in weights]

    @property
    def flops(self) -> float:
        """Forward FLOPs of one evaluation."""
        model, per_pair = self.config.model, flops.flops_per_sample(self.config.model)
        total = float(len(self.pairs["images"]) * per_pair.total)
        images = sum(len(s.images) for s in self.sets) + len(self.unlabeled) * bool(self.sets)
        if model.objective == "bag_of_words":
            return total + images * per_pair.total
        total += images * (per_pair.image + 2 * model.embed_dim * model.prefix_tokens * model.text.width)
        for task, prompts in zip(self.sets, self.texts, strict=True):
            passes = (len(task.images) + len(self.unlabeled)) * len(prompts)
            total += passes * flops.caption_flops(model, prompts.shape[1])
        return total

    def __call__(self, params: Params) -> tuple[list[Row], list[Row]]:
        """Return the rows of the zero-shot tasks, and the other rows."""
        model, predictor, rows = self.config.model, self.predictor, []
        if self.sets:
            of_task = self.caption_scores(params) if model.objective == "caption" else self.word_scores(params)
        for task, texts in zip(self.sets, self.texts, strict=True):
            scores = of_task(task, texts)
            rows += score_rows(task, scores[self.config.evals.predictive_score])
            rows += [{**score_rows(task, scores[v])[0], "metric": f"top1_{v}"} for v in ("raw", "prior")]
            if model.objective == "bag_of_words":
                uncovered = float((~texts.any(axis=1)).sum())
                rows.append({"task": task.name, "metric": "uncovered_classes", "value": uncovered,
                             "examples": len(texts), "chance": None})  # fmt: skip
        # a separate name: this is not InfoNCE and must not be compared with it
        other: Row = {
            "task": "validation",
            "metric": f"{model.objective}_loss",
            "value": predictor.loss(params, self.pairs["images"], self.pairs["tokens"]),
            "examples": len(self.pairs["images"]),
            "chance": float(np.log(model.text.vocab_size)),
        }
        return rows, [other]

    def caption_scores(self, params: Params) -> Callable[[ClassificationSet, np.ndarray], Scores]:
        """Return a function (task, prompts int32 [classes × templates, T]) -> scores of a caption language model."""

        def of_classes(contexts: np.ndarray, prompts: np.ndarray, classes: int) -> np.ndarray:
            scores = self.predictor.prompt_scores(params, contexts, prompts)
            return scores.reshape(len(contexts), classes, -1).mean(axis=2)

        unlabeled = self.predictor.contexts(params, self.unlabeled)

        def of_task(task: ClassificationSet, prompts: np.ndarray) -> Scores:
            classes = len(task.class_names)
            raw = of_classes(self.predictor.contexts(params, task.images), prompts, classes)
            return {"raw": raw, "prior": raw - of_classes(unlabeled, prompts, classes).mean(axis=0)}

        return of_task

    def word_scores(self, params: Params) -> Callable[[ClassificationSet, np.ndarray], Scores]:
        """Return a function (task, `word_weights` of the columns [classes, K]) -> scores of a bag-of-words model."""
        logs = self.predictor.word_scores(params, self.unlabeled, self.columns)
        prior = np.logaddexp.reduce(logs, axis=0) - np.log(len(logs))  # log of the mean probability, without underflow

        def of_task(task: ClassificationSet, weights: np.ndarray) -> Scores:
            log_probs = self.predictor.word_scores(params, task.images, self.columns)
            variants = {"raw": log_probs @ weights.T, "prior": (log_probs - prior) @ weights.T}
            return {name: np.where(weights.any(axis=1), scores, -np.inf) for name, scores in variants.items()}

        return of_task

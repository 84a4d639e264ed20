"""Inference with a trained or published model, its export, and initializing a run from one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from clip_jax.config import ModelConfig, RunConfig
from clip_jax.data.images.eval_preprocess import Preprocess, picture_name
from clip_jax.data.tokenizers.learned_bpe import Tokenizer, with_context
from clip_jax.distributed.mesh import enable_compile_cache, make_mesh
from clip_jax.errors import UserError
from clip_jax.evals.encode import Encoder
from clip_jax.evals.zero_shot import class_embeddings
from clip_jax.finite import NotFinite, finite_tensors
from clip_jax.models.clip import CLIP, build
from clip_jax.models.execution import on_any_device
from clip_jax.models.positions import resize_image_positions, resize_text_positions
from clip_jax.models.predictive import Predictive
from clip_jax.pretrained.load import Weights, load_weights, save_weights
from clip_jax.pretrained.mapping import flatten, nest, path_name
from clip_jax.pretrained.names import Fetch, hub_fetch
from clip_jax.storage.paths import SCHEME, as_path, is_url
from clip_jax.train.checkpoint import load_params
from clip_jax.train.inputs import read_tokenizer
from clip_jax.train.loop import InitState
from clip_jax.train.pixels import warn_without_pixels, with_pixels
from clip_jax.train.run_directory import read_config


class LoadedModel:
    """A model with its image preprocessing and tokenizer. Embeddings are float32 and of unit length.

    Args:
      weights: the model, from `read_weights` or `pretrained.load.load_weights`.
      batch_size: inputs per call of the compiled functions.
    """

    def __init__(self, weights: Weights, batch_size: int = 64) -> None:
        enable_compile_cache()
        self.name, self.config, self.preprocess = weights.name, weights.config, weights.preprocess
        self._tokenizer, self.digest = weights.tokenizer, weights.digest
        self.precision = weights.config.compute_dtype
        mesh = make_mesh(RunConfig().mesh)
        built = build(weights.config, mesh)
        flat = flatten(weights.params)
        self.params = jax.tree_util.tree_map_with_path(
            lambda path, sharding: jax.device_put(flat[path_name(path)], sharding), built.shardings
        )
        self._graphdef = built.graphdef
        self._encoder = Encoder(
            built, mesh, batch_size, mean=self.preprocess.mean, std=self.preprocess.std,
            exact=self.precision == "float32",
        )  # fmt: skip

    @property
    def module(self) -> CLIP | Predictive:
        """The Flax module with these weights, for use in JAX code: `CLIP`, or `Predictive` for predictive objectives.

        It takes normalized floats; ``preprocess`` has the mean and standard deviation.
        """
        return nnx.merge(self._graphdef, self.params)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; raises UserError if the weights came without one."""
        if self._tokenizer is None:
            raise UserError(
                field=self.name,
                reason="has no tokenizer (tokenizer.json), so texts cannot be embedded",
            )
        return self._tokenizer

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        """Embed images.

        Args:
          images: paths, encoded bytes, PIL images or uint8 arrays [H, W, 3].

        Returns:
          Embeddings [N, E].

        Raises:
          UserError: an image cannot be read, or its embedding is not finite; the message names it.
        """
        try:
            return self.embed_pixels(self.preprocess.batch(list(images)))
        except NotFinite as error:
            raise error.renamed(picture_name(images[error.row], error.row)) from None

    def embed_pixels(self, images: np.ndarray) -> np.ndarray:
        """Embed preprocessed images, uint8 [N, size, size, 3] -> [N, E]."""
        return self._encoder.images(self.params, images)

    def embed_and_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embed preprocessed images, uint8 [N, size, size, 3], and also return the features before the projection.

        Returns:
          Embeddings [N, E] and features [N, D].
        """
        return self._encoder.images_and_features(self.params, images)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts -> [N, E].

        Raises UserError for a predictive model, which has image embeddings only, and for a text whose embedding is not
        finite.
        """
        if self.config.objective != "contrastive":
            reason = f"has no text embeddings: it predicts captions (model.objective={self.config.objective!r})"
            hint = "linear_probe, few_shot and knn need none, and `clip-jax eval RUN_DIR` measures its zero-shot tasks"
            raise UserError(field=self.name, reason=reason, hint=hint)
        try:
            return self._encoder.texts(self.params, self.tokenizer.encode(list(texts)))
        except NotFinite as error:
            raise error.renamed(repr(texts[error.row])) from None

    def text_states(self, texts: Sequence[str], layer: int = -1, *, final_norm: bool = True) -> np.ndarray:
        """Return the text states that image generators condition on, float32 [N, T, D].

        Args:
          texts: N texts.
          layer: the block, counted from the end: -1 is the last one.
          final_norm: whether to apply the final layer norm.

        Raises:
          ValueError: there is no such layer.
        """
        return self._encoder.text_states(self.params, self.tokenizer.encode(list(texts)), layer, final_norm)

    def classify(
        self, images: Sequence[Any], labels: Sequence[str], templates: Sequence[str] = ("a photo of {c}.",)
    ) -> np.ndarray:
        """Classify images zero-shot.

        Args:
          images: as in `embed_images`.
          labels: names of the classes, at least two.
          templates: prompts in which ``{c}`` stands for the label; their embeddings are averaged per label.

        Returns:
          Probabilities [N, labels].

        Raises:
          UserError: fewer than two labels, a template without ``{c}``, or an image that cannot be read.
        """
        if len(labels) < 2:
            raise UserError(field="labels", value=list(labels), reason="must be at least two, to choose from")
        for template in templates:
            if "{c}" not in template:
                raise UserError(field="templates", value=template, reason="has no {c}, the place of the class name")
        prompts = self.embed_texts([t.replace("{c}", label) for label in labels for t in templates])
        scores = self.scale * self.embed_images(images) @ class_embeddings(prompts, len(labels)).T
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    @property
    def scale(self) -> float:
        """The logit scale."""
        return min(float(np.exp(np.asarray(self.params["logit_scale"]))), self.config.max_logit_scale)


def is_run(name: str) -> bool:
    """Return whether the path is the directory of a training run."""
    if is_url(name) and not name.startswith(SCHEME):
        return False
    return (as_path(name) / "checkpoints").is_dir() and (as_path(name) / "config.json").exists()


def read_weights(name: str, *, fetch: Fetch = hub_fetch) -> Weights:
    """Read the weights of a run (its last checkpoint), a path, or a published name. Raises UserError."""
    if not is_run(name):
        return load_weights(name, fetch=fetch)
    begun = read_config(as_path(name))
    assert begun is not None
    run = with_pixels(begun, as_path(name))
    warn_without_pixels(run, as_path(name))
    config = on_any_device(run.model)
    built = build(config, make_mesh(RunConfig().mesh))
    _, params = load_params(name, built)
    arrays = {k: np.asarray(v) for k, v in flatten(params).items()}
    finite_tensors(name, arrays.items())
    tokenizer = read_tokenizer(as_path(name), config)
    return Weights(name, config, nest(arrays), Preprocess.from_pixels(config.image.image_size, run.pixels), tokenizer)


def load_model(
    name: str, *, batch_size: int = 64, compute_dtype: str = "float32", fetch: Fetch = hub_fetch
) -> LoadedModel:
    """Load a model for inference.

    Args:
      name: ``openai/ViT-B-32``, ``open_clip:MODEL/TAG``, ``hf:OWNER/NAME``, a weights file or folder, or a run
        directory.
      batch_size: inputs per call of the compiled functions.
      compute_dtype: float32 (full precision, on accelerators too) | bfloat16 | float16.
      fetch: function that gets files from the hub; by default through its cache.

    Raises:
      UserError: there is no such model, or its files are broken.
    """
    weights = read_weights(name, fetch=fetch)
    shape = dataclasses.replace(weights.config, compute_dtype=compute_dtype)
    return LoadedModel(dataclasses.replace(weights, config=shape), batch_size)


def export(name: str, folder: str | Path, layout: str = "open_clip") -> None:
    """Write a model in the layout of open_clip or transformers.

    Args:
      name: the model, as in `load_model`.
      folder: where to write; created if missing.
      layout: ``open_clip`` or ``transformers``.

    Raises:
      UserError: the libraries have no such model, because it is predictive or has a bag of words as text tower.
    """
    weights = read_weights(name)
    objective, encoder = weights.config.objective, weights.config.text.encoder
    if objective != "contrastive" or encoder != "transformer":
        raise UserError(
            field=name,
            reason=f"model.objective={objective!r} with model.text.encoder={encoder!r} cannot be exported",
            hint="the layouts hold contrastive models with a text transformer",
        )
    save_weights(weights, folder, layout)


# Fields that may differ between the source weights and the run that starts from them: image size and context length
# (positions are resized), and how training treats the model.
_MAY_DIFFER = {
    "image": ("image_size", "patch_dropout"),
    "text": ("context_length",),
}


def _check_same_shape(run: ModelConfig, loaded: ModelConfig, towers: tuple[str, ...], source: str) -> None:
    if "text" in towers and run.objective != loaded.objective:
        raise UserError(
            field="model.objective",
            value=run.objective,
            reason=f"init_from.source={source} has {loaded.objective!r}",
            hint="init_from.tower='image' takes the image tower alone",
        )
    for tower in towers:
        a, b = dataclasses.asdict(getattr(run, tower)), dataclasses.asdict(getattr(loaded, tower))
        for field in a:
            if field not in _MAY_DIFFER[tower] and a[field] != b[field]:
                reason = f"init_from.source={source} has {b[field]!r}"
                raise UserError(field=f"model.{tower}.{field}", value=a[field], reason=reason)
    of_text = ("activation_of_text",) if "text" in towers else ()
    for field in ("embed_dim", *(("activation",) if "image" in towers else ()), *of_text):
        if getattr(run, field) != getattr(loaded, field):
            name = field.replace("activation_of_text", "text_activation")
            reason = f"init_from.source={source} has {getattr(loaded, field)!r}"
            raise UserError(field=f"model.{name}", value=getattr(run, field), reason=reason)


def start_from(config: RunConfig, *, fetch: Fetch = hub_fetch) -> InitState:
    """Read what ``init_from`` names: initial parameters, the text tower's tokenizer, and the image preprocessing.

    The tensors of the chosen towers come from the source, with positions resized to the run's resolution and context
    length. If both towers are chosen, temperature, logit bias and decoder come from the source too. The preprocessing
    is the one that the image tower was trained with.

    Args:
      config: the run.
      fetch: function that gets files from the hub; by default through its cache.

    Raises:
      UserError: the source's shape differs from the run's, or it has no tokenizer for its text tower.
    """
    source, chosen = config.init_from.source, config.init_from.tower
    weights = read_weights(source, fetch=fetch)
    towers = ("image", "text") if chosen == "both" else (chosen,)
    _check_same_shape(config.model, weights.config, towers, source)
    tensors = flatten(weights.params)

    def take(path: tuple[Any, ...], value: Any) -> Any:
        name = path_name(path)
        tower = name.split("/")[0]
        if tower not in towers and not (chosen == "both" and name in tensors):
            return value
        if name not in tensors:
            raise UserError(field="init_from.source", value=source, reason=f"has no parameter {name}")
        array = np.asarray(tensors[name])
        if name in ("image/position", "image/pool/position"):
            side = config.model.image.image_size // config.model.image.patch_size
            array = resize_image_positions(array, (side, side), int(config.model.image.class_token))
        elif name == "text/position" and config.model.objective == "contrastive":
            array = resize_text_positions(array, config.model.text.tokens)
        if array.shape != value.shape:
            raise UserError(
                field="init_from.source", value=source, reason=f"{name} is {array.shape}, the run has {value.shape}"
            )
        return jax.device_put(array.astype(value.dtype), value.sharding)

    tokenizer = None
    if "text" in towers:
        if weights.tokenizer is None:
            raise UserError(
                field="init_from.source",
                value=source,
                reason="has no tokenizer (tokenizer.json), so its text tower cannot be used",
            )
        tokenizer = with_context(weights.tokenizer, config.model.text.context_length)
    pixels = weights.preprocess.pixels if "image" in towers else None
    return InitState(lambda fresh: jax.tree_util.tree_map_with_path(take, fresh), tokenizer, pixels)
